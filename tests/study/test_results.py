"""The result files of a study: each has a name of its own."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from crossflow.core.errors import CrossflowError
from crossflow.study.parameters import read_study
from crossflow.study.results import result_files


@pytest.fixture
def config(repo: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((repo / "params.yaml").read_text())
    loaded["datasets"]["own"] = {"kind": "table", "file": "own.csv", "pictures": "pictures"}
    return loaded


def _files(config: dict[str, Any], models: list[str], categories: list[str]) -> list[str]:
    model = config["models"]["mini-llava"]
    study = {"dataset": "own", "models": models, "categories": categories, "flows": ["question->last"]}
    named = config | {"study": "s", "studies": {"s": study}, "models": dict.fromkeys(models, model)}
    return [file for files in result_files(read_study(named)).values() for file in files]


def test_every_result_of_the_shipped_studies_has_a_name_of_its_own(config: dict[str, Any]) -> None:
    for name in config["studies"]:
        files = [file for files in result_files(read_study(config | {"study": name})).values() for file in files]
        assert len(files) == len(set(files))


@pytest.mark.parametrize(
    ("models", "categories", "shared"),
    [
        (["mini", "mini-llava"], ["llava-side", "side"], "figures/examples-mini-llava-side.pdf"),
        (["m", "published-m"], ["side"], "figures/logit-lens-published-m.pdf"),
        (["m"], ["side", "Side"], "questions/Side.csv"),
    ],
)
def test_names_that_make_one_file_name_are_refused(
    config: dict[str, Any], models: list[str], categories: list[str], shared: str
) -> None:
    with pytest.raises(CrossflowError, match=f"studies.s: two results would be the same file, results/s/{shared} "):
        _files(config, models, categories)
    for name in models:
        assert _files(config, [name], categories[:1])


def test_models_and_categories_whose_names_only_look_alike_are_told_apart(config: dict[str, Any]) -> None:
    files = _files(config, ["mini", "mini-llava"], ["llava-side", "other"])
    assert len(files) == len(set(files))


def test_tables_and_figures_of_the_fusion_depth_belong_to_studies_that_compute_what_they_need(
    config: dict[str, Any],
) -> None:
    study = config["studies"]["mini-windows"]

    def fusion(**changed: Any) -> set[str]:
        named = config | {"study": "s", "studies": {"s": study | changed}}
        files = (file for files in result_files(read_study(named)).values() for file in files)
        return {Path(file).name for file in files if "fusion" in file}

    tables, figures = {"fusion.csv", "fusion_depth.csv"}, {f"fusion-depth-mini-llava.{kind}" for kind in ("pdf", "png")}
    assert fusion(baselines=["swapped"]) == tables | figures
    assert fusion() == fusion(baselines=["swapped"], windows=[3]) == set()


def test_tables_and_figures_of_heads_and_substitutions_belong_to_studies_that_ask_for_them(
    config: dict[str, Any],
) -> None:
    study = config["studies"]["mini-windows"]

    def added(**changed: Any) -> set[str]:
        """Result files that are there by the change alone."""
        found = []
        for changes in ({}, changed):
            named = config | {"study": "s", "studies": {"s": study | changes}}
            found.append({file for files in result_files(read_study(named)).values() for file in files})
        return {file.removeprefix("results/s/") for file in found[1] - found[0]}

    tables = {f"heads/mini-llava/{category}.parquet" for category in study["categories"]}
    each = {"summary/heads.csv", "summary/top_heads.csv"}
    each |= {f"figures/heads-mini-llava.{suffix}" for suffix in ("pdf", "png")}
    attention = {"summary/head_attention.csv"} | {f"figures/attention-mini-llava.{suffix}" for suffix in ("pdf", "png")}
    subsets = {"summary/head_subsets.csv"} | {f"figures/head-subsets-mini-llava.{suffix}" for suffix in ("pdf", "png")}
    assert added(heads={"flows": ["image->last"]}) == tables | each | attention
    assert added(heads={"flows": ["image=mean->last"], "subsets": 4}) == tables | each | subsets
    assert added(heads={"flows": ["image->last"], "subsets": 4, "each": False}) == tables | subsets
    figures = {
        f"figures/substitution-mini-llava-w{window}.{suffix}"
        for window in study["windows"]
        for suffix in ("pdf", "png")
    }
    assert added(flows=[*study["flows"], "image=mean->question"]) == figures


def test_pairs_belong_to_studies_that_patch_and_their_images_to_those_in_the_mini_world(config: dict[str, Any]) -> None:
    def pairs(dataset: str, **changed: Any) -> set[str]:
        study = config["studies"]["mini-windows"] | {"dataset": dataset, "categories": ["ChooseRel"]} | changed
        files = result_files(read_study(config | {"study": "s", "studies": {"s": study}}))["pairs"]
        return {file.removeprefix("results/s/pairs/") for file in files}

    tables = {"ChooseRel.csv", "ChooseRel.rejections.csv"}
    assert pairs("shapes", patching={}) == tables | {"ChooseRel.zip"}
    assert pairs("gqa", patching={}) == tables
    assert pairs("shapes") == set()


def test_heads_without_anything_to_knock_out_or_with_an_unknown_flow_are_refused(config: dict[str, Any]) -> None:
    for heads, message in (
        ({"flows": ["image->last"], "each": False}, r"studies\.s\.heads: with each: false, subsets must be at least 1"),
        ({"flows": ["image->end"]}, r"studies\.s\.heads\.flows: Flow 'image->end': unknown position set 'end'"),
    ):
        study = config["studies"]["mini"] | {"heads": heads}
        with pytest.raises(CrossflowError, match=message):
            read_study(config | {"study": "s", "studies": {"s": study}})


def test_the_verb_of_an_experiment_gets_what_the_study_says(config: dict[str, Any]) -> None:
    def options(name: str, **given: Any) -> list[str]:
        study = read_study(config | {"study": "s", "studies": {"s": config["studies"]["mini"] | {name: given}}})
        return study.experiments[name].options(study)

    common = ["--flows", "image->last", "--seed", "0", "--engine", "knockout"]
    for heads, further in (
        ({}, []),
        ({"layers": [0, 2]}, ["--layers", "0", "2"]),
        ({"subsets": 8, "each": False}, ["--only-subsets", "--subsets", "8", "--share", "0.5"]),
        ({"subsets": 8, "share": 0.1}, ["--subsets", "8", "--share", "0.1"]),
    ):
        assert options("heads", flows=["image->last"], **heads) == common + further
    assert options("image_lens") == ["--words", "5", "--maps", "4", "--seed", "0"]
    assert options("image_lens", words=2, maps=0) == ["--words", "2", "--maps", "0", "--seed", "0"]

"""The workflow itself: real Snakemake, in a copy of the tree, as a person would run it."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from copied import AFTER_ANSWERS, AFTER_KNOCKOUT, BIN, FIGURES, RECORD, SUMMARY, Copy, Tree
from crossflow.analysis.tables import ACCURACY, COUNTS, EFFECTS
from crossflow.core.flows import CONTROL_FLOWS, PUBLISHED_FLOWS
from crossflow.core.measures import KNOCKOUT
from crossflow.core.tables import ANSWERS, read_csv, read_parquet
from crossflow.figures.kinds import flows_by_kind
from finished_study import Finished
from published import FLOWS, SHIPPED, TOLERANCE, WINDOWS, Published

pytestmark = pytest.mark.workflow

CATEGORIES = ["ChooseAttr", "ChooseCat", "ChooseRel", "CompareAttr", "LogicalObj", "QueryAttr"]


def _check_study(
    results: Path, categories: list[str], model: str, windows: list[str], layers: int, figures: bool = True
) -> None:
    """The tables of a finished study are complete and agree with one another."""
    effects = pd.read_csv(results / "summary" / "effects.csv", dtype={"window": str})
    assert list(effects.columns) == list(EFFECTS)
    flows = list(dict.fromkeys(effects.flow))
    assert len(effects) == len(categories) * len(flows) * len(windows) * layers
    measured = effects[effects.n > 0]
    assert measured["mean"].notna().all()
    bounded = measured.dropna(subset=["low", "high"])  # a single image has a mean and no interval
    assert len(bounded)
    assert (bounded.low <= bounded["mean"]).all()
    assert (bounded["mean"] <= bounded.high).all()
    counts = pd.read_csv(results / "summary" / "counts.csv")
    assert list(counts.columns) == list(COUNTS)
    assert (counts.questions == counts.skipped + counts.excluded + counts.missing + counts.n).all()
    assert list(pd.read_csv(results / "summary" / "answers.csv").columns) == list(ACCURACY)
    for kind in flows_by_kind(flows) if figures else ():
        for window in windows:
            for suffix, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
                figure = results / "figures" / f"{kind}-{model}-w{window}.{suffix}"
                assert figure.read_bytes().startswith(magic)


def test_the_mini_study_runs_as_shipped_and_leaves_nothing_to_do(repo: Path, tmp_path: Path) -> None:
    copy = Copy(repo, tmp_path)
    copy.snakemake()
    config = yaml.safe_load((repo / "params.yaml").read_text())["studies"]["mini"]
    results = tmp_path / "results" / "mini"
    _check_study(results, CATEGORIES, "mini-llava", ["3"], 8)
    for category in CATEGORIES:
        answers, _ = read_parquet(results / "answers" / "mini-llava" / f"{category}.parquet", ANSWERS)
        assert len(answers) == config["questions_per_category"]
    effects = pd.read_csv(results / "summary" / "effects.csv")
    flows = list(dict.fromkeys(effects.flow))
    assert flows[: len(PUBLISHED_FLOWS)] == list(PUBLISHED_FLOWS)
    assert {"related~random->question", "related~moved->question", *CONTROL_FLOWS} <= set(flows)
    harmful = effects[effects.high < 0].groupby("category").flow.unique()
    for category in CATEGORIES:
        assert {"question->last", "image->question"} <= set(harmful[category]), category
    copy.snakemake("--", "compare")
    compared = (tmp_path / "logs" / "mini" / "compare.log").read_text()
    assert "within tolerance of resources/expected/mini" in compared
    copy.snakemake("--", "expected_figures")
    figures = {path.name for path in (results / "figures").iterdir()}
    kinds = tuple(f"{kind}-mini" for kind in flows_by_kind(flows))
    assert {name for name in figures if name.startswith(kinds)} == {
        path.name for path in (results / "expected").iterdir()
    }
    assert {f"{name}-mini-llava-w3.png" for name in ("overview", "heat-map")} <= figures
    assert {f"examples-mini-llava-{category}.pdf" for category in CATEGORIES} <= figures
    verdicts = {
        claim["claim"]: claim["verdict"] for claim in json.loads((results / "claims.json").read_text())["claims"]
    }
    assert [verdicts[claim] for claim in (1, 2, 4, 5)] == ["supported"] * 4
    assert (results / "explorer.html").stat().st_size < 25e6
    for job in ("w3", "w3_2"):
        log = tmp_path / "logs" / "mini" / "knockout" / "mini-llava" / f"{job}.log"
        assert "noise floor" in log.read_text()
        assert "question/s" in log.read_text()
        assert log.with_suffix(".benchmark.tsv").is_file()
    assert copy.planned() == {}
    shutil.copytree(tmp_path, moved := tmp_path.parent / f"{tmp_path.name}-moved", copy_function=shutil.copy)
    assert Tree(moved).planned() == {}, "a copy elsewhere, with other modification times, is up to date too"


def test_the_causal_study_finds_in_mini_llava_what_the_documentation_says(repo: Path, tmp_path: Path) -> None:
    copy = Copy(repo, tmp_path)
    copy.snakemake("--config", "study=mini-causal")
    assert copy.planned("--config", "study=mini-causal") == {}
    results = tmp_path / "results" / "mini-causal"
    for category in ("ChooseAttr", "ChooseRel"):
        knockouts, metadata = read_parquet(results / "knockout/mini-llava/wtop" / f"{category}.parquet", KNOCKOUT)
        answers, _ = read_parquet(results / "answers/mini-llava" / f"{category}.parquet", ANSWERS)
        whole = knockouts[(knockouts.flow == "image=swapped->all") & (knockouts.layer == 0)].merge(
            answers, on="question_id"
        )
        assert len(whole) == metadata["selected"]
        np.testing.assert_allclose(whole.p_knockout, whole.p_swapped, rtol=0, atol=1e-6)
        assert metadata["noise_floor"] <= 1e-6
    effects = pd.read_csv(results / "summary/effects.csv", dtype={"window": str})
    mean = effects[effects.window == "3"].set_index(["category", "flow", "layer"])["mean"].sort_index()
    # In the lowest layers the question has read nothing of the image: only hiding its text has an effect.
    for category in ("ChooseAttr", "ChooseRel"):
        assert mean[category, "question->last", 0] < -20
        assert abs(mean[category, "question=swapped->last", 0]) < 0.5
        assert mean[category, "question=swapped->last", 5] < -20
    assert mean["ChooseAttr", "image=swapped->question", 1] < -50
    depth = pd.read_csv(results / "summary/fusion_depth.csv").set_index(
        ["category", "window", "flow", "measure", "point"]
    )
    half = depth.loc[("ChooseAttr", "top", "image->all", "probability", "50 %")]
    assert half.low <= half.depth <= half.high < 1
    dropped = depth.loc[("ChooseRel", "top", "image->all", "probability", "dropped")]
    assert dropped.depth == 3
    assert dropped.sentence.startswith("The image can be dropped after 3 of 8 layers")
    top = pd.read_csv(results / "summary/top_heads.csv")
    best = top[(top.category == "ChooseAttr") & (top.flow == "image->question") & (top["rank"] == 1)].iloc[0]
    assert (best.layer, best["head"]) == (0, 1)
    assert best.high < -1
    figures = {path.name for path in (results / "figures").iterdir()}
    correlated = pd.read_csv(results / "summary/head_attention.csv").set_index(["category", "flow"])
    # The heads that the answer needs attend to the question; those that the question needs do not stand out.
    assert correlated.loc[("ChooseAttr", "question->last"), "low"] > 0.3
    assert correlated.loc[("ChooseAttr", "image->question"), "high"] < 0.1
    # The question needs its attention where it reads the image, and its MLPs nowhere.
    for category in ("ChooseAttr", "ChooseRel"):
        for flow in ("attn:question", "attn=mean:question"):
            assert mean[category, flow, 1] < -40
            assert mean[category, flow].loc[3:].abs().max() < 1
        assert mean[category, "mlp:question"].abs().max() < 3
    patched_pairs_say_where_the_difference_is_held(results)
    lens = pd.read_csv(results / "summary/image_lens.csv").set_index(["category", "token", "place", "layer"])
    lens = lens.sort_index()
    assert (
        lens.loc[("ChooseAttr", "object", "related", 1), "low"]
        > lens.loc[("ChooseAttr", "object", "random", 1), "mean"]
    )
    assert {
        "substitution-mini-llava-w3.png",
        "fusion-depth-mini-llava.pdf",
        "heads-mini-llava.png",
        "attention-mini-llava.png",
        "patching-mini-llava.png",
        "image-lens-mini-llava.png",
    } <= figures


def patched_pairs_say_where_the_difference_is_held(results: Path) -> None:
    """What docs/explanation/patching.md says of mini-llava."""
    pairs = pd.read_csv(results / "summary/pairs.csv").set_index("category")
    assert pairs.patched.to_dict() == {"ChooseAttr": 58, "ChooseRel": 55}
    assert (pairs.both_right > 0.95).all()
    shares = pd.read_csv(results / "summary/patching.csv").set_index(["category", "direction", "set", "layer"])
    shares = shares["share"].sort_index()
    for category in ("ChooseAttr", "ChooseRel"):
        assert shares[category, "both", "related", 0] == pytest.approx(1, abs=0.01)
        assert shares[category, "both", "other"].abs().max() < 0.01
        assert shares[category, "both", "question", 3] > 0.95
        assert shares[category, "both", "last", 3] < 0.05
        assert shares[category, "both", "last", 8] == pytest.approx(1, abs=1e-4)
    depth = pd.read_csv(results / "summary/patching_depth.csv").set_index(["category", "set"])
    assert depth.loc[("ChooseAttr", "image"), "layer_high"] < 1 < depth.loc[("ChooseRel", "image"), "layer_low"]
    assert depth.loc[("ChooseRel", "last"), "layer_high"] < 5 < depth.loc[("ChooseAttr", "last"), "layer_low"]
    claims = json.loads((results / "claims.json").read_text())["claims"]
    assert {claim["claim"]: claim["verdict"] for claim in claims}[8] == "supported"


@pytest.mark.parametrize(("shares", "names"), [(1, [""]), (2, ["", "_2"])])
def test_the_published_study_loads_each_model_once_for_its_answers_and_once_for_its_window(
    repo: Path, tmp_path: Path, shares: int, names: list[str]
) -> None:
    copy = Copy(repo, tmp_path)
    copy.edit_parameters("studies/paper", jobs_per_model=shares)
    planned = copy.planned("--config", "study=paper")
    loads = {rule: jobs for rule, jobs in planned.items() if rule.startswith(("answers", "knockout"))}
    assert loads == {f"{rule}{name}": 4 for rule in ("answers", "knockout") for name in names}


def test_questions_of_ones_own_go_through_the_whole_path(repo: Path, tmp_path: Path) -> None:
    copy = Copy(repo, tmp_path)
    planned = copy.planned("--config", "study=example")
    assert {rule: planned[rule] for rule in ("questions", "answers", "knockout")} == {
        "questions": 3, "answers": 1, "knockout": 1,
    }  # fmt: skip
    assert "shapes" not in planned
    table = "results/example/knockout/mini-llava/w3/side.parquet"
    copy.snakemake("--config", "study=example", "--", table)
    knockouts, metadata = read_parquet(tmp_path / table, KNOCKOUT)
    assert metadata["selected"] == 4
    assert (knockouts[knockouts.flow == "related->question"].edges > 0).all()
    assert knockouts.change_percent.min() < -10
    copy.edit_parameters("datasets/example", pictures="resources/nowhere")
    said = copy.snakemake("-n", "--config", "study=example", status=1)
    assert "params.yaml, datasets.example.pictures: the folder resources/nowhere does not exist." in said


@pytest.fixture(scope="module")
def finished(finished_ci: Finished, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The study `ci`, finished."""
    return Tree(finished_ci.copy_to(tmp_path_factory.mktemp("ci") / "tree"))


@pytest.fixture
def restored(finished: Tree) -> Iterator[Tree]:
    """The finished study, with its parameters and sources put back afterwards."""
    kept = {
        path: path.read_bytes() for path in [finished.root / "params.yaml", *finished.root.glob("workflow/**/*.py")]
    }
    yield finished
    for path, content in kept.items():
        path.write_bytes(content)


EVERY_JOB_OF_CI = {"questions": 1, "answers": 1, **AFTER_ANSWERS}


@pytest.mark.parametrize(
    ("change", "jobs"),
    [
        ({}, {}),
        ({"windows": [5]}, {"knockout": 1, **AFTER_KNOCKOUT}),
        (
            {"windows": [3, 5]},
            # The examples are of the first window.
            {"knockout": 1, **SUMMARY, **dict.fromkeys(FIGURES, 2), "figure_window_sweep": 1, "explorer": 1, **RECORD},
        ),
        ({"engine": "reference"}, {"knockout": 1, **AFTER_KNOCKOUT}),
        (
            {"flows": ["image->last"]},
            {rule: n for rule, n in {"knockout": 1, **AFTER_KNOCKOUT}.items() if rule != "figure_related_to_question"},
        ),
        ({"questions_per_category": 6}, EVERY_JOB_OF_CI),
        # Only the new category's own jobs, and what is made of all categories together.
        ({"categories": ["ChooseAttr", "QueryAttr"]}, EVERY_JOB_OF_CI),
    ],
)  # fmt: skip
def test_a_changed_parameter_plans_exactly_its_jobs(
    restored: Tree, change: dict[str, Any], jobs: dict[str, int]
) -> None:
    restored.edit_parameters(**change)
    assert restored.planned() == jobs


@pytest.mark.parametrize(
    ("change", "jobs"),
    [
        ({"patches": "overlap"}, {"knockout": 1, **AFTER_KNOCKOUT}),
        ({"max_new_tokens": 3}, {"answers": 1, **AFTER_ANSWERS}),
        ({"dtype": "bfloat16"}, {"answers": 1, **AFTER_ANSWERS}),
        ({"window": 5}, RECORD),  # the study names its own windows
    ],
)
def test_a_changed_model_setting_plans_exactly_its_jobs(
    restored: Tree, change: dict[str, Any], jobs: dict[str, int]
) -> None:
    restored.edit_parameters("models/random-llava", **change)
    assert restored.planned() == jobs


def test_a_touched_source_plans_no_job(restored: Tree) -> None:
    for source in (restored.root / "workflow" / "crossflow").rglob("*.py"):
        source.touch()
    assert restored.planned() == {}


@pytest.mark.parametrize("options", [["--unlock"], ["--summary"], ["--report", "report.html"]])
def test_what_starts_no_job_needs_no_cores(finished: Tree, options: list[str]) -> None:
    command = [str(BIN / "snakemake"), *options]
    ran = subprocess.run(command, cwd=finished.root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_failing_job_keeps_what_is_finished_and_is_told_in_one_sentence(restored: Tree) -> None:
    answers = restored.root / "results" / "ci" / "answers" / "random-llava" / "ChooseAttr.parquet"
    before = answers.read_bytes()
    restored.edit_parameters(windows=[16])
    output = restored.snakemake(status=1)
    assert "A window of 16 layers does not fit data/made/random-llava, which has 8:" in output
    assert answers.read_bytes() == before
    restored.edit_parameters(windows=[3])
    assert restored.planned() == {}


def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(restored: Tree) -> None:
    restored.edit_parameters(windows=[5])
    locks = restored.root / ".snakemake" / "locks"
    command = [str(BIN / "snakemake"), "--cores", "2", "--resources", "gpu=2", "--until", "knockout"]
    with subprocess.Popen(
        command, cwd=restored.root, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as first:
        while first.poll() is None and not any(locks.glob("*")):
            time.sleep(0.005)
        # The first waits while the second is tried, however fast the machine.
        os.killpg(first.pid, signal.SIGSTOP)
        try:
            assert "Directory cannot be locked" in restored.snakemake(status=1)
        finally:
            os.killpg(first.pid, signal.SIGCONT)
        assert first.stderr is not None
        assert "knockouts: random-llava, window 5" in first.stderr.read()
    assert first.returncode == 0
    assert (restored.root / "results/ci/knockout/random-llava/w5/ChooseAttr.parquet").exists()
    restored.edit_parameters(windows=[3])
    assert restored.planned() == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "study=tiny"], "params.yaml, study: studies has no entry 'tiny'; choose from mini, "),
        (["--config", "studie=ci"], "params.yaml, its top level: "),
    ],
)
def test_wrong_parameters_stop_before_any_job(restored: Tree, options: list[str], message: str) -> None:
    output = restored.snakemake("-n", *options, status=1)
    assert message in output
    assert "Traceback" not in output


def _overlay(folder: Path, published: Published, name: str, engine: str) -> Path:
    """A configuration file as a user would write it, for one of the reference models."""
    study = {
        "dataset": f"{name}-questions", "models": [name], "categories": CATEGORIES, "questions_per_category": None,
        "answers": "all", "windows": list(WINDOWS), "flows": list(FLOWS.values()), "engine": engine, "seed": 0,
    }  # fmt: skip
    found = {case["category"] for case in published.cases.values()}
    study["categories"] = [category for category in CATEGORIES if category in found]
    overlay = {
        "study": f"published-{name}",
        "studies": {f"published-{name}": study},
        "datasets": {f"{name}-questions": {"kind": "gqa", "split": "val_balanced", "root": str(published.root)}},
        "models": {name: {"path": str(published.model), "prompt": "vicuna-v1", "window": 3, "dtype": "float32"}},
    }
    path = folder / "published.yaml"
    path.write_text(yaml.safe_dump(overlay))
    return path


@pytest.mark.parametrize(
    ("place", "name", "engine"),
    [
        ("shipped", "llava15", "knockout"),
        pytest.param("shipped", "llava16", "knockout", marks=pytest.mark.slow),
        pytest.param("shared", "llava15", "knockout", marks=pytest.mark.slow),
        pytest.param("shared", "llava16", "knockout", marks=pytest.mark.slow),
        pytest.param("shared", "llava15", "reference", marks=pytest.mark.slow),
        pytest.param("shared", "llava16", "reference", marks=pytest.mark.slow),
    ],
)
def test_the_workflow_reproduces_the_published_programs_numbers(
    repo: Path, request: pytest.FixtureRequest, tmp_path: Path, place: str, name: str, engine: str
) -> None:
    folder = SHIPPED if place == "shipped" else request.getfixturevalue("shared") / "reference"
    published = Published(folder / name)
    copy = Copy(repo, tmp_path / "copy")
    overlay = _overlay(tmp_path, published, name, engine)
    # The numbers, and nothing that is drawn of them.
    tables = [f"results/published-{name}/summary/{table}.csv" for table in ("effects", "answers", "counts")]
    wanted = ("--configfile", str(overlay), "--", *tables)
    copy.snakemake(*wanted)
    results = copy.root / "results" / f"published-{name}"
    categories = yaml.safe_load(overlay.read_text())["studies"][f"published-{name}"]["categories"]
    _check_study(results, categories, name, [str(window) for window in WINDOWS], published.layers, figures=False)

    answers = pd.concat(
        read_parquet(path, ANSWERS)[0] for path in sorted((results / "answers" / name).glob("*.parquet"))
    )
    assert set(answers.question_id) == published.cases.keys()
    for row in answers.itertuples():
        case = published.cases[row.question_id]
        assert row.first_token == case["first_token"]
        assert row.tokens == case["sequence_length"]
        assert abs(row.p_clean - case["base_prob"]) <= TOLERANCE

    compared = 0
    for window in WINDOWS:
        tables = sorted((results / "knockout" / name / f"w{window}").glob("*.parquet"))
        knockout = pd.concat(read_parquet(path, KNOCKOUT)[0] for path in tables)
        for (question_id, flow), curve in knockout.groupby(["question_id", "flow"]):
            expected = published.p_knockout(question_id, flow, window)
            if expected is None:
                assert (curve.edges == 0).all()
                assert curve.p_knockout.isna().all()
                continue
            assert (curve.sort_values("layer").p_knockout - expected).abs().max() <= TOLERANCE, (question_id, flow)
            compared += 1
    assert compared == (12 * len(FLOWS) - len(published.missing)) * len(WINDOWS)
    counts = read_csv(results / "summary" / "counts.csv", COUNTS)
    assert sum(row["missing"] for row in counts) == len(published.missing) * len(WINDOWS)
    assert copy.planned(*wanted) == {}


@pytest.mark.slow
def test_real_images_go_through_the_whole_path(repo: Path, shared: Path, tmp_path: Path) -> None:
    published = Published(shared / "reference" / "llava15")
    published.root = shared / "gqa" / "sample"
    copy = Copy(repo, tmp_path / "copy")
    overlay = yaml.safe_load(_overlay(tmp_path, published, "llava15", "knockout").read_text())
    overlay["studies"]["published-llava15"].update(windows=[3], categories=CATEGORIES)
    (tmp_path / "published.yaml").write_text(yaml.safe_dump(overlay))
    copy.snakemake("--configfile", str(tmp_path / "published.yaml"))
    results = copy.root / "results" / "published-llava15"
    _check_study(results, CATEGORIES, "llava15", ["3"], 8)
    effects = pd.read_csv(results / "summary" / "effects.csv")
    assert effects[effects.flow == "image->last"].groupby("category").n.max().sum() == 37

"""params.yaml as shipped, and every way to get it wrong."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import CONTROL_FLOWS
from crossflow.core.tables import BASELINES
from crossflow.data.categories import CATEGORIES
from crossflow.data.question_table import NEEDED, OPTIONAL
from crossflow.models.model import DTYPES
from crossflow.models.prompts import TEMPLATES
from crossflow.models.visual_tokens import RULES
from crossflow.study import inputs, parameters

SCHEMA = Path("workflow/schemas/params.schema.yaml")


@pytest.fixture
def config(repo: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(repo)
    loaded: dict[str, Any] = yaml.safe_load((repo / "params.yaml").read_text())
    return loaded


def test_the_shipped_parameters_are_valid_and_every_study_resolves(config: dict[str, Any]) -> None:
    parameters.validate(config, SCHEMA)
    for name in config["studies"]:
        study = parameters.read_study(config | {"study": name})
        assert study.windows.keys() == set(study.models)
    paper = parameters.read_study(config | {"study": "paper"})
    # Null windows are each model's own.
    assert paper.windows == {
        "llava15-7b": ["7"],
        "llava15-13b": ["9"],
        "llava16-vicuna-7b": ["7"],
        "llama3-llava-next-8b": ["7"],
    }


def test_windows_are_widths_the_models_own_and_those_from_the_ends(config: dict[str, Any]) -> None:
    config["studies"]["paper"]["windows"] = [1, "own", 7, "bottom", "top"]
    parameters.validate(config, SCHEMA)
    windows = parameters.read_study(config | {"study": "paper"}).windows
    assert windows["llava15-7b"] == ["1", "7", "bottom", "top"]
    assert windows["llava15-13b"] == ["1", "9", "7", "bottom", "top"]


def test_a_model_in_the_same_folder_is_a_variant_however_the_folder_is_written(config: dict[str, Any]) -> None:
    models = config["models"]
    models["again"] = models["mini-llava"] | {"path": f"./{models['mini-llava']['path']}/"}
    config["studies"]["mini"]["models"] = ["mini-llava", "random-llava", "again"]
    assert parameters.read_study(config | {"study": "mini"}).variants == {"again": "mini-llava"}


def test_controls_are_added_to_the_flows_and_none_without_the_key(config: dict[str, Any]) -> None:
    study = config["studies"]["paper"]
    study["flows"] = ["related->question"]
    study.pop("controls", None)
    assert parameters.read_study(config | {"study": "paper"}).controls == []
    study["controls"] = {}
    found = parameters.read_study(config | {"study": "paper"})
    draws = [f"related~random{draw}->question" for draw in (1, 2, 3)]
    assert found.controls == [*draws, "related~moved->question", *CONTROL_FLOWS]
    assert found.stride == 1
    study["controls"] = {"draws": 0, "stride": 4, "flows": ["system->last"]}
    found = parameters.read_study(config | {"study": "paper"})
    assert (found.controls, found.stride) == (["related~moved->question", "system->last"], 4)


def _set(config: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for key in parents:
        config = config[key]
    config[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", "red", "its top level: unknown key 'colour'"),
        ("studies/mini/windows", [0], r"studies\.mini\.windows\.0: 0 is not a width in layers, own, bottom or top\.$"),
        ("studies/mini/windows", ["3"], r"studies\.mini\.windows\.0: '3' is not a width in layers"),
        ("studies/mini/windows", [3, 3], r"studies\.mini\.windows: .*non-unique"),
        ("studies/mini/categories", [], r"studies\.mini\.categories: "),
        (
            "studies/mini/categories",
            ["Choose.Color"],
            r"studies\.mini\.categories\.0: 'Choose.Color' is invalid: expected",
        ),
        ("studies/mini/controls", {"draw": 3}, r"studies\.mini\.controls: unknown key 'draw'; choose from draws"),
        ("studies/mini/controls", {"stride": 0}, r"studies\.mini\.controls\.stride: 0 is less than"),
        ("studies/mini/baselines", ["blind"], r"studies\.mini\.baselines\.0: 'blind' is not one of"),
        ("studies/mini/heads", {"flow": ["image->last"]}, r"studies\.mini\.heads: "),
        ("studies/mini/heads", {"flows": []}, r"studies\.mini\.heads\.flows: "),
        ("studies/mini/heads", {"flows": ["image->last"], "subsets": -1}, r"heads\.subsets: -1 is less than"),
        ("studies/mini/heads", {"flows": ["image->last"], "share": 1}, r"heads\.share: 1 is "),
        ("studies/mini/heads", {"flows": ["image->last"], "layers": [-1]}, r"heads\.layers\.0: -1 is less than"),
        (
            "studies/mini/heads",
            {"flows": ["image->last"], "window": 3},
            r"heads: unknown key 'window'; choose from flows",
        ),
        ("studies/mini/flow", ["image->last"], r"studies\.mini: unknown key 'flow'"),
        ("studies/mini/questions_per_category", 0, r"questions_per_category: 0 is less than"),
        ("studies/mini/answers", "right", r"answers: 'right' is not one of"),
        ("studies/my.study", {}, r"studies: 'my.study' is invalid: expected lower-case letters"),
        ("models/random-llava/dtype", "float8", r"models\.random-llava\.dtype: 'float8' is not one of"),
        ("models/llava15-7b/revision", "main", r"models\.llava15-7b\.revision: 'main' is invalid: expected a commit"),
        ("models/random-llava/repo", "a/b", r"models\.random-llava: give either path, or repo and revision"),
        ("models/llava15-7b/path", "a", r"models\.llava15-7b: give either path, or repo and revision"),
        ("datasets/shapes/scenes", 0, r"datasets\.shapes\.scenes: 0 is less than"),
        (
            "datasets/shapes/split",
            "x",
            r"datasets\.shapes: unknown key 'split'; choose from kind, scenes, seed\.$",
        ),
        (
            "datasets/gqa/scenes",
            3,
            r"datasets\.gqa: unknown key 'scenes'; choose from kind, split, root, source, questions, images\.$",
        ),
        ("datasets/shapes/kind", "coco", r"datasets\.shapes\.kind: 'coco' is not one of"),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence_with_its_path(
    config: dict[str, Any], path: str, value: Any, message: str
) -> None:
    _set(config, path, value)
    with pytest.raises(CrossflowError, match=message) as raised:
        parameters.validate(config, SCHEMA)
    assert str(raised.value).startswith("params.yaml, ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("study", "tiny", r"study: studies has no entry 'tiny'; choose from mini, "),
        ("studies/mini/dataset", "coco", r"studies\.mini\.dataset: datasets has no entry 'coco'"),
        ("studies/mini/models", ["gpt"], r"studies\.mini\.models: models has no entry 'gpt'"),
        (
            "studies/mini/categories",
            ["ChooseColor"],
            r"studies\.mini\.categories: unknown category 'ChooseColor'; choose from ChooseAttr",
        ),
        (
            "studies/mini/flows",
            ["picture->last"],
            r"studies\.mini\.flows: Flow .* unknown position set 'picture'; choose from",
        ),
        ("studies/mini/controls", {"flows": ["all"]}, r"studies\.mini\.controls\.flows: Flow 'all' is not of the form"),
    ],
)
def test_an_unknown_slug_is_named_with_those_that_are_known(
    config: dict[str, Any], path: str, value: Any, message: str
) -> None:
    _set(config, path, value)
    with pytest.raises(CrossflowError, match=message):
        parameters.read_study(config)


def test_files_that_are_not_there_are_named_before_anything_runs(config: dict[str, Any], tmp_path: Path) -> None:
    config = copy.deepcopy(config)
    config["datasets"]["gqa"]["root"] = str(tmp_path / "nowhere")
    with pytest.raises(CrossflowError, match=r"datasets\.gqa\.root: the folder .*nowhere does not exist"):
        inputs.dataset_root(config, "gqa")
    config["datasets"]["gqa"]["root"] = str(tmp_path)
    with pytest.raises(CrossflowError, match="contains neither questions/val_balanced_questions.json nor"):
        inputs.question_files(config, "gqa", "ChooseAttr")
    config["models"]["mine"] = {"path": str(tmp_path), "prompt": "vicuna-v1", "window": 3}
    with pytest.raises(CrossflowError, match=r"models\.mine\.path: .* has no config\.json"):
        inputs.model_files(config, "mine")


def test_a_data_set_has_one_place(config: dict[str, Any], tmp_path: Path) -> None:
    config = copy.deepcopy(config)
    config["datasets"]["gqa"] = {"kind": "gqa", "source": "hub"}
    assert inputs.dataset_root(config, "gqa") == inputs.HUB_GQA
    config["datasets"]["gqa"]["root"] = str(tmp_path)
    with pytest.raises(CrossflowError, match=r"datasets\.gqa: give either root or source: hub, not both"):
        inputs.dataset_root(config, "gqa")


def test_only_a_split_with_scene_graphs_has_their_file(config: dict[str, Any]) -> None:
    config = copy.deepcopy(config)
    assert inputs.gqa_files(config, "gqa") == [
        "data/gqa/questions/val_balanced_questions.json", "data/gqa/sceneGraphs/val_sceneGraphs.json",
    ]  # fmt: skip
    config["datasets"]["gqa"]["split"] = "testdev_balanced"
    assert inputs.gqa_files(config, "gqa") == ["data/gqa/questions/testdev_balanced_questions.json"]


def test_a_table_in_parquet_files_is_written_first(config: dict[str, Any], tmp_path: Path) -> None:
    config = copy.deepcopy(config)
    mine = {"kind": "table", "file": str(tmp_path / "mine-*.parquet")}
    config["datasets"]["mine"] = mine
    with pytest.raises(CrossflowError, match=r"datasets\.mine\.file: .*mine-\*\.parquet does not exist"):
        inputs.question_files(config, "mine", "questions")
    (tmp_path / "mine-1.parquet").touch()
    assert inputs.question_files(config, "mine", "questions") == ["data/tables/mine/questions.csv"]
    assert inputs.dataset_root(config, "mine") == "data/tables/mine/images"
    mine["columns"] = {"answer": "label"}
    files = ["--files", str(tmp_path / "mine-1.parquet")]
    assert inputs.unpack_options(config, "mine")[:4] == [*files, "--columns", "answer=label"]
    mine["file"] = "mine.csv"
    with pytest.raises(CrossflowError, match=r"datasets\.mine\.columns: only a parquet file has it, not mine\.csv"):
        inputs.dataset_root(config, "mine")
    del mine["columns"]
    with pytest.raises(CrossflowError, match=r"datasets\.mine: give the folder of its images as pictures"):
        inputs.dataset_root(config, "mine")


def test_the_schema_knows_what_the_code_knows(repo: Path) -> None:
    schema = yaml.safe_load((repo / SCHEMA).read_text())
    study = schema["properties"]["studies"]["additionalProperties"]["properties"]
    model = schema["properties"]["models"]["additionalProperties"]["properties"]
    assert all(re.match(study["categories"]["items"]["pattern"], category) for category in CATEGORIES)
    assert study["baselines"]["items"]["enum"] == list(BASELINES)
    assert all(flow in study["controls"]["properties"]["flows"]["description"] for flow in CONTROL_FLOWS)
    assert model["prompt"]["enum"] == list(TEMPLATES)
    assert model["patches"]["enum"] == list(RULES)
    assert model["dtype"]["enum"] == list(DTYPES)
    (table,) = (
        case["then"]["properties"]
        for case in schema["properties"]["datasets"]["additionalProperties"]["allOf"]
        if case["then"]["properties"]["kind"]["const"] == "table"
    )
    assert list(table["columns"]["properties"]) == [*NEEDED, *OPTIONAL]


def _undescribed(node: Any, path: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    found = []
    for key, value in node.get("properties", {}).items():
        if isinstance(value, bool):
            continue
        at = f"{path}.{key}"
        found += [at] if "description" not in value and "const" not in value else []
        found += _undescribed(value, at)
    for key in ("additionalProperties", "items"):
        found += _undescribed(node.get(key), path)
    for case in node.get("allOf", []):
        found += _undescribed(case["then"], path)
    return found


def test_every_key_of_the_schema_is_described(repo: Path) -> None:
    schema = yaml.safe_load((repo / SCHEMA).read_text())
    assert _undescribed(schema) == []


def test_the_lock_serves_every_package_index(repo: Path) -> None:
    lock = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(.+)$", (repo / "envs" / "lock.txt").read_text(), re.MULTILINE))
    assert "torch" in lock
    assert not any("+" in version for version in lock.values())

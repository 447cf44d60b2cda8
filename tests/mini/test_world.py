"""The mini world on disk: form, categories and truth of its questions."""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from crossflow.core.errors import CrossflowError
from crossflow.core.records import ChosenQuestion
from crossflow.data.categories import CATEGORIES as GQA_CATEGORIES
from crossflow.data.categories import NOT_MINIMAL, OTHER_KIND, OTHER_RELATION, Classified, attach_objects, classify
from crossflow.data.gqa import read_questions, read_scenes
from crossflow.data.images import Images
from crossflow.mini.questions import CATEGORIES
from crossflow.mini.scenes import PLURALS
from crossflow.mini.world import write_world
from mini_programs import run_program

WORKFLOW = Path(__file__).parents[2] / "workflow"
FILES = ("images.zip", "questions/val_balanced_questions.json", "sceneGraphs/val_sceneGraphs.json")

SCENES = 200


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    write_world(root, scenes=SCENES, seed=0)
    return root


def _records(world: Path) -> dict[str, Any]:
    return dict(json.loads((world / FILES[1]).read_text()))


def _graphs(world: Path) -> dict[str, Any]:
    return dict(json.loads((world / FILES[2]).read_text()))


def test_two_processes_with_different_hash_seeds_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": name, "PYTHONPATH": str(WORKFLOW)}
        command = ["mini-world", "--scenes", "12", "--seed", "5", "--root", str(tmp_path / name)]
        subprocess.run([sys.executable, "-m", "crossflow", *command], env=environment, check=True)
    for file in FILES:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


def test_a_larger_world_begins_with_the_smaller_one_and_another_seed_is_another_world(tmp_path: Path) -> None:
    for name, scenes, seed in (("small", 3, 0), ("large", 5, 0), ("other", 3, 1)):
        write_world(tmp_path / name, scenes, seed)
    small, large, other = (_records(tmp_path / name) for name in ("small", "large", "other"))
    assert list(large.items())[: len(small)] == list(small.items())
    assert not set(other) & set(large)
    assert [record["question"] for record in other.values()] != [record["question"] for record in small.values()]


def test_every_image_of_the_scene_graphs_is_in_the_zip_and_has_its_size(world: Path) -> None:
    graphs = _graphs(world)
    with zipfile.ZipFile(world / "images.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"images/{image_id}.jpg" for image_id in graphs)
    with Images(world) as images:
        for image_id, graph in list(graphs.items())[:20]:
            assert images.open(image_id).size == (graph["width"], graph["height"])


def _form(record: Any) -> Any:
    """The keys of a record, their order and the types of their values."""
    if isinstance(record, dict):
        return {key: _form(value) for key, value in record.items()}
    return type(record).__name__


@pytest.mark.parametrize("part", ["question", "graph"])
def test_records_have_the_form_of_real_ones(world: Path, shared: Path, part: str) -> None:
    verbatim = shared / "gqa" / "verbatim"
    if part == "question":
        path = verbatim / "questions" / "testdev_balanced_questions.json"
        real, ours = json.loads(path.read_text()), _records(world)
    else:
        path = verbatim / "sceneGraphs" / "train_sceneGraphs.json"
        real = next(iter(json.loads(path.read_text()).values()))["objects"]
        ours = next(iter(_graphs(world).values()))["objects"]
    varying = {"annotations": None, "groups": None}
    real_forms = {json.dumps(_form({**record, **varying}), sort_keys=True) for record in real.values()}
    assert {json.dumps(_form({**record, **varying}), sort_keys=True) for record in ours.values()} <= real_forms


def test_a_question_is_written_as_gqa_writes_it(world: Path) -> None:
    record = next(r for r in _records(world).values() if r["types"]["detailed"] == "twoCommon")
    first, second = (step["argument"] for step in record["semantic"][:2])
    assert re.fullmatch(r"[a-z]+ \(\d+\)", first) and re.fullmatch(r"[a-z]+ \(\d+\) ", second)
    assert record["semanticStr"] == f"select: {first}->select: {second}->common:  [0, 1]"
    words = record["question"].rstrip("?").split()
    for place, object_id in record["annotations"]["question"].items():
        assert _graphs(world)[record["imageId"]]["objects"][object_id]["name"] == words[int(place)]


def test_a_world_without_scenes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossflowError, match="0 scenes of seed 0"):
        write_world(tmp_path, scenes=0, seed=0)


def test_all_six_categories_are_chosen_from_the_world_and_all_other_kinds_rejected(world: Path) -> None:
    questions = list(read_questions(world, "val_balanced"))
    graphs = read_scenes(world, "val_balanced", {question.image_id for question in questions})
    chosen: Counter[str] = Counter()
    rejected: defaultdict[str, set[str]] = defaultdict(set)
    for question in questions:
        classified = classify(question)
        if isinstance(classified, Classified):
            assert isinstance(attach_objects(classified, graphs[question.image_id]), ChosenQuestion)
            chosen[classified.category] += 1
        else:
            rejected[classified.reason].add(question.detailed)
    assert set(chosen) == set(GQA_CATEGORIES) == set(CATEGORIES)
    assert min(chosen.values()) >= SCENES * 11 / 12
    assert rejected.keys() == {OTHER_KIND, NOT_MINIMAL, OTHER_RELATION}
    assert rejected[NOT_MINIMAL] == {"chooseAttr", "positionQuery"}
    assert rejected[OTHER_RELATION] == {"relChooser"}
    assert len(rejected[OTHER_KIND]) >= 10


def test_every_answer_is_what_its_program_gives_on_the_scene_graph(world: Path) -> None:
    graphs = _graphs(world)
    for question_id, record in _records(world).items():
        objects = graphs[record["imageId"]]["objects"]
        assert run_program(record["semantic"], objects) == record["answer"], (question_id, record["question"])


def test_every_question_says_what_its_program_does(world: Path) -> None:
    for record in _records(world).values():
        words = set(re.findall(r"\w+", record["question"]))
        for step in record["semantic"]:
            name = step["argument"].partition(" (")[0] if step["operation"] == "select" else None
            assert name in (None, "toy") or {name, PLURALS[name]} & words
        options = [s["argument"].split("|") for s in record["semantic"] if s["operation"].startswith("choose")]
        if options and record["types"]["detailed"] != "relChooser":
            assert set(options[0]) <= words
        negated = any("not(" in step["argument"] for step in record["semantic"])
        assert negated == ("not" in words)

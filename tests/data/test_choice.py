"""Choosing questions: seeded, stable, and clear about what was left out."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossflow.cli.main import main
from crossflow.core.columns import REJECTIONS
from crossflow.core.records import ChosenQuestion
from crossflow.core.tables import read_csv
from crossflow.data.chosen import read_chosen
from crossflow.data.filtering import find_questions
from crossflow.data.sampling import sample_questions

ids = st.sets(st.text("0123456789", min_size=1, max_size=8), max_size=30)


def _chosen(question_id: str) -> ChosenQuestion:
    return ChosenQuestion(question_id, "1", "QueryAttr", "positionQuery", "?", "left", None, None, ())


@given(ids, st.integers(0, 30), st.integers(0, 10), st.integers(0, 3))
def test_a_larger_choice_begins_with_the_smaller_one(members: set[str], number: int, more: int, seed: int) -> None:
    questions = [_chosen(question_id) for question_id in members]
    assert sample_questions(questions, number + more, seed)[:number] == sample_questions(questions, number, seed)


@given(ids, st.data())
def test_a_choice_does_not_depend_on_the_order_of_the_file(members: set[str], data: st.DataObject) -> None:
    questions = [_chosen(question_id) for question_id in sorted(members)]
    shuffled = data.draw(st.permutations(questions))
    assert sample_questions(shuffled, 5, 0) == sample_questions(questions, 5, 0)


def test_another_seed_is_another_choice() -> None:
    questions = [_chosen(str(number)) for number in range(100)]
    assert {question.question_id for question in sample_questions(questions, 20, 0)} != {
        question.question_id for question in sample_questions(questions, 20, 1)
    }
    assert len(sample_questions(questions, None, 0)) == 100


def _write(root: Path, questions: dict[str, Any], scenes: dict[str, Any]) -> None:
    root.mkdir()
    (root / "val_balanced_questions.json").write_text(json.dumps(questions))
    (root / "val_sceneGraphs.json").write_text(json.dumps(scenes))


def _question(image_id: str, detailed: str = "positionQuery") -> dict[str, Any]:
    semantic = [
        {"operation": "select", "dependencies": [], "argument": "cat (1)"},
        {"operation": "query", "dependencies": [0], "argument": "hposition"},
    ]
    return {
        "imageId": image_id,
        "question": "On which side is the cat?",
        "answer": "left",
        "types": {"detailed": detailed},
        "semantic": semantic,
    }


SCENE = {"width": 9, "height": 9, "objects": {"1": {"name": "cat", "x": 0, "y": 0, "w": 2, "h": 2}}}


def _run(root: Path, output: Path, category: str, number: str = "all") -> int:
    tables = ["--output", str(output / f"{category}.csv"), "--rejections", str(output / f"{category}.rejections.csv")]
    options = ["--root", str(root), "--split", "val_balanced", "--number", number, "--category", category]
    return main(["questions", *options, *tables])


def test_every_question_is_either_chosen_or_counted_with_its_reason(tmp_path: Path) -> None:
    questions = {
        "1": _question("a"),
        "2": _question("a"),
        "3": _question("b"),
        "4": _question("c"),
        "5": _question("a", "relS"),
    }
    _write(tmp_path / "gqa", questions, {"a": SCENE, "b": {**SCENE, "objects": {}}})
    assert _run(tmp_path / "gqa", tmp_path / "out", "QueryAttr") == 0
    assert {question.question_id for question in read_chosen(tmp_path / "out" / "QueryAttr.csv")} == {
        "1",
        "2",
    }
    assert read_csv(tmp_path / "out" / "QueryAttr.rejections.csv", REJECTIONS) == [
        {"category": "QueryAttr", "reason": "another kind of question", "n": 1},
        {"category": "QueryAttr", "reason": "no scene graph", "n": 1},
        {"category": "QueryAttr", "reason": "the object is not in the scene graph", "n": 1},
    ]


def test_questions_of_testdev_which_has_no_scene_graphs_have_no_objects(tmp_path: Path) -> None:
    questions = {"1": _question("a"), "2": _question("a", "relS")}
    (tmp_path / "testdev_balanced_questions.json").write_text(json.dumps(questions))
    found, reasons = find_questions(tmp_path, "testdev_balanced", "QueryAttr")
    assert [(question.question_id, question.objects, question.image_size) for question in found] == [("1", (), None)]
    assert reasons == {"another kind of question": 1}


def test_a_category_without_a_question_is_an_error_with_the_counts_of_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(tmp_path / "gqa", {"1": _question("a"), "2": _question("a", "relS")}, {})
    assert _run(tmp_path / "gqa", tmp_path / "out", "QueryAttr") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "belongs to QueryAttr" in message
    assert "1 x no scene graph" in message
    assert "1 x another kind of question" in message
    # The counts are on disk too, and no half-finished table is.
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["QueryAttr.rejections.csv"]


def test_a_larger_number_begins_the_table_with_the_smaller_ones_rows(tmp_path: Path) -> None:
    _write(tmp_path / "gqa", {str(number): _question("a") for number in range(30)}, {"a": SCENE})
    for number in ("4", "9"):
        assert _run(tmp_path / "gqa", tmp_path / number, "QueryAttr", number=number) == 0
    few, more = (read_chosen(tmp_path / number / "QueryAttr.csv") for number in ("4", "9"))
    assert (len(few), len(more)) == (4, 9)
    assert more[:4] == few


@pytest.mark.parametrize("number", ["0", "-3"])
def test_a_number_that_counts_nothing_is_refused(
    tmp_path: Path, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(tmp_path, tmp_path / "out", "QueryAttr", number=number) == 1
    assert f"The number of questions is {number}; give a number above 0, or all." in capsys.readouterr().err


@pytest.mark.parametrize("number", ["some", "1.5"])
def test_a_number_that_is_none_is_refused(tmp_path: Path, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        _run(tmp_path, tmp_path / "out", "QueryAttr", number=number)
    assert "--number" in capsys.readouterr().err


def test_an_absent_scene_graph_file_is_told_before_any_question_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "val_balanced_questions.json").write_text("this is not even JSON")
    assert _run(tmp_path, tmp_path / "out", "QueryAttr") == 1
    assert "val_sceneGraphs.json" in capsys.readouterr().err

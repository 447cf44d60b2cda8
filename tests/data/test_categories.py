"""The six categories, on made-up programs and on real ones."""

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from crossflow.core.records import Box, ChosenQuestion, Question, SceneGraph, SceneObject, Step
from crossflow.data import categories
from crossflow.data.categories import CATEGORIES, Classified, Reference, Rejection, attach_objects, classify
from crossflow.data.gqa import read_questions, read_scenes
from crossflow.mini.world import write_world


def _question(detailed: str, program: str, answer: str) -> Question:
    """A question from a program written as GQA's ``semanticStr``: ``select: cat (1)->choose name: cat|dog [0]``."""
    steps = []
    for step in program.split("->"):
        match = re.fullmatch(r"(.*?): ?(.*?)((?: \[[\d, ]+\])?)", step)
        assert match is not None, step
        steps.append(Step(match[1], tuple(json.loads(match[3])) if match[3] else (), match[2]))
    return Question("1", "5", "?", answer, detailed, tuple(steps))


ONE = (Reference("object", "1", "cat"),)
TWO = (Reference("object1", "1", "cat"), Reference("object2", "2", "dog"))
EITHER = (
    "select: cat (1)->filter color: red [0]->exist: ? [1]"
    "->select: dog ({}) ->filter color: red [3]->exist: ? [4]->or:  [2, 5]"
)


@pytest.mark.parametrize(
    ("detailed", "program", "answer", "expected"),
    [
        (
            "chooseAttr",
            "select: cat (1)->choose color: red|blue [0]",
            "blue",
            ("ChooseAttr", "blue", "red", ONE),
        ),
        (
            "chooseAttr",
            "select: cat (1)->choose: full|empty [0]",
            "full",
            ("ChooseAttr", "full", "empty", ONE),
        ),
        (
            "activityChoose",
            "select: cat (1)->choose sportActivity: a|b [0]",
            "a",
            ("ChooseAttr", "a", "b", ONE),
        ),
        (
            "objThisChoose",
            "select: cat (1)->choose name: cat|dog [0]",
            "cat",
            ("ChooseCat", "cat", "dog", ONE),
        ),
        (
            "categoryThatChoose",
            "select: cat (1)->filter color: red [0]->choose name: cat|dog [1]",
            "dog",
            ("ChooseCat", "dog", "cat", ONE),
        ),
        (
            "relChooser",
            "select: cat (1)->choose rel: dog,to the left of|to the right of,s (2) [0]",
            "right",
            ("ChooseRel", "right", "left", TWO),
        ),
        (
            "relChooser",
            "select: cat (1)->choose rel: dog,in front of|behind,s (2) [0]",
            "behind",
            ("ChooseRel", "behind", "front", TWO),
        ),
        (
            "twoCommon",
            "select: cat (1)->select: dog (2) ->common:  [0, 1]",
            "color",
            ("CompareAttr", None, None, TWO),
        ),
        ("existThatOr", EITHER.format(2), "yes", ("LogicalObj", None, None, TWO)),
        ("existThatOrC", EITHER.format("-"), "no", ("LogicalObj", None, None, TWO[:1])),
        ("existThatOrC", EITHER.format("-").replace("(1)", "(-)"), "no", ("LogicalObj", None, None, ())),
        ("positionQuery", "select: cat (1)->query: hposition [0]", "left", ("QueryAttr", None, None, ONE)),
    ],
)
def test_a_minimal_program_belongs_to_its_category(
    detailed: str, program: str, answer: str, expected: tuple[object, ...]
) -> None:
    result = classify(_question(detailed, program, answer))
    assert isinstance(result, Classified), result
    assert result[1:] == expected


@pytest.mark.parametrize(
    ("detailed", "program", "answer", "expected"),
    [
        ("relS", "select: cat (1)->query: name [0]", "cat", Rejection("", categories.OTHER_KIND)),
        (
            "chooseAttr",
            "select: cat (1)->relate: dog,near,s (2) [0]->choose color: red|blue [1]",
            "red",
            Rejection("ChooseAttr", categories.NOT_MINIMAL),
        ),
        (
            "positionQuery",
            "select: cat (1)->query: vposition [0]",
            "top",
            Rejection("QueryAttr", categories.NOT_MINIMAL),
        ),
        (
            "chooseAttr",
            "select: floor (1)->choose material: wood|metal [0]",
            "wooden",
            Rejection("ChooseAttr", categories.OTHER_ANSWER),
        ),
        (
            "chooseAttr",
            "select: cat (1)->choose: a|a [0]",
            "a",
            Rejection("ChooseAttr", categories.SAME_OPTIONS),
        ),
        (
            "relChooser",
            "select: cat (1)->choose rel: dog,above|below,s (2) [0]",
            "above",
            Rejection("ChooseRel", categories.OTHER_RELATION),
        ),
        (
            "relChooser",
            "select: cat (1)->choose rel: dog,behind|in front of,o (2) [0]",
            "front",
            Rejection("ChooseRel", categories.NOT_MINIMAL),
        ),
        (
            "relChooser",
            "select: cat (1)->choose rel: dog,behind|in front of,s (-) [0]",
            "front",
            Rejection("ChooseRel", categories.NO_OBJECT),
        ),
        (
            "relChooser",
            "select: cat (1)->choose rel: dog,behind|in front of,s (2) [0]",
            "left",
            Rejection("ChooseRel", categories.OTHER_ANSWER),
        ),
        (
            "relChooser",
            "select: cat (1)->choose rel: dog,behind|to the left of,s (2) [0]",
            "left",
            Rejection("ChooseRel", categories.OTHER_RELATION),
        ),
        ("existThatOr", EITHER.format(2), "no", Rejection("LogicalObj", categories.NOT_YES)),
        (
            "positionQuery",
            "select: cat (-)->query: hposition [0]",
            "left",
            Rejection("QueryAttr", categories.NO_OBJECT),
        ),
        (
            "positionQuery",
            "select: cat->query: hposition [0]",
            "left",
            Rejection("QueryAttr", categories.NO_OBJECT),
        ),
    ],
)
def test_every_other_question_has_its_reason(detailed: str, program: str, answer: str, expected: Rejection) -> None:
    assert classify(_question(detailed, program, answer)) == expected


def _classified(*objects: Reference) -> Classified:
    return Classified(
        _question("positionQuery", "select: cat (1)->query: hposition [0]", "left"),
        "QueryAttr",
        None,
        None,
        objects,
    )


def test_objects_get_their_raw_boxes_and_the_names_of_the_program() -> None:
    scene = SceneGraph("5", {"1": SceneObject("1", "tabby", Box(-4, 2, 900, 8))})
    chosen = attach_objects(_classified(*ONE), scene)
    assert isinstance(chosen, ChosenQuestion)
    assert [(entry.role, entry.id, entry.name, entry.box) for entry in chosen.objects] == [
        ("object", "1", "cat", Box(-4, 2, 900, 8))
    ]


def test_a_image_without_its_graph_or_object_is_a_reason() -> None:
    assert attach_objects(_classified(*ONE), None) == Rejection("QueryAttr", categories.NO_SCENE)
    assert attach_objects(_classified(*ONE), SceneGraph("5", {})) == Rejection("QueryAttr", categories.NOT_IN_SCENE)


@pytest.mark.parametrize(("folder", "count"), [("published", 2776), ("sample", 37)])
def test_real_questions_of_the_study_get_the_expected_category_options_and_boxes(
    shared: Path, folder: str, count: int
) -> None:
    root = shared / "gqa" / folder
    with (root / "expected.csv").open(newline="") as file:
        expected = {row["question_id"]: row for row in csv.DictReader(file)}
    questions = list(read_questions(root, "val_balanced"))
    scenes = read_scenes(root, "val_balanced", {question.image_id for question in questions})
    assert len(questions) == len(expected) == count
    for question in questions:
        classified = classify(question)
        assert isinstance(classified, Classified), (question, classified)
        chosen = attach_objects(classified, scenes[question.image_id])
        assert isinstance(chosen, ChosenQuestion), (question, chosen)
        row = expected[question.question_id]
        assert chosen.category == row["category"]
        assert chosen.answer == row["answer"]
        assert [chosen.true_option or "", chosen.false_option or ""] == [
            row["true_option"],
            row["false_option"],
        ]
        boxes = [{"id": entry.id, **entry.box._asdict()} for entry in chosen.objects]
        assert boxes == json.loads(row["objects"]), question.question_id


# The table once more, over the text of the whole program and the answer, so that it can disagree with the module's own.
# The answer must be one of the named groups, as RELATIONS calls it; where there are none, YES_NO may demand one.
_ID = r"\((?:\d+)\) ?"
_MAYBE = r"\((?:\d+|-)\) ?"
_OPTIONS = r"(?P<a>[^|>]+)\|(?P<b>[^|>]+)"
_FILTERED = r"filter[^>]*\[0\]->choose name: (?P<c>[^|>]+)\|(?P<d>[^|>]+) \[1\]"
TABLE = {
    "ChooseAttr": (
        {"chooseAttr", "materialChoose", "typeChoose", "activityChoose"},
        rf"select: [^>]*{_ID}->choose(?: (?!rel:|name:)\w+)?: {_OPTIONS} \[0\]",
    ),
    "ChooseCat": (
        {"objThisChoose", "categoryThisChoose", "categoryThatChoose"},
        rf"select: [^>]*{_ID}->(?:choose name: {_OPTIONS} \[0\]|{_FILTERED})",
    ),
    "ChooseRel": (
        {"relChooser"},
        rf"select: [^>]*{_ID}->choose rel: [^>]*,(?:(?P<a>to the left of)\|(?P<b>to the right of)"
        r"|(?P<c>to the right of)\|(?P<d>to the left of)|(?P<e>in front of)\|(?P<f>behind)"
        rf"|(?P<g>behind)\|(?P<h>in front of)),s {_ID}\[0\]",
    ),
    "CompareAttr": ({"twoCommon"}, rf"select: [^>]*{_ID}->select: [^>]*{_ID}->common:  \[0, 1\]"),
    "LogicalObj": (
        {"existThatOr", "existThatOrC"},
        rf"select: [^>]*{_MAYBE}->filter[^>]*\[0\]->exist: \? \[1\]->select: [^>]*{_MAYBE}->filter[^>]*\[3\]"
        r"->exist: \? \[4\]->or:  \[2, 5\]",
    ),
    "QueryAttr": ({"positionQuery"}, rf"select: [^>]*{_ID}->query: hposition \[0\]"),
}
RELATIONS = {"to the left of": "left", "to the right of": "right", "in front of": "front"}
YES_NO = {"existThatOr": "yes", "existThatOrC": "no"}


def _by_the_table(record: dict[str, Any]) -> list[str]:
    """The categories that a question of GQA's file belongs to, by the table above."""
    fits = []
    for name, (types, program) in TABLE.items():
        detailed, answer = record["types"]["detailed"], record["answer"]
        match = re.fullmatch(program, record["semanticStr"])
        if detailed not in types or match is None:
            continue
        options = {RELATIONS.get(part, part) for part in match.groupdict().values() if part is not None}
        if answer in options or (not options and answer == YES_NO.get(detailed, answer)):
            fits.append(name)
    return fits


def _disagreements(root: Path, split: str) -> tuple[list[str], Counter[str]]:
    """The questions on which `classify` and the table differ, and the counts of categories and reasons."""
    records = json.loads((root / "questions" / f"{split}_questions.json").read_text())
    results = {question.question_id: classify(question) for question in read_questions(root, split)}
    assert results.keys() == records.keys()
    accepted = {name: [r.category] if isinstance(r, Classified) else [] for name, r in results.items()}
    counts = Counter(r.category if isinstance(r, Classified) else r.reason for r in results.values())
    return [name for name, record in records.items() if accepted[name] != _by_the_table(record)], counts


def test_unaltered_questions_are_accepted_exactly_if_they_satisfy_the_table(shared: Path) -> None:
    counts: Counter[str] = Counter()
    for split in ("testdev_balanced", "train_balanced"):
        differing, of_split = _disagreements(shared / "gqa" / "verbatim", split)
        assert differing == []
        counts += of_split
    reasons = {categories.OTHER_KIND, categories.NOT_MINIMAL, categories.OTHER_ANSWER}
    assert counts.keys() == CATEGORIES.keys() | reasons
    assert counts.total() == 5022 + 38


def test_questions_of_the_study_satisfy_the_table_too(shared: Path) -> None:
    for folder, count in (("published", 2776), ("sample", 37)):
        differing, counts = _disagreements(shared / "gqa" / folder, "val_balanced")
        assert (differing, counts.total()) == ([], count)
        assert counts.keys() == CATEGORIES.keys()


def test_the_table_and_classify_agree_on_drawn_scenes(tmp_path: Path) -> None:
    write_world(tmp_path, scenes=12, seed=0)
    differing, counts = _disagreements(tmp_path, "val_balanced")
    assert differing == []
    assert counts.keys() >= CATEGORIES.keys()

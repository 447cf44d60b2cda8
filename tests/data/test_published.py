"""The published sets, read as GQA's own files are, and the filter beside them."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossflow.cli.main import main
from crossflow.core.columns import REJECTIONS
from crossflow.core.errors import CrossflowError
from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.core.tables import read_csv
from crossflow.data.chosen import read_chosen
from crossflow.data.published import FILES, find_published, read_published
from crossflow.data.published_overlap import COUNTS, DIFFERENCES
from crossflow.fetch.sources import TABLE, read_sources
from published_form import CAPTIONS, HEADERS, Row, published_row, write_published

SCENE = {
    "width": 40,
    "height": 30,
    "objects": {
        "12": {"name": "cat", "x": -3, "y": 1, "w": 20, "h": 2},
        "13": {"name": "dog", "x": 5, "y": 6, "w": 7, "h": 8},
    },
}


def _record(detailed: str, answer: str, *steps: str, question: str = "?") -> dict[str, Any]:
    """A question of GQA's file; a step is ``operation: argument`` or ``operation: argument [dependencies]``."""
    program = []
    for step in steps:
        text, _, dependencies = step.partition(" [")
        operation, _, argument = text.partition(": ")
        program.append(
            {"operation": operation, "dependencies": json.loads(f"[{dependencies or ']'}"), "argument": argument}
        )
    types = {"detailed": detailed, "semantic": "attr", "structural": "query"}
    return {"imageId": "0007", "question": question, "answer": answer, "types": types, "semantic": program}


def _exists(first: str, second: str) -> tuple[str, ...]:
    return (
        f"select: {first}", "filter color: not(red) [0]", "exist: ? [1]",
        f"select: {second} ", "filter color: not(red) [3]", "exist: ? [4]", "or:  [2, 5]",
    )  # fmt: skip


CAT, DOG = Box(-3, 1, 20, 2), Box(5, 6, 7, 8)
ATTRIBUTE = _record("chooseAttr", "red", "select: cat (12)", "choose color: blue|red [0]", question='Is "it", eh, red?')
# category -> record, options, and what must be read
CASES: dict[str, tuple[dict[str, Any], tuple[str, str], tuple[ChosenObject, ...]]] = {
    "ChooseAttr": (ATTRIBUTE, ("red", "blue"), (ChosenObject("object", "12", "cat", CAT),)),
    "ChooseCat": (
        _record("objThisChoose", "cat", "select: this (12)", "choose name: cat|dog [0]"),
        ("cat", "dog"),
        (ChosenObject("object", "12", "this", CAT),),
    ),
    "ChooseRel": (
        _record(
            "relChooser", "front", "select: cat (12)", "choose rel: dog,behind|in front of,s (13) [0]", question="Été?"
        ),
        ("front", "behind"),
        (ChosenObject("object1", "12", "cat", CAT), ChosenObject("object2", "13", "dog", DOG)),
    ),
    "CompareAttr": (
        _record("twoCommon", "color", "select: dog (13)", "select: cat (12) ", "common:  [0, 1]"),
        ("", ""),
        (ChosenObject("object1", "13", "dog", DOG), ChosenObject("object2", "12", "cat", CAT)),
    ),
    # The first object of the program is absent, so the row calls the second one object1.
    "LogicalObj": (
        _record("existThatOrC", "no", *_exists("mud (-)", "cat (12)")),
        ("", ""),
        (ChosenObject("object2", "12", "cat", CAT),),
    ),
    "QueryAttr": (
        _record("positionQuery", "left", "select: cat (12)", "query: hposition [0]"),
        ("", ""),
        (ChosenObject("object", "12", "cat", CAT),),
    ),
}


def _row(category: str = "ChooseAttr", question_id: str = "0012") -> Row:
    record, options, _ = CASES[category]
    return published_row(category, question_id, record, SCENE, options)


def _read(path: Path, category: str, *rows: Row) -> list[ChosenQuestion]:
    write_published(path / "set.csv", category, rows)
    return read_published(path / "set.csv", category)


@pytest.mark.parametrize("category", CASES)
def test_a_row_is_read_as_the_question_of_its_program_with_ids_as_text(category: str, tmp_path: Path) -> None:
    record, (true_option, false_option), objects = CASES[category]
    first, second = _read(tmp_path, category, _row(category), _row(category, "00013"))
    assert second.question_id == "00013"
    assert first == ChosenQuestion(
        "0012", "0007", category, record["types"]["detailed"], record["question"], record["answer"],
        true_option or None, false_option or None, objects,
    )  # fmt: skip


def test_a_question_whose_objects_are_all_absent_has_none(tmp_path: Path) -> None:
    record = _record("existThatOrC", "no", *_exists("mud (-)", "grass (-)"))
    row = published_row("LogicalObj", "1", record, SCENE, ("", ""))
    assert {row[f"object{n} {column}"] for n in (1, 2) for column in ("id", "x", "y", "w", "h")} == {"-"}
    (chosen,) = _read(tmp_path, "LogicalObj", row)
    assert chosen.objects == ()


def _steps(*steps: str) -> str:
    return repr(_record("", "", *steps)["semantic"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "green"}, "it does not belong to ChooseAttr: the answer is none of the options"),
        ({"type_detailed": "relS"}, "it does not belong to ChooseAttr: another kind of question"),
        (
            {"operations": _steps("select: cat (12)", "relate: dog,near,s (13) [0]", "choose color: blue|red [1]")},
            "it does not belong to ChooseAttr: the program is not the category's minimal one",
        ),
        (
            {"type_detailed": "positionQuery", "operations": _steps("select: cat (12)", "query: hposition [0]")},
            "it belongs to QueryAttr, not to ChooseAttr",
        ),
        (
            {"operations": _steps("select: cat (99)", "choose color: blue|red [0]")},
            "it does not belong to ChooseAttr: the object is not in the scene graph",
        ),
        ({"true option": "blue", "false option": "red"}, "its true option is 'blue', but 'red' by its program"),
        ({"false option": "green"}, "its false option is 'green', but 'blue' by its program"),
        ({"central object x": "12.5"}, "the box of its central object is not four whole numbers"),
        ({"central object w": "-"}, "the box of its central object is not four whole numbers"),
        ({"operations": "[" * 4000}, r"its operations are not the Python text of a list \(\w+Error\)"),
        ({"operations": "-" * 4000 + "1"}, r"its operations are not the Python text of a list \(\w+Error\)"),
        ({"operations": "(1," * 1500}, r"its operations are not the Python text of a list \(\w+Error\)"),
        ({"operations": "{[]: 1}"}, r"its operations are not the Python text of a list \(TypeError\)"),
        ({"operations": "exit()"}, r"its operations are not the Python text of a list \(ValueError\)"),
        ({"operations": "[" + "1," * 2500 + "]"}, "its operations are 5002 characters long, more than 5000"),
        ({"operations": "7"}, "its operations are not steps as in GQA's layout"),
        ({"operations": "[1]"}, "its operations are not steps as in GQA's layout"),
        ({"operations": "[{'operation': 'select'}]"}, "its operations are not steps as in GQA's layout .*dependencies"),
        (
            {"operations": "[{'operation': 'select', 'dependencies': [1e999], 'argument': ''}]"},
            "its operations are not steps as in GQA's layout .*inf. is not a list of whole numbers",
        ),
    ],
)
def test_a_row_that_is_no_question_of_its_category_is_named_with_its_line_and_the_reason(
    changes: dict[str, str], message: str, tmp_path: Path
) -> None:
    # The first row spans two lines, as its captions do.
    with pytest.raises(CrossflowError, match=message) as raised:
        _read(tmp_path, "ChooseAttr", _row(), _row(question_id="0013") | changes)
    assert f"{tmp_path / 'set.csv'}, line 4: question 0013 cannot be used: " in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_box_that_no_step_names_is_refused(tmp_path: Path) -> None:
    row = _row("LogicalObj") | {"object2 id": "13", **{f"object2 {side}": "1" for side in "xywh"}}
    with pytest.raises(CrossflowError, match="line 2: question 0012 .*its program does not name its object 13"):
        _read(tmp_path, "LogicalObj", row)


def test_two_boxes_of_one_object_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossflowError, match="line 2: question 0012 .*object 12 has two boxes"):
        _read(tmp_path, "CompareAttr", _row("CompareAttr") | {"object1 id": "12"})


def test_an_id_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossflowError, match="set.csv, line 4: question 0012 appears a second time"):
        _read(tmp_path, "QueryAttr", _row("QueryAttr"), _row("QueryAttr"))


@pytest.mark.parametrize("column", ["img_id", "operations", "object2 h", "object1 name"])
def test_a_lacking_column_is_named(column: str, tmp_path: Path) -> None:
    write_published(tmp_path / "set.csv", "CompareAttr", [_row("CompareAttr")])
    path = tmp_path / "set.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(column, "other", 1), encoding="utf-8")
    with pytest.raises(
        CrossflowError, match=f"set.csv is not a published question set: .*each of the columns {column} once"
    ):
        read_published(path, "CompareAttr")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "set.csv is not a published question set: .*question_id, img_id.*central object id"),
        (b"<html>404</html>\n", "set.csv is not a published question set"),
        (b"question_id\xff", "set.csv cannot be read .*utf-8"),
        (HEADERS["QueryAttr"].encode() + b"\n", "set.csv contains no question"),
        (HEADERS["QueryAttr"].encode() + b'\n"1"2,\n', "set.csv, line 2 is invalid or truncated CSV"),
        (HEADERS["QueryAttr"].replace("captions", "answer").encode() + b"\n", "the columns answer once"),
    ],
)
def test_a_file_of_another_form_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(content)
    with pytest.raises(CrossflowError, match=message):
        read_published(tmp_path / "set.csv", "QueryAttr")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrossflowError, match="set.csv cannot be read"):
        read_published(tmp_path / "set.csv", "QueryAttr")


@pytest.mark.parametrize("category", ["LogicalObj", "ChooseAttr"])
def test_a_file_cut_anywhere_but_between_rows_is_refused(category: str, tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    write_published(path, category, [_row(category), _row(category, "0013")])
    whole = path.read_bytes()
    # A cut between rows leaves a shorter set, which only the size or the checksum of the download can tell.
    between = whole.index(b"\n0013") + 1
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        if end != between:
            with pytest.raises(CrossflowError):
                read_published(path, category)
    path.write_bytes(whole[:between])
    assert len(read_published(path, category)) == 1


def test_line_ends_of_either_kind_are_read(tmp_path: Path) -> None:
    expected = _read(tmp_path, "QueryAttr", _row("QueryAttr"))
    path = tmp_path / "set.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_published(path, "QueryAttr") == expected


def test_the_files_are_those_of_the_table_of_sources(repo: Path) -> None:
    sources = read_sources(repo / TABLE)
    assert {name: sources[f"published-{name}"].url.rpartition("/")[2] for name in FILES} == FILES


def test_files_are_found_by_either_name_in_a_folder_or_alone(tmp_path: Path) -> None:
    write_published(tmp_path / "a" / FILES["QueryAttr"], "QueryAttr", [])
    write_published(tmp_path / "a" / "ChooseRel.csv", "ChooseRel", [])
    (tmp_path / "a" / "README.csv").touch()
    alone = tmp_path / "ChooseCat.csv"
    assert find_published([alone, tmp_path / "a"]) == {
        "ChooseCat": alone,
        "QueryAttr": tmp_path / "a" / FILES["QueryAttr"],
        "ChooseRel": tmp_path / "a" / "ChooseRel.csv",
    }
    with pytest.raises(CrossflowError, match="ChooseRel.csv and .*_ChooseRel.csv both contain ChooseRel"):
        find_published([tmp_path / "a", tmp_path / FILES["ChooseRel"]])
    with pytest.raises(CrossflowError, match="The name of .*README.csv does not give its category"):
        find_published([tmp_path / "a" / "README.csv"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CrossflowError, match="empty contains no published question set"):
        find_published([tmp_path / "empty"])


def _questions(output: Path, *options: str, category: str = "QueryAttr", number: str = "all") -> int:
    tables = ["--output", str(output / "chosen.csv"), "--rejections", str(output / "rejections.csv")]
    return main(["questions", *options, "--category", category, "--number", number, *tables])


def test_a_choice_among_published_questions_is_that_of_the_filter_and_rejects_none(tmp_path: Path) -> None:
    ids = [f"{number:04}" for number in range(20)]
    _write_split(tmp_path, dict.fromkeys(ids, CASES["QueryAttr"][0]))
    path = tmp_path / "QueryAttr.csv"
    write_published(path, "QueryAttr", [_row("QueryAttr", question_id) for question_id in reversed(ids)])
    options = ["--root", str(tmp_path), "--split", "val_balanced"]
    assert _questions(tmp_path / "split", *options, number="7") == 0
    assert _questions(tmp_path / "published", "--published", str(path), number="7") == 0
    split, published = (read_chosen(tmp_path / source / "chosen.csv") for source in ("split", "published"))
    # A published set does not give the sizes of its images.
    assert [replace(question, image_size=None) for question in split] == published
    assert len(published) == 7
    assert read_csv(tmp_path / "published" / "rejections.csv", REJECTIONS) == []


@pytest.mark.parametrize("options", [["--root", "."], ["--published", "QueryAttr.csv", "--split", "val_balanced"]])
def test_half_a_source_of_questions_is_refused(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _questions(tmp_path, *options) == 1
    assert "Name the questions by --root and --split, by --table" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--root", ".", "--split", "val_balanced", "--published", "QueryAttr.csv"]])
def test_no_source_of_questions_or_two_are_refused(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _questions(tmp_path, *options) == 1
    assert "Name the questions by --root and --split, by --table" in capsys.readouterr().err


def _write_split(root: Path, questions: dict[str, Any], scenes: dict[str, Any] | None = None) -> None:
    (root / "val_balanced_questions.json").write_text(json.dumps(questions))
    (root / "val_sceneGraphs.json").write_text(json.dumps({"0007": SCENE} if scenes is None else scenes))


Differences = set[tuple[str, str, str, str, str]]


def _overlap(root: Path, published: Iterable[Path], output: Path) -> tuple[dict[str, tuple[int, ...]], Differences]:
    """Category -> filter, published, both, missing, extra, differing; and the rows of the differences."""
    options = ["--root", str(root), "--split", "val_balanced", "--published", *map(str, published)]
    tables = ["--output", str(output / "overlap.csv"), "--differences", str(output / "differences.csv")]
    assert main(["overlap", *options, *tables]) == 0
    counts = read_csv(output / "overlap.csv", COUNTS)
    rows = read_csv(output / "differences.csv", DIFFERENCES)
    differences = {tuple(row[column] for column in DIFFERENCES) for row in rows}
    assert len(differences) == len(rows)
    return {row["category"]: tuple(row[column] for column in list(COUNTS)[1:]) for row in counts}, differences


def test_each_kind_of_difference_is_listed_with_its_reason(tmp_path: Path) -> None:
    query, _, _ = CASES["QueryAttr"]
    vertical = _record("positionQuery", "left", "select: cat (12)", "query: vposition [0]")
    questions = {
        "01": query,
        "02": query,  # not published
        "03": vertical,  # another program
        "04": query | {"imageId": "8"},  # no scene graph
        "05": query | {"answer": "right"},
        "06": ATTRIBUTE,  # of another category than published
        "07": query | {"types": {"detailed": "relS"}},
        "08": query,  # another box
        "10": ATTRIBUTE,
    }
    _write_split(tmp_path, questions)
    rows = [_row("QueryAttr", question_id) for question_id in ("01", "03", "04", "05", "06", "07", "08", "09")]
    rows[-2]["central object x"] = "-4"
    write_published(tmp_path / "QueryAttr.csv", "QueryAttr", rows)
    write_published(tmp_path / "ChooseAttr.csv", "ChooseAttr", [_row(question_id="10")])
    counts, differences = _overlap(tmp_path, [tmp_path / "QueryAttr.csv", tmp_path / "ChooseAttr.csv"], tmp_path)
    assert counts == {"ChooseAttr": (2, 1, 1, 0, 1, 0), "QueryAttr": (4, 8, 3, 5, 1, 2)}
    boxes = [
        json.dumps([{"role": "object", "id": "12", "name": "cat", "x": x, "y": 1, "w": 20, "h": 2}]) for x in (-4, -3)
    ]
    assert differences == {
        ("ChooseAttr", "06", "extra", "", ""),
        ("QueryAttr", "02", "extra", "", ""),
        ("QueryAttr", "03", "missing", "", "the program is not the category's minimal one"),
        ("QueryAttr", "04", "missing", "", "no scene graph"),
        ("QueryAttr", "05", "answer", "left", "right"),
        ("QueryAttr", "06", "missing", "", "chosen for ChooseAttr"),
        ("QueryAttr", "07", "missing", "", "another kind of question"),
        ("QueryAttr", "08", "objects", boxes[0], boxes[1]),
        ("QueryAttr", "09", "missing", "", "not in the split"),
    }


def test_a_broken_set_is_told_before_the_split_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "QueryAttr.csv").write_text("question_id\n")
    tables = ["--output", str(tmp_path / "a.csv"), "--differences", str(tmp_path / "b.csv")]
    options = ["--root", str(tmp_path), "--split", "val_balanced", "--published", str(tmp_path)]
    assert main(["overlap", *options, *tables]) == 1
    assert "QueryAttr.csv is not a published question set" in capsys.readouterr().err


Real = tuple[Path, dict[str, dict[str, Row]]]


@pytest.fixture(scope="module")
def real(shared: Path) -> Real:
    """The root of 2,776 real questions, and category -> id -> their row of the published sets."""
    root = shared / "gqa" / "published"
    questions = json.loads((root / "questions" / "val_balanced_questions.json").read_text())
    scenes = json.loads((root / "sceneGraphs" / "val_sceneGraphs.json").read_text())
    rows: dict[str, dict[str, Row]] = defaultdict(dict)
    for entry in _expected(root):
        question_id, category = entry["question_id"], entry["category"]
        record = questions[question_id]
        rows[category][question_id] = published_row(
            category, question_id, record, scenes[record["imageId"]], (entry["true_option"], entry["false_option"])
        )
    return root, rows


def _expected(root: Path) -> list[dict[str, str]]:
    with (root / "expected.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write_sets(folder: Path, rows: dict[str, dict[str, Row]]) -> None:
    for category, of_category in rows.items():
        write_published(folder / FILES[category], category, of_category.values())


def test_real_questions_come_back_from_the_published_form_as_expected(real: Real, tmp_path: Path) -> None:
    root, rows = real
    _write_sets(tmp_path, rows)
    expected = _expected(root)
    read = {
        question.question_id: question
        for category, path in find_published([tmp_path]).items()
        for question in read_published(path, category)
    }
    assert len(read) == len(expected) == 2776
    for entry in expected:
        question = read[entry["question_id"]]
        assert [question.category, question.answer, question.true_option or "", question.false_option or ""] == [
            entry[column] for column in ("category", "answer", "true_option", "false_option")
        ]
        boxes = [{"id": chosen.id, **chosen.box._asdict()} for chosen in question.objects]
        assert boxes == json.loads(entry["objects"]), question.question_id


def test_the_filter_finds_in_real_questions_exactly_the_published_ones(real: Real, tmp_path: Path) -> None:
    root, rows = real
    _write_sets(tmp_path / "sets", rows)
    counts, differences = _overlap(root, [tmp_path / "sets"], tmp_path)
    assert counts == {category: (len(rows[category]),) * 3 + (0, 0, 0) for category in FILES}
    assert sum(published for _, published, *_ in counts.values()) == 2776
    assert differences == set()


def test_rows_taken_out_added_or_changed_are_exactly_what_is_reported(real: Real, tmp_path: Path) -> None:
    root, rows = real
    changed = {category: dict(of_category) for category, of_category in rows.items()}
    unpublished = sorted(changed["ChooseRel"])[:3]
    for question_id in unpublished:
        del changed["ChooseRel"][question_id]
    changed["QueryAttr"]["0000"] = next(iter(rows["QueryAttr"].values())) | {"question_id": "0000"}
    moved, row = next(iter(rows["CompareAttr"].items()))
    changed["CompareAttr"][moved] = row | {"object2 w": str(int(row["object2 w"]) + 1)}
    swapped, row = next(
        (question_id, row)
        for question_id, row in rows["ChooseAttr"].items()
        if f"{row['true option']}|{row['false option']}" in row["operations"]
    )
    options = row["true option"], row["false option"]
    changed["ChooseAttr"][swapped] = row | {
        "answer": options[1],
        "true option": options[1],
        "false option": options[0],
    }
    _write_sets(tmp_path / "sets", changed)
    counts, differences = _overlap(root, [tmp_path / "sets"], tmp_path)
    sizes = {category: len(of_category) for category, of_category in rows.items()}
    assert counts == {category: (size, size, size, 0, 0, 0) for category, size in sizes.items()} | {
        "ChooseRel": (sizes["ChooseRel"], sizes["ChooseRel"] - 3, sizes["ChooseRel"] - 3, 0, 3, 0),
        "QueryAttr": (sizes["QueryAttr"], sizes["QueryAttr"] + 1, sizes["QueryAttr"], 1, 0, 0),
        "CompareAttr": (sizes["CompareAttr"],) * 3 + (0, 0, 1),
        "ChooseAttr": (sizes["ChooseAttr"],) * 3 + (0, 0, 1),
    }
    (boxes,) = [difference[3:] for difference in differences if difference[1] == moved]
    theirs, ours = (json.loads(cell) for cell in boxes)
    by_id = {entry["id"]: entry["w"] for entry in ours}
    second = rows["CompareAttr"][moved]["object2 id"]
    assert {entry["id"]: entry["w"] for entry in theirs} == by_id | {second: by_id[second] + 1}
    assert differences - {("CompareAttr", moved, "objects", *boxes)} == {
        *(("ChooseRel", question_id, "extra", "", "") for question_id in unpublished),
        ("QueryAttr", "0000", "missing", "", "not in the split"),
        ("ChooseAttr", swapped, "answer", options[1], options[0]),
        ("ChooseAttr", swapped, "true_option", options[1], options[0]),
        ("ChooseAttr", swapped, "false_option", options[0], options[1]),
    }


def test_captions_with_line_ends_and_quotes_move_no_cell(tmp_path: Path) -> None:
    assert {"\n", '"', ","} <= set(CAPTIONS)
    assert [question.question for question in _read(tmp_path, "ChooseAttr", _row(), _row(question_id="2"))] == [
        ATTRIBUTE["question"]
    ] * 2

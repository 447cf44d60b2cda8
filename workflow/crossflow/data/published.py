"""The published question sets, one CSV file per category, as the same records as from GQA's own files.

A row holds a question of GQA, its program (``operations``: the Python text of a list of steps), the names, ids and
boxes of its objects and, if the question offers any, its options. Rows pass through the filter's `classify` and
`attach_objects`: a set may contain only questions that the filter accepts, and a row's options and objects must agree
with its program.

Boxes are looked up by the program's object ids: ``object1`` of a row need not come first in the program.

Source: folder ``datasets/`` of the published repository.
"""

import ast
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crossflow.core.errors import CrossflowError
from crossflow.core.records import Box, ChosenQuestion, SceneGraph, SceneObject
from crossflow.data.categories import Rejection, attach_objects, classify
from crossflow.data.gqa import NOT_AS_IN_GQA, parse_question, read_box
from crossflow.data.text import composed

FILES = {
    "ChooseAttr": "GQA_val_correct_question_with_choose_ChooseAttr.csv",
    "ChooseCat": "GQA_val_correct_question_with_categoryThatThisChoose_objThisChoose_ChooseCat.csv",
    "ChooseRel": "GQA_val_correct_question_with_relChooser_ChooseRel.csv",
    "CompareAttr": "GQA_val_correct_question_with_twoCommon_CompareAttr.csv",
    "LogicalObj": "GQA_val_correct_question_with_existThatOr_LogicalObj.csv",
    "QueryAttr": "GQA_val_correct_question_with_positionQuery_QueryAttr.csv",
}

_COLUMNS = ("question_id", "img_id", "question", "answer", "type_detailed", "operations")
_ABSENT = "-"
# Real programs have at most about 600 characters. Python's parser is not safe on unbounded hostile text.
_LONGEST_PROGRAM = 5000


def _objects(columns: Sequence[str]) -> list[str]:
    """Names of the object columns: ``central object``, or ``object1`` and ``object2``."""
    return [column.removesuffix(" id") for column in columns if column.endswith(" id")]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a file, each with its first line number (captions may contain line breaks).

    Raises:
        CrossflowError: the file is missing, truncated or no CSV file, or lacks a column.
    """
    try:
        text = composed(path.read_bytes().decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CrossflowError(f"{path} cannot be read ({error}).") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        columns = list(reader.fieldnames or ())
        objects = _objects(columns) or ["central object"]
        needed = [*_COLUMNS, *(f"{prefix} {column}" for prefix in objects for column in ("name", "id", *Box._fields))]
        wrong = [column for column in needed if columns.count(column) != 1]
        if wrong:
            raise CrossflowError(
                f"{path} is not a published question set: it must have each of the columns {', '.join(wrong)} once."
            )
        line = reader.line_num + 1
        for row in reader:
            # An extra cell has no column; a column without a cell is None.
            if None in row or None in row.values():
                raise CrossflowError(f"{path}, line {line}: {len(columns)} cells were expected; is the file truncated?")
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise CrossflowError(f"{path}, line {line} is invalid or truncated CSV ({error}).") from error
    # A truncated last number still leaves the row with all its cells.
    if not text.endswith("\n"):
        raise CrossflowError(f"{path} is truncated: its last line has no end.")


def _program(text: str) -> Any:
    if len(text) > _LONGEST_PROGRAM:
        raise ValueError(f"its operations are {len(text)} characters long, more than {_LONGEST_PROGRAM}")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"its operations are not the Python text of a list ({type(error).__name__})") from error


def _scene(row: dict[str, str]) -> SceneGraph:
    """The objects of a row that exist, as the scene graph of its image."""
    objects: dict[str, SceneObject] = {}
    for prefix in _objects(list(row)):
        object_id = row[f"{prefix} id"]
        if object_id == _ABSENT:
            continue
        try:
            box = read_box({side: int(row[f"{prefix} {side}"]) for side in Box._fields})
        except ValueError as error:
            raise ValueError(f"the box of its {prefix} is not four whole numbers ({error})") from error
        if objects.setdefault(object_id, SceneObject(object_id, row[f"{prefix} name"], box)).box != box:
            raise ValueError(f"object {object_id} has two boxes")
    return SceneGraph(row["img_id"], objects)


def _chosen(row: dict[str, str], category: str) -> ChosenQuestion:
    """The question of a row. Raises ValueError with the reason if it cannot be used."""
    record = {
        "imageId": row["img_id"],
        "question": row["question"],
        "answer": row["answer"],
        "types": {"detailed": row["type_detailed"]},
        "semantic": _program(row["operations"]),
    }
    try:
        question = parse_question(row["question_id"], record)
    except NOT_AS_IN_GQA as error:
        raise ValueError(f"its operations are not steps as in GQA's layout ({error!r})") from error
    scene = _scene(row)
    result = classify(question)
    chosen = result if isinstance(result, Rejection) else attach_objects(result, scene)
    if isinstance(chosen, Rejection):
        raise ValueError(f"it does not belong to {category}: {chosen.reason}")
    if chosen.category != category:
        raise ValueError(f"it belongs to {chosen.category}, not to {category}")
    unnamed = scene.objects.keys() - {entry.id for entry in chosen.objects}
    if unnamed:
        raise ValueError(f"its program does not name its object {', '.join(sorted(unnamed))}")
    for column, option in (("true option", chosen.true_option), ("false option", chosen.false_option)):
        if column in row and row[column].strip() != (option or ""):
            raise ValueError(f"its {column} is {row[column]!r}, but {option!r} by its program and answer")
    return chosen


def read_published(path: Path, category: str) -> list[ChosenQuestion]:
    """The published questions of a category, in the order of the file.

    Raises:
        CrossflowError: the file is missing, broken or empty, an id is repeated, or a row is not a question of the
            category with the options and objects of its program.
    """
    chosen: dict[str, ChosenQuestion] = {}
    for line, row in _rows(path):
        question_id = row["question_id"]
        if question_id in chosen:
            raise CrossflowError(f"{path}, line {line}: question {question_id} appears a second time.")
        try:
            chosen[question_id] = _chosen(row, category)
        except ValueError as error:
            raise CrossflowError(f"{path}, line {line}: question {question_id} cannot be used: {error}.") from error
    if not chosen:
        raise CrossflowError(f"{path} contains no question.")
    return list(chosen.values())


def find_published(paths: Sequence[Path]) -> dict[str, Path]:
    """Find the file of each category, named as published or ``{category}.csv``, among files and folders.

    Raises:
        CrossflowError: a file has another name, a folder holds no set, or a category has two files.
    """
    named = {f"{category}.csv": category for category in FILES} | {name: category for category, name in FILES.items()}
    found: dict[str, Path] = {}
    for path in paths:
        files = [path / name for name in named if (path / name).is_file()] if path.is_dir() else [path]
        if not files:
            raise CrossflowError(f"{path} contains no published question set, such as {FILES['ChooseAttr']}.")
        for file in files:
            if file.name not in named:
                raise CrossflowError(
                    f"The name of {file} does not give its category; name it as published, or {{category}}.csv."
                )
            category = named[file.name]
            if category in found:
                raise CrossflowError(f"{found[category]} and {file} both contain {category}: give one of them.")
            found[category] = file
    return found

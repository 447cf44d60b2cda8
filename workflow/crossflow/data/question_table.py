"""Your own questions: a CSV file beside a folder of images.

Columns, in any order; the first four are required:

    question_id    text, each once
    image          a file in the folder of images, such as cat.jpg
    question       the text of the question
    answer         the whole answer that counts as correct; case does not matter
    category       a word of letters, digits, "-" and "_"; without the column, the category is `questions`
    true_option    for questions that offer two options: the answer
    false_option   and the other option
    objects        what the question is about: a JSON list of {"name": .., "x": .., "y": .., "w": .., "h": ..}, boxes in
                   pixels of the image; without objects, `related` is missing
    pair_image     for activation patching: another image, about which the same question has another answer
    pair_answer    and that answer; if the question offers two options, the false one
    pair_objects   the same objects in that image, in the order of `objects`
"""

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from crossflow.core.errors import CrossflowError
from crossflow.core.records import ChosenObject, ChosenQuestion
from crossflow.data.boxes import lies_outside
from crossflow.data.gqa import NOT_AS_IN_GQA, read_box, read_text
from crossflow.data.images import image_file, size_of
from crossflow.data.text import composed, composed_json

NEEDED = ("question_id", "image", "question", "answer")
OPTIONAL = ("category", "true_option", "false_option", "objects", "pair_image", "pair_answer", "pair_objects")
DEFAULT_CATEGORY = "questions"
CATEGORY = re.compile("[A-Za-z0-9_-]+")
_LISTED = 10  # bad rows listed in a message


class _BadRow(Exception):
    """Why a row cannot be used."""


class Row(NamedTuple):
    """A row of a table: its question, and the pair that it gives for it, if any."""

    question: ChosenQuestion
    pair: ChosenQuestion | None


def _objects(cells: Mapping[str, str], column: str, size: tuple[int, int] | None) -> tuple[ChosenObject, ...]:
    """The objects of a column's cell, in an image whose size may be unknown."""
    text = cells.get(column, "")
    if not text:
        return ()
    try:
        entries = composed_json(json.loads(text))
        names = [read_text(entry, "name") for entry in entries]
        boxes = [read_box(entry) for entry in entries]
    except (*NOT_AS_IN_GQA, RecursionError) as error:
        raise _BadRow(f"{column} is not a JSON list of name, x, y, w and h ({error})") from error
    for name, box in zip(names, boxes, strict=True):
        if box.w < 1 or box.h < 1:
            raise _BadRow(f"the box of {name!r} has no area")
        if size is not None and lies_outside(box, size):
            raise _BadRow(f"the box of {name!r} lies outside the image, which has {size[0]} x {size[1]} pixels")
    numbers = [""] if len(names) == 1 else map(str, range(1, len(names) + 1))
    return tuple(
        ChosenObject(f"object{number}", str(index), name, box)
        for index, (number, name, box) in enumerate(zip(numbers, names, boxes, strict=True))
    )


def _image(name: str, images: Path) -> tuple[str, Path]:
    """The id of the image that a cell names, and its file."""
    image = PurePosixPath(name)
    if image.is_absolute() or ".." in image.parts:
        raise _BadRow(f"the image {image} is outside the folder of images")
    try:
        file = image_file(images, image)
        there = file.is_file()
    except (OSError, ValueError) as error:
        raise _BadRow(f"{image} is not a valid file name ({error})") from error
    if not there:
        raise _BadRow(f"the image {file} does not exist")
    return str(image), file


def _question(cells: Mapping[str, str], images: Path) -> ChosenQuestion:
    if empty := [name for name in NEEDED if not cells[name]]:
        raise _BadRow(f"{empty[0]} is empty")
    image_id, file = _image(cells["image"], images)
    category = cells.get("category") or DEFAULT_CATEGORY
    if not CATEGORY.fullmatch(category):
        raise _BadRow(f"the category {category!r} contains characters other than letters, digits, - and _")
    options = cells.get("true_option") or None, cells.get("false_option") or None
    if (options[0] is None) != (options[1] is None):
        raise _BadRow("only one of the two options is given")
    if options[0] is not None and options[0].lower() != cells["answer"].lower():
        raise _BadRow(f"the true option {options[0]!r} differs from the answer {cells['answer']!r}")
    if options[0] is not None and options[0] == options[1]:
        raise _BadRow(f"both options are {options[0]!r}")
    size = size_of(file)
    return ChosenQuestion(
        cells["question_id"],
        image_id,
        category,
        "",
        cells["question"],
        cells["answer"],
        *options,
        _objects(cells, "objects", size),
        size,
    )


def _pair(cells: Mapping[str, str], question: ChosenQuestion, images: Path) -> ChosenQuestion | None:
    """The pair of a row's question, if its cells give one."""
    name, answer = (cells.get(column, "") for column in ("pair_image", "pair_answer"))
    if not name and not answer:
        if cells.get("pair_objects"):
            raise _BadRow("pair_objects is given without pair_image")
        return None
    if not name or not answer:
        raise _BadRow("only one of pair_image and pair_answer is given")
    image_id, file = _image(name, images)
    if image_id == question.image_id:
        raise _BadRow(f"pair_image is the question's own image {image_id}")
    if answer.lower() == question.answer.lower():
        raise _BadRow(f"pair_answer is the question's own answer {question.answer!r}")
    if question.false_option is not None and answer.lower() != question.false_option.lower():
        raise _BadRow(f"pair_answer {answer!r} differs from the false option {question.false_option!r}")
    size = size_of(file)
    objects = _objects(cells, "pair_objects", size)
    if len(objects) != len(question.objects):
        raise _BadRow(f"objects and pair_objects differ in number, {len(question.objects)} and {len(objects)}")
    return replace(
        question,
        image_id=image_id,
        answer=answer,
        true_option=question.false_option,
        false_option=question.true_option,
        objects=objects,
        image_size=size,
    )


def _row(row: Mapping[str, str | None], images: Path) -> Row:
    if None in row or None in row.values():
        raise _BadRow("its number of cells differs from the first line's")
    cells = {name: composed(value or "").strip() for name, value in row.items()}
    question = _question(cells, images)
    return Row(question, _pair(cells, question, images))


def read_rows(path: Path, images: Path) -> list[Row]:
    """Read all rows of a table, in its order; ``image_id`` is the image's file name.

    Raises:
        CrossflowError: the file is missing or no CSV in UTF-8, a column is missing or unknown, or rows cannot be used;
            the message names their lines.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or ())
            if lacking := [name for name in NEEDED if name not in columns]:
                raise CrossflowError(
                    f"{path} has no column {lacking[0]}; its columns are {', '.join(columns) or 'none'}."
                )
            if unknown := [name for name in columns if name not in (*NEEDED, *OPTIONAL)]:
                known = ", ".join((*NEEDED, *OPTIONAL))
                raise CrossflowError(f"{path} has an unknown column {unknown[0]!r}; choose from {known}.")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CrossflowError(f"{path} cannot be read as a CSV file in UTF-8 ({error}).") from error
    found: dict[str, Row] = {}
    bad = []
    for line, row in rows:
        try:
            one = _row(row, images)
            if one.question.question_id in found:
                raise _BadRow(f"question_id {one.question.question_id} appears twice")
            found[one.question.question_id] = one
        except _BadRow as reason:
            bad.append(f"line {line}: {reason}")
    if bad:
        more = f"; and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
        raise CrossflowError(f"{path} has unusable rows: {'; '.join(bad[:_LISTED])}{more}.")
    return list(found.values())


def read_question_table(path: Path, images: Path) -> list[ChosenQuestion]:
    """Read the questions of a table, in its order.

    Raises:
        CrossflowError: as `read_rows`.
    """
    return [row.question for row in read_rows(path, images)]

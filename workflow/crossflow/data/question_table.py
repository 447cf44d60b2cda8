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
"""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from crossflow.core.errors import CrossflowError
from crossflow.core.records import ChosenObject, ChosenQuestion
from crossflow.data.boxes import lies_outside
from crossflow.data.gqa import NOT_AS_IN_GQA, read_box, read_text
from crossflow.data.images import image_file, size_of
from crossflow.data.text import composed, composed_json

NEEDED = ("question_id", "image", "question", "answer")
OPTIONAL = ("category", "true_option", "false_option", "objects")
DEFAULT_CATEGORY = "questions"
CATEGORY = re.compile("[A-Za-z0-9_-]+")
_LISTED = 10  # bad rows listed in a message


class _BadRow(Exception):
    """Why a row cannot be used."""


def _objects(text: str) -> tuple[ChosenObject, ...]:
    if not text:
        return ()
    try:
        entries = composed_json(json.loads(text))
        names = [read_text(entry, "name") for entry in entries]
        boxes = [read_box(entry) for entry in entries]
    except (*NOT_AS_IN_GQA, RecursionError) as error:
        raise _BadRow(f"objects is not a JSON list of name, x, y, w and h ({error})") from error
    for name, box in zip(names, boxes, strict=True):
        if box.w < 1 or box.h < 1:
            raise _BadRow(f"the box of {name!r} has no area")
    numbers = [""] if len(names) == 1 else map(str, range(1, len(names) + 1))
    return tuple(
        ChosenObject(f"object{number}", str(index), name, box)
        for index, (number, name, box) in enumerate(zip(numbers, names, boxes, strict=True))
    )


def _question(row: Mapping[str, str | None], images: Path) -> ChosenQuestion:
    if None in row or None in row.values():
        raise _BadRow("its number of cells differs from the first line's")
    cells = {name: composed(value or "").strip() for name, value in row.items()}
    if empty := [name for name in NEEDED if not cells[name]]:
        raise _BadRow(f"{empty[0]} is empty")
    image = PurePosixPath(cells["image"])
    if image.is_absolute() or ".." in image.parts:
        raise _BadRow(f"the image {image} is outside the folder of images")
    try:
        file = image_file(images, image)
        there = file.is_file()
    except (OSError, ValueError) as error:
        raise _BadRow(f"{image} is not a valid file name ({error})") from error
    if not there:
        raise _BadRow(f"the image {file} does not exist")
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
    objects, size = _objects(cells.get("objects", "")), size_of(file)
    for chosen in objects:
        if size is not None and lies_outside(chosen.box, size):
            raise _BadRow(f"the box of {chosen.name!r} lies outside the image, which has {size[0]} x {size[1]} pixels")
    return ChosenQuestion(
        cells["question_id"],
        str(image),
        category,
        "",
        cells["question"],
        cells["answer"],
        *options,
        objects,
        size,
    )


def read_question_table(path: Path, images: Path) -> list[ChosenQuestion]:
    """Read all questions of a table, in its order; ``image_id`` is the image's file name.

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
    questions: dict[str, ChosenQuestion] = {}
    bad = []
    for line, row in rows:
        try:
            question = _question(row, images)
            if question.question_id in questions:
                raise _BadRow(f"question_id {question.question_id} appears twice")
            questions[question.question_id] = question
        except _BadRow as reason:
            bad.append(f"line {line}: {reason}")
    if bad:
        more = f"; and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
        raise CrossflowError(f"{path} has unusable rows: {'; '.join(bad[:_LISTED])}{more}.")
    return list(questions.values())

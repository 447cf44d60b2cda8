"""The tables of chosen questions, and of their pairs: written by the choice, read by every experiment."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crossflow.core.columns import LATER_QUESTIONS, QUESTIONS, REJECTIONS
from crossflow.core.errors import CrossflowError
from crossflow.core.records import ChosenObject, ChosenQuestion
from crossflow.core.tables import read_csv, write_csv
from crossflow.data.gqa import NOT_AS_IN_GQA, read_box, read_text


def chosen_row(question: ChosenQuestion) -> dict[str, Any]:
    """The row of ``questions/{category}.csv``."""
    objects = [
        {"role": chosen.role, "id": chosen.id, "name": chosen.name} | chosen.box._asdict()
        for chosen in question.objects
    ]
    size = question.image_size and "x".join(map(str, question.image_size))
    return asdict(question) | {"objects": json.dumps(objects, ensure_ascii=False), "image_size": size}


def write_chosen(path: Path, questions: Sequence[ChosenQuestion]) -> None:
    """Write ``questions/{category}.csv``."""
    write_csv(path, QUESTIONS, map(chosen_row, questions))


def write_rejections(path: Path, category: str, reasons: Mapping[str, int]) -> None:
    """Write ``questions/{category}.rejections.csv``, the count of each reason."""
    rows = [{"category": category, "reason": reason, "n": count} for reason, count in sorted(reasons.items())]
    write_csv(path, REJECTIONS, rows)


def _size(text: str) -> tuple[int, int] | None:
    width, _, height = text.partition("x")
    return (int(width), int(height)) if text else None


def read_chosen(path: Path) -> list[ChosenQuestion]:
    """Read ``questions/{category}.csv``.

    Raises:
        CrossflowError: the file is absent, has other columns, holds an id twice, or a row is not as written.
    """
    chosen: dict[str, ChosenQuestion] = {}
    for row in read_csv(path, QUESTIONS, later=LATER_QUESTIONS):
        question_id = row["question_id"]
        if question_id in chosen:
            raise CrossflowError(f"{path} contains question {question_id} twice.")
        if not question_id.strip() or bool(row["true_option"]) != bool(row["false_option"]):
            raise CrossflowError(f"{path}: question {question_id!r} has no id, or only one option.")
        try:
            objects = tuple(
                ChosenObject(
                    read_text(entry, "role"), read_text(entry, "id"), read_text(entry, "name"), read_box(entry)
                )
                for entry in json.loads(row["objects"])
            )
            size = _size(row["image_size"])
        except (*NOT_AS_IN_GQA, RecursionError) as error:
            raise CrossflowError(
                f"{path}: the objects of question {question_id} are not a JSON list of role, id, name, x, y, w, h, or "
                f"its image_size {row['image_size']!r} is not width x height."
            ) from error
        chosen[question_id] = ChosenQuestion(
            question_id,
            row["image_id"],
            row["category"],
            row["detailed"],
            row["question"],
            row["answer"],
            row["true_option"] or None,
            row["false_option"] or None,
            objects,
            size,
        )
    return list(chosen.values())

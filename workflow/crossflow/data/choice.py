"""Choosing the questions of a category, from a data set in GQA's layout, a published set or your own table."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crossflow.core.errors import CrossflowError
from crossflow.core.records import ChosenQuestion
from crossflow.data.categories import CATEGORIES
from crossflow.data.chosen import write_chosen, write_rejections
from crossflow.data.filtering import find_questions
from crossflow.data.published import read_published
from crossflow.data.question_table import read_question_table
from crossflow.data.sampling import sample_questions


@dataclass(frozen=True)
class QuestionSource:
    """Where questions come from: a root with its split, a table with its images, or a published set.

    Attributes:
        root: Data set in GQA's layout; images are not needed.
        split: Split of the data set, for example val_balanced.
        table: Your own questions (CSV).
        images: The table's folder of images.
        published: The published question set of the category (CSV).
    """

    root: Path | None = None
    split: str | None = None
    table: Path | None = None
    images: Path | None = None
    published: Path | None = None

    def __str__(self) -> str:
        """The name of the source in messages."""
        return f"{self.split} in {self.root}" if self.root is not None else str(self.table or self.published)


def _of_table(path: Path, images: Path, category: str) -> tuple[list[ChosenQuestion], Counter[str]]:
    questions = read_question_table(path, images)
    found = [question for question in questions if question.category == category]
    if not found:
        known = ", ".join(dict.fromkeys(question.category for question in questions)) or "none"
        raise CrossflowError(f"{path} has no question of category {category!r}; its categories are {known}.")
    return found, Counter()


def questions_of(source: QuestionSource, category: str) -> tuple[list[ChosenQuestion], Counter[str]]:
    """All questions of a category, and how often each reason rejects others.

    Raises:
        CrossflowError: the source is not named as one, its category is unknown, or a file is missing or broken.
    """
    given = {name for name, value in vars(source).items() if value is not None}
    if given == {"table", "images"} and source.table and source.images:
        return _of_table(source.table, source.images, category)
    if category not in CATEGORIES:
        raise CrossflowError(f"Unknown category {category!r}; choose from {', '.join(CATEGORIES)}.")
    if given == {"published"} and source.published:
        # A file with a row of another category is refused, so no rejection is left to count.
        return read_published(source.published, category), Counter()
    if given == {"root", "split"} and source.root and source.split:
        return find_questions(source.root, source.split, category)
    raise CrossflowError("Name the questions by --root and --split, by --table and --images, or by --published.")


def write_questions(
    source: QuestionSource,
    category: str,
    output: Path,
    rejections: Path,
    number: int | Literal["all"] = "all",
    seed: int = 0,
) -> None:
    """Choose the questions of one category, and count why others are rejected.

    Args:
        source: Where they come from.
        category: Category of the questions, for example ChooseAttr.
        output: Table of the chosen questions (CSV).
        rejections: Table that counts why questions are rejected (CSV).
        number: Number of questions, or all.
        seed: Seed of the choice.

    Raises:
        CrossflowError: no question fits, or a file is missing or broken.
    """
    if number != "all" and number < 1:
        raise CrossflowError(f"The number of questions is {number}; give a number above 0, or all.")
    found, reasons = questions_of(source, category)
    write_rejections(rejections, category, reasons)
    if not found:
        counts = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common()) or "it has no questions"
        raise CrossflowError(f"No question of {source} belongs to {category} ({counts}).")
    write_chosen(output, sample_questions(found, None if number == "all" else number, seed))

"""``crossflow questions``: choose the questions of one category, from files in GQA's layout or the published sets."""

import argparse
from collections import Counter
from pathlib import Path

from crossflow.categories import CATEGORIES
from crossflow.errors import CrossflowError
from crossflow.filtering import find_questions
from crossflow.gqa import ChosenQuestion, write_chosen
from crossflow.published import read_published
from crossflow.question_table import read_question_table
from crossflow.sampling import choose
from crossflow.tables import REJECTIONS, write_csv


def _number(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number above 0 nor the word all")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--root", type=Path, help="data set in GQA's layout; pictures are not needed")
    source.add_argument("--table", type=Path, help="questions of one's own (CSV)")
    source.add_argument("--published", type=Path, help="the published question set of the category (CSV)")
    parser.add_argument("--split", help="of the data set, for example val_balanced")
    parser.add_argument("--pictures", type=Path, help="the table's folder of pictures")
    parser.add_argument("--category", required=True)
    parser.add_argument("--number", type=_number, required=True, help="how many questions, or all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="table of the chosen questions (CSV)")
    parser.add_argument("--rejections", type=Path, required=True, help="table of the reasons against the others (CSV)")


def _of_table(path: Path, images: Path, category: str) -> tuple[list[ChosenQuestion], Counter[str]]:
    questions = read_question_table(path, images)
    found = [question for question in questions if question.category == category]
    if not found:
        known = ", ".join(dict.fromkeys(question.category for question in questions)) or "none"
        raise CrossflowError(f"{path} has no question of category {category!r}; its categories are {known}.")
    return found, Counter()


def _find(arguments: argparse.Namespace) -> tuple[list[ChosenQuestion], Counter[str]]:
    if (arguments.root is None) != (arguments.split is None):
        raise CrossflowError("--root and --split belong together.")
    if (arguments.table is None) != (arguments.pictures is None):
        raise CrossflowError("--table and --pictures belong together.")
    if arguments.table is not None:
        return _of_table(arguments.table, arguments.pictures, arguments.category)
    if arguments.category not in CATEGORIES:
        raise CrossflowError(f"{arguments.category!r} is none of {', '.join(CATEGORIES)}.")
    if arguments.published is not None:
        # Every row is of the category, or the file is refused: nothing is left to count.
        return read_published(arguments.published, arguments.category), Counter()
    return find_questions(arguments.root, arguments.split, arguments.category)


def run(arguments: argparse.Namespace) -> None:
    """Choose them.

    Raises:
        CrossflowError: there is none, or a file is absent or broken.
    """
    category = arguments.category
    found, reasons = _find(arguments)
    write_csv(
        arguments.rejections,
        REJECTIONS,
        [{"category": category, "reason": reason, "n": count} for reason, count in sorted(reasons.items())],
    )
    if not found:
        counts = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common()) or "there is none at all"
        raise CrossflowError(f"No question of {arguments.split} in {arguments.root} belongs to {category} ({counts}).")
    write_chosen(arguments.output, choose(found, arguments.number, arguments.seed))

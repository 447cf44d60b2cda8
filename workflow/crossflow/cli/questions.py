"""``crossflow questions``: choose the questions of one category."""

import argparse
from pathlib import Path

from crossflow.cli.options import settings_of
from crossflow.core.errors import CrossflowError
from crossflow.data.choice import QuestionSource, write_questions


def _number(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number above 0 nor the word all")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--root", type=Path, help="data set in GQA's layout; images are not needed")
    source.add_argument("--table", type=Path, help="questions of one's own (CSV)")
    source.add_argument("--published", type=Path, help="the published question set of the category (CSV)")
    parser.add_argument("--split", help="of the data set, for example val_balanced")
    parser.add_argument("--images", type=Path, help="the table's folder of images")
    parser.add_argument("--category", required=True)
    parser.add_argument("--number", type=_number, required=True, help="how many questions, or all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="table of the chosen questions (CSV)")
    parser.add_argument("--rejections", type=Path, required=True, help="table of the reasons against the others (CSV)")


def run(arguments: argparse.Namespace) -> None:
    """Choose the questions.

    Raises:
        CrossflowError: an option lacks the one that belongs to it, or see `write_questions`.
    """
    for one, other in (("root", "split"), ("table", "images")):
        if (getattr(arguments, one) is None) != (getattr(arguments, other) is None):
            raise CrossflowError(f"--{one} and --{other} belong together.")
    source = settings_of(QuestionSource, arguments)
    write_questions(
        source, arguments.category, arguments.number, arguments.seed, arguments.output, arguments.rejections
    )

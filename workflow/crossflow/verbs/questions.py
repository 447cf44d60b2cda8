"""``crossflow questions``: choose the questions of one category from files in GQA's layout."""

import argparse
from collections import Counter
from pathlib import Path

from crossflow.categories import CATEGORIES, OTHER_KIND, Classified, Rejection, attach_objects, classify
from crossflow.errors import CrossflowError
from crossflow.gqa import ChosenQuestion, read_questions, read_scenes, scenes_file, write_chosen
from crossflow.sampling import choose
from crossflow.tables import REJECTIONS, write_csv


def _number(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number above 0 nor the word all")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="data set in GQA's layout; pictures are not needed")
    parser.add_argument("--split", required=True, help="for example val_balanced")
    parser.add_argument("--category", required=True, choices=CATEGORIES)
    parser.add_argument("--number", type=_number, required=True, help="how many questions, or all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="table of the chosen questions (CSV)")
    parser.add_argument("--rejections", type=Path, required=True, help="table of the reasons against the others (CSV)")


def find_questions(root: Path, split: str, category: str) -> tuple[list[ChosenQuestion], Counter[str]]:
    """All questions of a category, and how many others there are for which reason.

    One pass over the questions and one over the scene graphs. Only the questions of the category and the scene graphs
    of their pictures stay in memory.

    Raises:
        CrossflowError: either file is absent or broken.
    """
    # Asked for first, so that an absent file is not found after minutes of reading.
    scenes_file(root, split)
    classified: list[Classified] = []
    reasons: Counter[str] = Counter()
    for question in read_questions(root, split, progress=True):
        result = classify(question)
        if result.category != category:
            reasons[OTHER_KIND] += 1
        elif isinstance(result, Rejection):
            reasons[result.reason] += 1
        else:
            classified.append(result)
    scenes = read_scenes(root, split, {entry.question.image_id for entry in classified}, progress=True)
    found: list[ChosenQuestion] = []
    for entry in classified:
        chosen = attach_objects(entry, scenes.get(entry.question.image_id))
        if isinstance(chosen, Rejection):
            reasons[chosen.reason] += 1
        else:
            found.append(chosen)
    return found, reasons


def run(arguments: argparse.Namespace) -> None:
    category = arguments.category
    found, reasons = find_questions(arguments.root, arguments.split, category)
    write_csv(
        arguments.rejections,
        REJECTIONS,
        [{"category": category, "reason": reason, "n": count} for reason, count in sorted(reasons.items())],
    )
    if not found:
        counts = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common()) or "there is none at all"
        raise CrossflowError(f"No question of {arguments.split} in {arguments.root} belongs to {category} ({counts}).")
    write_chosen(arguments.output, choose(found, arguments.number, arguments.seed))

"""``crossflow questions``: choose the questions of each category from files in GQA's layout."""

import argparse
from collections import Counter
from pathlib import Path

from crossflow.categories import CATEGORIES, Classified, Rejection, attach_objects, classify
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
    parser.add_argument("--categories", nargs="+", required=True, choices=CATEGORIES)
    parser.add_argument("--number", type=_number, required=True, help="questions per category, or all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-folder", type=Path, required=True)


def find_questions(root: Path, split: str) -> tuple[dict[str, list[ChosenQuestion]], Counter[Rejection]]:
    """All questions of each category, and how many were rejected for which reason.

    One pass over the questions and one over the scene graphs. Only the questions of the six categories and the scene
    graphs of their pictures stay in memory. Measured on 132,062 repeated real questions with 10,696 scene graphs: the
    whole command peaks at 160 MB (5 s) where one question in twenty belongs to the six categories, as in testdev, and
    at 460 MB (12 s) where all do; 110 MB of it are imports.

    Raises:
        CrossflowError: either file is absent or broken.
    """
    # Asked for first, so that an absent file is not found after minutes of reading.
    scenes_file(root, split)
    classified: list[Classified] = []
    rejections: Counter[Rejection] = Counter()
    for question in read_questions(root, split, progress=True):
        result = classify(question)
        if isinstance(result, Rejection):
            rejections[result] += 1
        else:
            classified.append(result)
    scenes = read_scenes(root, split, {entry.question.image_id for entry in classified}, progress=True)
    found: dict[str, list[ChosenQuestion]] = {category: [] for category in CATEGORIES}
    for entry in classified:
        chosen = attach_objects(entry, scenes.get(entry.question.image_id))
        if isinstance(chosen, Rejection):
            rejections[chosen] += 1
        else:
            found[entry.category].append(chosen)
    return found, rejections


def run(arguments: argparse.Namespace) -> None:
    found, rejections = find_questions(arguments.root, arguments.split)
    write_csv(
        arguments.output_folder / "rejections.csv",
        REJECTIONS,
        [
            {"category": rejection.category, "reason": rejection.reason, "n": count}
            for rejection, count in sorted(rejections.items())
        ],
    )
    for category in arguments.categories:
        if not found[category]:
            reasons = "; ".join(
                f"{count} x {rejection.reason}"
                for rejection, count in rejections.most_common()
                if rejection.category in ("", category)
            )
            raise CrossflowError(
                f"No question of {arguments.split} in {arguments.root} belongs to {category} ({reasons or 'no data'})."
            )
    for category in arguments.categories:
        write_chosen(
            arguments.output_folder / f"{category}.csv",
            choose(found[category], arguments.number, arguments.seed),
        )

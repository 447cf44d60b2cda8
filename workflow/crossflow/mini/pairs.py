"""The pairs of the mini world's questions, as a table and a zip of their images; see `crossflow.mini.changes`."""

import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.progress import progress_of
from crossflow.core.records import ChosenQuestion, Step
from crossflow.data.chosen import read_chosen, write_chosen, write_rejections
from crossflow.data.gqa import questions_file, read_questions
from crossflow.mini.changes import CHANGES, Change, change_of
from crossflow.mini.drawing import draw_image
from crossflow.mini.world import add_image

NO_ROOM = "no change that makes another answer true has room in the scene"


def _read_programs(root: Path, split: str, questions: Sequence[ChosenQuestion]) -> dict[str, tuple[Step, ...]]:
    """The programs of questions, by their ids."""
    wanted = {question.question_id for question in questions}
    found = {each.question_id: each.program for each in read_questions(root, split) if each.question_id in wanted}
    if missing := sorted(wanted - found.keys()):
        raise CrossflowError(
            f"{questions_file(root, split)} does not contain question {missing[0]}: choose the questions from it again."
        )
    return found


def _add_pair(archive: zipfile.ZipFile, question: ChosenQuestion, change: Change) -> ChosenQuestion:
    """Draw the image of a question's pair into a zip. Returns the pair."""
    # With a letter, so that no image of the mini world has this id.
    scene = replace(change.scene, image_id=f"{question.question_id}p")
    image, boxes, _ = draw_image(scene)
    add_image(archive, scene.image_id, image)
    return replace(
        question,
        image_id=scene.image_id,
        answer=change.answer,
        true_option=question.false_option,
        false_option=question.true_option,
        objects=tuple(
            replace(each, id=scene.toy_id(index), box=boxes[index])
            for each, index in zip(question.objects, change.objects, strict=True)
        ),
    )


def write_pairs(
    questions: Path,
    root: Path,
    split: str,
    category: str,
    output: Path,
    images: Path,
    rejections: Path,
) -> None:
    """Draw the pair of each question of the mini world: its scene, changed so that another answer is true.

    Args:
        questions: Table of chosen questions.
        root: The mini world, with its questions.
        split: Split of the mini world.
        category: Category of the questions, for example ChooseAttr.
        output: Table of the pairs (CSV).
        images: Zip that gets the pairs' images.
        rejections: Table that counts why questions have no pair (CSV).

    Raises:
        CrossflowError: a question is not one of the mini world's, or a file is missing or broken.
    """
    if category not in CHANGES:
        raise CrossflowError(f"Unknown category {category!r}; choose from {', '.join(CHANGES)}.")
    chosen = read_chosen(questions)
    programs = _read_programs(root, split, chosen)
    pairs: list[ChosenQuestion] = []
    reasons: Counter[str] = Counter()
    with (
        replacing(images) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        progress_of("pairs", len(chosen)) as progress,
    ):
        for question in chosen:
            change = change_of(question, programs[question.question_id])
            if change is None:
                reasons[NO_ROOM] += 1
            else:
                pairs.append(_add_pair(archive, question, change))
            progress.update()
    write_chosen(output, pairs)
    write_rejections(rejections, category, reasons)

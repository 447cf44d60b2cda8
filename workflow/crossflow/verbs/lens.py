"""``crossflow lens``: track the answer of every selected question through the layers."""

import argparse
from pathlib import Path

from tqdm import tqdm

from crossflow.devices import take_device
from crossflow.errors import BrokenQuestion, CrossflowError
from crossflow.gqa import read_chosen
from crossflow.journal import hash_file, journal_beside
from crossflow.lens import track, tracked_tokens
from crossflow.models import load_model
from crossflow.planning import announce
from crossflow.selection import SELECTIONS, selected
from crossflow.tables import ANSWERS, LENS, read_parquet, write_parquet
from crossflow.verbs.options import (
    add_model_arguments,
    add_picture_arguments,
    determining,
    model_settings,
    open_pictures,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--questions", type=Path, required=True, help="table of the category's questions")
    parser.add_argument("--answers", type=Path, required=True, help="table of the model's answers to them")
    add_picture_arguments(parser)
    parser.add_argument("--select", choices=SELECTIONS, default="correct", help="by the model's answer")
    parser.add_argument("--output", type=Path, required=True, help="table of probabilities (parquet)")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write the table; finished questions survive a killed job.

    Raises:
        CrossflowError: the model or a question can not be used.
    """
    settings = model_settings(arguments)
    answers, _ = read_parquet(arguments.answers, ANSWERS)
    chosen = [question for question, _ in selected(read_chosen(arguments.questions), answers, arguments.select)]
    device = take_device(arguments.device)
    announce(settings, chosen, device)
    model = load_model(settings, device)
    metadata = determining(arguments) | {"answers": hash_file(arguments.answers), "select": arguments.select}
    with open_pictures(arguments) as pictures, journal_beside(arguments.output, metadata) as journal:
        for question in tqdm(chosen, desc=f"lens, {arguments.questions.stem}", unit="question"):
            if question.question_id in journal.finished:
                continue
            try:
                prepared = model.prepare(question, pictures.open(question.image_id))
            except BrokenQuestion as reason:
                raise CrossflowError(
                    f"Question {question.question_id} was answered but can not be used any more: {reason}."
                ) from reason
            tokens = tracked_tokens(model.processor.tokenizer, question.answer, question.false_option)
            journal.add(question.question_id, track(model, prepared, tokens))
        write_parquet(
            arguments.output,
            LENS,
            [
                {"question_id": question.question_id, "image_id": question.image_id}
                | {name: journal.finished[question.question_id][name][index] for name in LENS.names[2:]}
                for question in chosen
                for index in range(len(journal.finished[question.question_id]["layer"]))
            ],
            metadata | {"layers": len(model.layers), "selected": len(chosen)},
        )

"""``crossflow lens``: track the answer of every selected question through the layers."""

import argparse
from pathlib import Path

from tqdm import tqdm

from crossflow.devices import take_device
from crossflow.gqa import read_chosen
from crossflow.journal import hash_file, journal_beside
from crossflow.lens import track, tracked_tokens
from crossflow.models import load_model
from crossflow.planning import announce
from crossflow.preparing import Asking, still_usable
from crossflow.selection import SELECTIONS, selected
from crossflow.tables import ANSWERS, LENS, read_parquet, write_parquet
from crossflow.verbs.options import (
    add_model_arguments,
    add_picture_arguments,
    determining,
    model_settings,
    preparing,
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
    with journal_beside(arguments.output, metadata) as journal:
        pending = [question for question in chosen if question.question_id not in journal.finished]
        askings = [Asking(question, question.image_id) for question in pending]
        name = f"lens, {arguments.questions.stem}"
        with preparing(arguments, model, askings) as prepared:
            for question in tqdm(pending, name, len(chosen), unit="question", initial=len(chosen) - len(pending)):
                ready = still_usable(next(prepared), question)
                tokens = tracked_tokens(model.processor.tokenizer, question.answer, question.false_option)
                journal.add(question.question_id, track(model, ready, tokens))
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

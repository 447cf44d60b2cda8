"""``crossflow answers``: answer the questions of one category, with the picture and without it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crossflow.answers import Answer, answer, answer_seeing_and_blind, answer_zeroed, is_correct, swapped_pictures
from crossflow.devices import take_device
from crossflow.errors import BrokenQuestion, CrossflowError
from crossflow.gqa import read_chosen
from crossflow.journal import journal_beside
from crossflow.measures import option_tokens
from crossflow.models import MultimodalModel, Prepared, load_model
from crossflow.planning import announce
from crossflow.preparing import Asking
from crossflow.tables import ANSWERS, BASELINES, SKIPPED, write_csv, write_parquet
from crossflow.verbs.options import (
    add_model_arguments,
    add_picture_arguments,
    determining,
    model_settings,
    preparing,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--questions", type=Path, required=True, help="table of the category's questions")
    add_picture_arguments(parser)
    parser.add_argument(
        "--baselines", nargs="*", default=[], choices=BASELINES, help="further answers without the picture"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the swapped pictures")
    parser.add_argument("--output", type=Path, required=True, help="table of answers (parquet)")
    parser.add_argument("--skipped", type=Path, required=True, help="table of the questions that are broken (CSV)")
    add_model_arguments(parser)


def _usable(prepared: Prepared | BrokenQuestion) -> Prepared:
    if isinstance(prepared, BrokenQuestion):
        raise prepared
    return prepared


def _row(
    model: MultimodalModel, prepared: Prepared, baselines: Sequence[str], swapped: Prepared | None
) -> dict[str, Any]:
    question = prepared.question
    seeing, blind = answer_seeing_and_blind(model, prepared)
    first_token = seeing.tokens[0]
    options = option_tokens(model.processor.tokenizer, seeing.text, question.true_option, question.false_option)
    others: dict[str, Answer] = {}
    if "zeroed" in baselines:
        others["zeroed"] = answer_zeroed(model, prepared)
    if swapped is not None:
        others["swapped"] = answer(model, swapped)
    row: dict[str, Any] = dict.fromkeys(ANSWERS.names)
    for baseline, other in others.items():
        row[f"generated_{baseline}"] = other.text
        row[f"correct_{baseline}"] = is_correct(other.text, question.answer)
        row[f"p_{baseline}"] = float(other.probabilities[first_token])
    return row | {
        "question_id": question.question_id,
        "image_id": question.image_id,
        "generated": seeing.text,
        "correct": is_correct(seeing.text, question.answer),
        "first_token": first_token,
        "p_clean": float(seeing.probabilities[first_token]),
        "generated_blind": blind.text,
        "correct_blind": is_correct(blind.text, question.answer),
        "p_blind": float(blind.probabilities[first_token]),
        "tokens": prepared.positions.length,
        "options_coincide": None if options is None else options.true == options.false,
        "answer_tokens": seeing.tokens,
    }


def run(arguments: argparse.Namespace) -> None:
    questions = read_chosen(arguments.questions)
    settings = model_settings(arguments)
    device = take_device(arguments.device)
    announce(settings, questions, device)
    model = load_model(settings, device)
    skipped: dict[str, dict[str, Any]] = {}
    determined = determining(arguments) | {"baselines": arguments.baselines, "seed": arguments.seed}
    swapped = swapped_pictures(questions, arguments.seed) if "swapped" in arguments.baselines else {}
    with journal_beside(arguments.output, determined) as journal:
        pending = [question for question in questions if question.question_id not in journal.finished]
        # Each question, and at once with the other picture if it has one.
        askings = [
            Asking(question, image_id)
            for question in pending
            for image_id in (question.image_id, swapped.get(question.question_id))
            if image_id is not None
        ]
        name = f"answers, {arguments.questions.stem}"
        with preparing(arguments, model, askings) as prepared:
            for question in tqdm(pending, name, len(questions), unit="question", initial=len(questions) - len(pending)):
                given = [next(prepared) for _ in range(1 + (question.question_id in swapped))]
                try:
                    seen, *other = [_usable(each) for each in given]
                    row = _row(model, seen, arguments.baselines, other[0] if other else None)
                    journal.add(question.question_id, row)
                except BrokenQuestion as reason:
                    skipped[question.question_id] = {
                        "question_id": question.question_id,
                        "image_id": question.image_id,
                        "reason": str(reason),
                    }
        if questions and len(skipped) == len(questions):
            first = next(iter(skipped.values()))
            raise CrossflowError(
                f"None of the {len(questions)} questions in {arguments.questions} can be used; the first, "
                f"{first['question_id']}, because {first['reason']}."
            )
        rows = [journal.finished[question.question_id] for question in questions if question.question_id not in skipped]
        write_csv(arguments.skipped, SKIPPED, skipped.values())
        metadata = determined | {
            "layers": len(model.layers),
            "answered": len(rows),
        }
        write_parquet(arguments.output, ANSWERS, rows, metadata)

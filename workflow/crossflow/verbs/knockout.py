"""``crossflow knockout``: every flow at every centre layer, for one model, window and category."""

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crossflow.devices import take_device
from crossflow.engines import ENGINES
from crossflow.errors import CrossflowError
from crossflow.flows import BOTTOM, MOVED, TOP, parse_flow
from crossflow.gqa import ChosenQuestion, read_chosen
from crossflow.journal import hash_file, journal_beside, writing_behind
from crossflow.models import load_model
from crossflow.planning import announce
from crossflow.preparing import Asking, still_usable
from crossflow.question_knockouts import Answered, KnockedOut, knock_out
from crossflow.seeds import derived_seed
from crossflow.selection import SELECTIONS, selected
from crossflow.tables import ANSWERS, KNOCKOUT, read_parquet, write_parquet
from crossflow.verbs.options import (
    add_model_arguments,
    add_picture_arguments,
    determining,
    model_settings,
    preparing,
)

log = logging.getLogger(__name__)

Batch = Sequence[tuple[ChosenQuestion, Any]]


def _window(text: str) -> str:
    if text not in (BOTTOM, TOP) and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of layers nor {BOTTOM} or {TOP}")
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--questions", type=Path, required=True, help="table of the category's questions")
    parser.add_argument("--answers", type=Path, required=True, help="table of the model's answers to them")
    add_picture_arguments(parser)
    parser.add_argument("--window", type=_window, required=True, help="width of the window in layers, bottom or top")
    parser.add_argument("--flows", nargs="+", required=True, metavar="SOURCE->TARGET")
    parser.add_argument("--controls", nargs="*", default=[], metavar="SOURCE->TARGET", help="further flows")
    parser.add_argument("--stride", type=int, default=1, help="from one centre layer of the controls to the next")
    parser.add_argument("--seed", type=int, default=0, help="seed of random source sets")
    parser.add_argument("--whole-answer", action="store_true", help="score all tokens of the answer")
    parser.add_argument("--select", choices=SELECTIONS, default="correct", help="by the model's answer")
    parser.add_argument("--engine", choices=ENGINES, default="knockout")
    parser.add_argument("--output", type=Path, required=True, help="table of knockouts (parquet)")
    add_model_arguments(parser)


def _fits(window: str, layers: int, model: Path) -> None:
    if window not in (BOTTOM, TOP) and not 1 <= int(window) < 2 * layers:
        raise CrossflowError(
            f"A window of {window} layers does not fit {model}, which has {layers}: from {2 * layers} on, every centre "
            "layer would knock out the whole model."
        )


def run(arguments: argparse.Namespace) -> None:
    settings = model_settings(arguments)
    answers, _ = read_parquet(arguments.answers, ANSWERS)
    chosen = selected(read_chosen(arguments.questions), answers, arguments.select)
    names = [*arguments.flows, *arguments.controls]
    flows = [parse_flow(name) for name in names]
    device = take_device(arguments.device)
    plan = announce(
        settings, [question for question, _ in chosen], device, names, batched=arguments.engine != "reference"
    )
    model = load_model(settings, device)
    layers = len(model.layers)
    _fits(arguments.window, layers, settings.path)
    centres = {name: list(range(layers)) for name in arguments.flows}
    centres |= {name: list(range(0, layers, arguments.stride)) for name in arguments.controls}
    metadata = determining(arguments) | {
        "answers": hash_file(arguments.answers),
        "window": arguments.window,
        "flows": names,
        "centres": centres,
        "seed": arguments.seed,
        "whole_answer": arguments.whole_answer,
        "select": arguments.select,
        "engine": arguments.engine,
    }
    at_once = 1 if plan is None else plan.questions
    # Always the same questions together, wherever a killed job left off: the rounding of a result depends on them.
    batches = [chosen[first : first + at_once] for first in range(0, len(chosen), at_once)]
    with journal_beside(arguments.output, metadata) as journal:
        pending = [
            batch for batch in batches if any(question.question_id not in journal.finished for question, _ in batch)
        ]
        askings = [
            Asking(question, question.image_id, derived_seed(arguments.seed, question.question_id, MOVED))
            if any(flow.is_moved for flow in flows)
            else Asking(question, question.image_id)
            for batch in pending
            for question, _ in batch
        ]

        def write(batch: Batch, outcomes: Sequence[KnockedOut]) -> None:
            for (question, _), outcome in zip(batch, outcomes, strict=True):
                if question.question_id not in journal.finished:
                    journal.add(question.question_id, outcome.columns())

        progress = tqdm(total=len(chosen), desc=f"knockout, {arguments.questions.stem}", unit="question")
        progress.update(sum(len(batch) for batch in batches) - sum(len(batch) for batch in pending))
        with progress, preparing(arguments, model, askings) as prepared, writing_behind() as give_away:
            for batch in pending:
                answered = [
                    Answered(
                        still_usable(next(prepared), question),
                        row.generated,
                        [int(token) for token in row.answer_tokens],
                    )
                    for question, row in batch
                ]
                outcomes = knock_out(
                    model,
                    answered,
                    centres,
                    arguments.window,
                    ENGINES[arguments.engine],
                    arguments.seed,
                    arguments.whole_answer,
                )
                give_away(partial(write, batch, outcomes))
                progress.update(len(batch))
        entries = [(question, journal.finished[question.question_id]) for question, _ in chosen]
        floors = {
            name: max((entry[name] for _, entry in entries if entry[name] is not None), default=None)
            for name in ("noise_floor", "noise_floor_percent")
        }
        if floors["noise_floor"] is not None:
            log.info("noise floor: a knockout of nothing changes a probability by at most %.1e", floors["noise_floor"])
        write_parquet(
            arguments.output,
            KNOCKOUT,
            [
                {"question_id": question.question_id, "image_id": question.image_id}
                | {name: entry[name][index] for name in KNOCKOUT.names[2:]}
                for question, entry in entries
                for index in range(len(entry["flow"]))
            ],
            metadata
            | {
                "layers": layers,
                "selected": len(chosen),
                "excluded": len(answers) - len(chosen),
            }
            | floors,
        )

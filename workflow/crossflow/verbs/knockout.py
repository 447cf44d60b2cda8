"""``crossflow knockout``: every flow at every centre layer, for one model, window and category."""

import argparse
import logging
from pathlib import Path

from tqdm import tqdm

from crossflow.devices import take_device
from crossflow.edges import moved_boxes
from crossflow.engines import ENGINES
from crossflow.errors import BrokenQuestion, CrossflowError
from crossflow.flows import BOTTOM, MOVED, TOP, parse_flow
from crossflow.gqa import read_chosen
from crossflow.journal import hash_file, journal_beside
from crossflow.models import load_model
from crossflow.planning import announce
from crossflow.question_knockouts import knock_out
from crossflow.seeds import derived_seed
from crossflow.selection import SELECTIONS, selected
from crossflow.tables import ANSWERS, KNOCKOUT, read_parquet, write_parquet
from crossflow.verbs.options import (
    add_model_arguments,
    add_picture_arguments,
    determining,
    model_settings,
    open_pictures,
)

log = logging.getLogger(__name__)


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
    announce(settings, [question for question, _ in chosen], device, names, batched=arguments.engine != "reference")
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
    with open_pictures(arguments) as pictures, journal_beside(arguments.output, metadata) as journal:
        for question, row in tqdm(chosen, desc=f"knockout, {arguments.questions.stem}", unit="question"):
            if question.question_id in journal.finished:
                continue
            try:
                picture = pictures.open(question.image_id)
                boxes = [chosen.box for chosen in question.objects] if any(flow.is_moved for flow in flows) else []
                place = derived_seed(arguments.seed, question.question_id, MOVED)
                prepared = model.prepare(question, picture, moved_boxes(boxes, picture.size, place))
            except BrokenQuestion as reason:
                raise CrossflowError(
                    f"Question {question.question_id} was answered but can not be used any more: {reason}."
                ) from reason
            journal.add(
                question.question_id,
                knock_out(
                    model,
                    prepared,
                    centres,
                    arguments.window,
                    row.generated,
                    [int(token) for token in row.answer_tokens],
                    ENGINES[arguments.engine],
                    arguments.seed,
                    arguments.whole_answer,
                ),
            )
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

"""``crossflow knockout``: every flow at every centre layer, for one model, window and category."""

import argparse
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from crossflow.devices import take_device
from crossflow.engines import ENGINES, Engine
from crossflow.errors import BrokenQuestion, CrossflowError
from crossflow.flows import Row, Window, count_edges, parse_flow, rows_of
from crossflow.forward import run_clean
from crossflow.gqa import read_chosen
from crossflow.journal import hash_file, journal_beside
from crossflow.measures import measure, option_tokens
from crossflow.models import MultimodalModel, Prepared, load_model
from crossflow.planning import announce
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

_MEASURES = KNOCKOUT.names[4:-1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--questions", type=Path, required=True, help="table of the category's questions")
    parser.add_argument("--answers", type=Path, required=True, help="table of the model's answers to them")
    add_picture_arguments(parser)
    parser.add_argument("--window", type=int, required=True, help="width of the window, in layers")
    parser.add_argument("--flows", nargs="+", required=True, metavar="SOURCE->TARGET")
    parser.add_argument("--select", choices=SELECTIONS, default="correct", help="by the model's answer")
    parser.add_argument("--engine", choices=ENGINES, default="knockout")
    parser.add_argument("--output", type=Path, required=True, help="table of knockouts (parquet)")
    add_model_arguments(parser)


def _zero_edge_rows(rows: Iterable[Row], layers: int) -> list[Row]:
    """Rows that block nothing, one for each first target position: what the engine's arithmetic alone changes."""
    starts = sorted({int(row.targets[0]) for row in rows})
    return [Row("", 0, Window(0, layers - 1), np.arange(0), np.array([start])) for start in starts]


def knock_out(
    model: MultimodalModel,
    prepared: Prepared,
    flows: Sequence[str],
    width: int,
    first_token: int,
    generated: str,
    engine: Engine,
) -> dict[str, Any]:
    """All flows of one question at all centre layers, as columns of the knockout table.

    A flow without edges (an empty source or target set) gets its rows with ``edges`` 0 and no measures. The entry
    ``noise_floor`` is the largest change of the probability by a knockout of nothing.
    """
    layers = len(model.layers)
    rows: list[Row] = []
    edges: dict[str, int] = {}
    for name in flows:
        flow = parse_flow(name)
        sources, targets = prepared.positions[flow.source], prepared.positions[flow.target]
        edges[name] = count_edges(sources, targets)
        if edges[name]:
            rows.extend(rows_of(name, sources, targets, width, layers))

    measured: dict[str, list[Any]] = {name: [] for name in _MEASURES}
    noise_floor = 0.0
    if rows:
        question = prepared.question
        options = option_tokens(model.processor.tokenizer, generated, question.true_option, question.false_option)
        clean = run_clean(model, prepared, min(int(row.targets[0]) for row in rows))
        logits = engine(model, clean, rows + _zero_edge_rows(rows, layers))
        measured = measure(clean.logits, logits, first_token, options)
        changes = np.abs(np.subtract(measured["p_knockout"], measured["p_clean"]))
        noise_floor = float(changes[len(rows) :].max())

    place = {(row.flow, row.layer): number for number, row in enumerate(rows)}
    cells = [(flow, layer) for flow in flows for layer in range(layers)]
    return {
        "flow": [flow for flow, _ in cells],
        "layer": [layer for _, layer in cells],
        **{
            name: [values[place[cell]] if cell in place else None for cell in cells]
            for name, values in measured.items()
        },
        "edges": [edges[flow] for flow, _ in cells],
        "noise_floor": noise_floor,
    }


def run(arguments: argparse.Namespace) -> None:
    settings = model_settings(arguments)
    answers, _ = read_parquet(arguments.answers, ANSWERS)
    chosen = selected(read_chosen(arguments.questions), answers, arguments.select)
    for flow in arguments.flows:
        parse_flow(flow)
    device = take_device(arguments.device)
    announce(
        settings, [question for question, _ in chosen], device, arguments.flows, batched=arguments.engine != "reference"
    )
    model = load_model(settings, device)
    layers = len(model.layers)
    if not 1 <= arguments.window < 2 * layers:
        raise CrossflowError(
            f"A window of {arguments.window} layers does not fit {settings.path}, which has {layers}: from "
            f"{2 * layers} on, every centre layer would knock out the whole model."
        )
    metadata = determining(arguments) | {
        "answers": hash_file(arguments.answers),
        "window": str(arguments.window),
        "flows": arguments.flows,
        "select": arguments.select,
        "engine": arguments.engine,
    }
    with open_pictures(arguments) as pictures, journal_beside(arguments.output, metadata) as journal:
        for question, row in tqdm(chosen, desc=f"knockout, {arguments.questions.stem}", unit="question"):
            if question.question_id in journal.finished:
                continue
            try:
                prepared = model.prepare(question, pictures.open(question.image_id))
            except BrokenQuestion as reason:
                raise CrossflowError(
                    f"Question {question.question_id} was answered but can not be used any more: {reason}."
                ) from reason
            journal.add(
                question.question_id,
                knock_out(
                    model,
                    prepared,
                    arguments.flows,
                    arguments.window,
                    int(row.first_token),
                    row.generated,
                    ENGINES[arguments.engine],
                ),
            )
        entries = [(question, journal.finished[question.question_id]) for question, _ in chosen]
        noise_floor = max((entry["noise_floor"] for _, entry in entries), default=None)
        if noise_floor is not None:
            log.info("noise floor: a knockout of nothing changes a probability by at most %.1e", noise_floor)
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
                "noise_floor": noise_floor,
            },
        )

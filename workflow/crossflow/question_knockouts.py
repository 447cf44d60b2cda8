"""All knockouts of one question, as the columns of its part of a knockout table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crossflow.attention_mass import attention_mass
from crossflow.edges import Edges, Row, count_edges, edges_of, rows_of
from crossflow.engines import Engine
from crossflow.flows import Window, parse_flow
from crossflow.forward import run_clean
from crossflow.measures import asked, measure
from crossflow.models import MultimodalModel, Prepared
from crossflow.tables import KNOCKOUT

_MEASURED = [name for name in KNOCKOUT.names[4:] if name not in ("edges", "attention")]


def _zero_edge_rows(rows: Sequence[Row], layers: int) -> list[Row]:
    """Rows that block nothing, one for each first target position: what the engine's arithmetic alone changes."""
    starts = sorted({row.start for row in rows})
    return [Row("", 0, Window(0, layers - 1), (Edges(np.arange(0), np.array([start])),)) for start in starts]


def knock_out(
    model: MultimodalModel,
    prepared: Prepared,
    flows: Mapping[str, Sequence[int]],
    window: str,
    generated: str,
    tokens: Sequence[int],
    engine: Engine,
    seed: int,
    whole_answer: bool = False,
) -> dict[str, Any]:
    """All flows of one question at their centre layers.

    A flow without edges (an empty source or target set) gets its rows with ``edges`` 0 and no measures. The entries
    ``noise_floor`` and ``noise_floor_percent`` are the largest change of the probability by a knockout of nothing,
    absolute and in percent; None if there was nothing to knock out.

    Args:
        model: The model.
        prepared: The question.
        flows: Name -> its centre layers.
        window: The window: a width, ``bottom`` or ``top``.
        generated: The clean answer.
        tokens: Its tokens.
        engine: How knockouts are computed.
        seed: Seed of random source sets.
        whole_answer: Score all of the answer's tokens, and not the first alone.
    """
    layers = len(model.layers)
    question, positions = prepared.question, prepared.positions
    special = set(model.processor.tokenizer.all_special_ids)
    answer = [token for token in tokens if token not in special]
    if whole_answer and answer[:1] == tokens[:1]:
        prepared = prepared.answered_by(answer)
    found = {name: edges_of(parse_flow(name), positions, seed, question.question_id) for name in flows}
    rows: list[Row] = []
    for name, edges in found.items():
        if edges:
            longer = [each.going_on(positions.length - 1, prepared.length - positions.length) for each in edges]
            rows.extend(rows_of(name, longer, window, layers, flows[name]))

    measured: dict[str, list[Any]] = {name: [] for name in _MEASURED}
    mass: dict[str, np.ndarray] = {}
    noise_floor = noise_floor_percent = None
    if rows:
        clean = run_clean(model, prepared, min(row.start for row in rows))
        reading = engine(model, clean, rows + _zero_edge_rows(rows, layers))
        measured = measure(clean.reading, reading, asked(model.processor.tokenizer, question, generated, tokens[0]))
        changes = np.abs(np.subtract(measured["p_knockout"], measured["p_clean"]))
        noise_floor = float(changes[len(rows) :].max())
        noise_floor_percent = float(np.abs(measured["change_percent"][len(rows) :]).max())
        present = [name for name, edges in found.items() if edges]
        mass = dict(zip(present, attention_mass(clean, [found[name] for name in present]), strict=True))
    if not whole_answer:
        measured["answer_logprob_change"] = [None] * len(measured["p_clean"])

    place = {(row.flow, row.layer): number for number, row in enumerate(rows)}
    windows = {(row.flow, row.layer): row.window for row in rows}
    cells = [(flow, layer) for flow, centres in flows.items() for layer in centres]
    return {
        "flow": [flow for flow, _ in cells],
        "layer": [layer for _, layer in cells],
        **{
            name: [values[place[cell]] if cell in place else None for cell in cells]
            for name, values in measured.items()
        },
        "edges": [count_edges(found[flow]) for flow, _ in cells],
        "attention": [
            float(mass[flow][windows[flow, layer].first : windows[flow, layer].last + 1].mean())
            if (flow, layer) in windows
            else None
            for flow, layer in cells
        ],
        "noise_floor": noise_floor,
        "noise_floor_percent": noise_floor_percent,
    }

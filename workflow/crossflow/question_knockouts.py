"""All knockouts of some questions, as the columns of their parts of a knockout table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossflow.attention_mass import attention_mass
from crossflow.edges import Edges, Row, count_edges, edges_of, rows_of
from crossflow.engines import Engine
from crossflow.flows import Window, parse_flow
from crossflow.forward import Reading, run_clean_together
from crossflow.measures import Asked, asked, measure
from crossflow.memory import halving
from crossflow.models import MultimodalModel, Prepared
from crossflow.tables import KNOCKOUT

_MEASURED = [name for name in KNOCKOUT.names[4:] if name not in ("edges", "attention")]


class Answered(NamedTuple):
    """A question, the model's clean answer to it, and the answer's tokens."""

    prepared: Prepared
    generated: str
    tokens: Sequence[int]


def _zero_edge_rows(rows: Sequence[Row], layers: int) -> list[Row]:
    """Rows that block nothing, one for each first target position: what the engine's arithmetic alone changes."""
    starts = sorted({row.start for row in rows})
    return [Row("", 0, Window(0, layers - 1), (Edges(np.arange(0), np.array([start])),)) for start in starts]


@dataclass(frozen=True)
class KnockedOut:
    """A question whose knockouts have been run, and nothing read of them yet.

    Attributes:
        flows: Name -> its centre layers.
        edges: Name -> what it blocks.
        rows: What was run; after them, rows without edges.
        whole_answer: All tokens of the answer were scored.
        asked: The tokens that are looked at.
        clean, reading: What was read off the clean run and off the rows; None if there was nothing to knock out.
        mass: See `crossflow.attention_mass`, in the order of the flows that have edges.
    """

    flows: Mapping[str, Sequence[int]]
    edges: Mapping[str, Sequence[Edges]]
    rows: Sequence[Row]
    whole_answer: bool
    asked: Asked
    clean: Reading | None = None
    reading: Reading | None = None
    mass: Tensor | None = None

    def columns(self) -> dict[str, Any]:
        """The question's part of a knockout table.

        A flow without edges (an empty source or target set) gets its rows with ``edges`` 0 and no measures. The entries
        ``noise_floor`` and ``noise_floor_percent`` are the largest change of the probability by a knockout of nothing,
        absolute and in percent; None if there was nothing to knock out.
        """
        measured: dict[str, list[Any]] = {name: [] for name in _MEASURED}
        mass: dict[str, np.ndarray] = {}
        noise_floor = noise_floor_percent = None
        if self.clean is not None and self.reading is not None and self.mass is not None:
            measured = measure(self.clean, self.reading, self.asked)
            changes = np.abs(np.subtract(measured["p_knockout"], measured["p_clean"]))
            noise_floor = float(changes[len(self.rows) :].max())
            noise_floor_percent = float(np.abs(measured["change_percent"][len(self.rows) :]).max())
            mass = dict(
                zip([name for name, edges in self.edges.items() if edges], self.mass.cpu().numpy(), strict=True)
            )
        if not self.whole_answer:
            measured["answer_logprob_change"] = [None] * len(measured["p_clean"])

        place = {(row.flow, row.layer): number for number, row in enumerate(self.rows)}
        windows = {(row.flow, row.layer): row.window for row in self.rows}
        edges = {flow: count_edges(found) for flow, found in self.edges.items()}
        cells = [(flow, layer) for flow, centres in self.flows.items() for layer in centres]
        return {
            "flow": [flow for flow, _ in cells],
            "layer": [layer for _, layer in cells],
            **{
                name: [values[place[cell]] if cell in place else None for cell in cells]
                for name, values in measured.items()
            },
            "edges": [edges[flow] for flow, _ in cells],
            "attention": [
                float(mass[flow][windows[flow, layer].first : windows[flow, layer].last + 1].mean())
                if (flow, layer) in windows
                else None
                for flow, layer in cells
            ],
            "noise_floor": noise_floor,
            "noise_floor_percent": noise_floor_percent,
        }


def knock_out(
    model: MultimodalModel,
    questions: Sequence[Answered],
    flows: Mapping[str, Sequence[int]],
    window: str,
    engine: Engine,
    seed: int,
    whole_answer: bool = False,
) -> list[KnockedOut]:
    """All flows of some questions at their centre layers; questions that do not fit into memory together are halved.

    Args:
        model: The model.
        questions: They are run together.
        flows: Name -> its centre layers.
        window: The window: a width, ``bottom`` or ``top``.
        engine: How knockouts are computed.
        seed: Seed of random source sets.
        whole_answer: Score all of the answer's tokens, and not the first alone.
    """
    layers = len(model.layers)
    tokenizer = model.processor.tokenizer
    special = set(tokenizer.all_special_ids)
    planned: list[tuple[Prepared, KnockedOut]] = []
    for prepared, generated, tokens in questions:
        question, positions = prepared.question, prepared.positions
        answer = [token for token in tokens if token not in special]
        scored = whole_answer and answer[:1] == tokens[:1]
        prompt = prepared.answered_by(answer) if scored else prepared
        edges = {name: edges_of(parse_flow(name), positions, seed, question.question_id) for name in flows}
        rows: list[Row] = []
        for name, found in edges.items():
            longer = [each.going_on(positions.length - 1, prompt.length - positions.length) for each in found]
            rows.extend(rows_of(name, longer, window, layers, flows[name]) if longer else [])
        outcome = KnockedOut(flows, edges, rows, whole_answer, asked(tokenizer, question, generated, tokens[0]))
        planned.append((prompt, outcome))
    ran = iter(halving([each for each in planned if each[1].rows], partial(_run, model, engine), "questions"))
    return [next(ran) if outcome.rows else outcome for _, outcome in planned]


def _run(model: MultimodalModel, engine: Engine, planned: Sequence[tuple[Prepared, KnockedOut]]) -> list[KnockedOut]:
    """Prompts and their planned knockouts, which are run together."""
    firsts = [min(row.start for row in outcome.rows) for _, outcome in planned]
    cleans = run_clean_together(model, [prompt for prompt, _ in planned], firsts)
    outcomes = [outcome for _, outcome in planned]
    work = [
        (clean, [*outcome.rows, *_zero_edge_rows(outcome.rows, len(model.layers))])
        for clean, outcome in zip(cleans, outcomes, strict=True)
    ]
    with torch.inference_mode():
        return [
            replace(
                outcome,
                clean=clean.reading,
                reading=reading,
                mass=attention_mass(clean, [found for found in outcome.edges.values() if found]),
            )
            for outcome, clean, reading in zip(outcomes, cleans, engine(model, work), strict=True)
        ]

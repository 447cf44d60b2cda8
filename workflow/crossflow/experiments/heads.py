"""Knockouts in one attention head at a time, as the columns of their parts of a table of heads.

The flow's edges are blocked in one query head of one layer; all other heads and layers are the model's own. Source: the
head-wise interventions of K. Wang et al., Interpretability in the wild (ICLR 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crossflow.core.devices import take_device
from crossflow.core.flows import Window, parse_flow
from crossflow.core.measures import HEADS
from crossflow.engine.edges import Row, count_edges, edges_of
from crossflow.engine.engines import ENGINES, Engine
from crossflow.engine.forward import run_clean
from crossflow.engine.planning import plan_parts
from crossflow.experiments.job import Given, Item, Job, Outcome, Part, finished_parts, still_usable
from crossflow.experiments.knockouts import Answered, checked, request_of
from crossflow.experiments.measures import measure, scored_tokens
from crossflow.experiments.selection import Select, Selected, select_answered
from crossflow.models.loading import load_model
from crossflow.models.model import MultimodalModel

_MEASURED = ("p_clean", "p_knockout", "change_percent", "logprob_change")


def heads_of(model: MultimodalModel) -> int:
    """Number of query heads of a decoder layer."""
    return int(model.network.config.get_text_config().num_attention_heads)


def knock_out_heads(
    model: MultimodalModel, answered: Answered, flows: Sequence[str], engine: Engine, seed: int
) -> dict[str, Any]:
    """Every flow of a question in every head of every layer.

    Args:
        model: The model.
        answered: The question.
        flows: The flows.
        engine: How knockouts are computed.
        seed: Seed of random source sets.

    Returns:
        The question's part of a table of heads, and its noise floor; a flow without edges has rows with ``edges`` 0.
    """
    question, positions = answered.prepared.question, answered.prepared.positions
    cells = [(layer, head) for layer in range(len(model.layers)) for head in range(heads_of(model))]
    edges = {flow: edges_of(parse_flow(flow), positions, seed, question.question_id) for flow in flows}
    rows = [
        Row(flow, layer, Window(layer, layer), blocked, ((layer, head),))
        for flow, blocked in edges.items()
        if blocked
        for layer, head in cells
    ]
    columns: dict[str, Any] = {
        "flow": [flow for flow in flows for _ in cells],
        "layer": [layer for _ in flows for layer, _ in cells],
        "head": [head for _ in flows for _, head in cells],
        "edges": [count_edges(edges[flow]) for flow in flows for _ in cells],
        "noise_floor": None,
        "noise_floor_percent": None,
    }
    if not rows:
        return columns | {name: [None] * len(columns["flow"]) for name in _MEASURED}
    # The same rows in no head show the rounding.
    nothing = [row._replace(window=Window(0, len(model.layers) - 1), heads=()) for row in rows[:: len(cells)]]
    clean = run_clean(model, answered.prepared, min(row.start for row in rows))
    (reading,) = engine(model, [(clean, [*rows, *nothing])])
    scored = scored_tokens(model.processor.tokenizer, question, answered.generated, answered.tokens[0])
    measured = measure(clean.reading, reading, scored)
    changes = np.abs(np.subtract(measured["p_knockout"], measured["p_clean"]))[len(rows) :]
    place = {(row.flow, row.heads[0]): number for number, row in enumerate(rows) if row.heads}
    named = [(flow, cell) for flow in flows for cell in cells]
    return columns | {
        "noise_floor": float(changes.max()),
        "noise_floor_percent": float(np.abs(measured["change_percent"][len(rows) :]).max()),
        **{name: [measured[name][place[each]] if each in place else None for each in named] for name in _MEASURED},
    }


@dataclass(frozen=True)
class HeadSettings:
    """The heads of a job.

    Attributes:
        answers: Folder of the model's answers to the questions, {category}.parquet.
        flows: Flows, source->target, in every head of every layer.
        seed: Seed of random source sets.
        select: Which questions are knocked out, by the model's answer.
        engine: knockout (exact and fast) or reference (one full forward per number).
    """

    answers: Path
    flows: tuple[str, ...]
    seed: int = 0
    select: Select = "correct"
    engine: Literal["knockout", "reference"] = "knockout"


def write_heads(job: Job, settings: HeadSettings) -> None:
    """Knock out every flow in one attention head at a time.

    Finished questions survive a killed job.

    Args:
        job: The job.
        settings: The flows.

    Raises:
        CrossflowError: the model or a question cannot be used.
    """
    chosen = select_answered(job, settings.answers, settings.select)
    device = take_device(job.device)
    # A question's heads fill a batch: the plan is for the refusal and the log.
    plan_parts(job.settings, [each.asked for each in chosen.values()], device, settings.flows)
    model = load_model(job.settings, device)
    for each in chosen.values():
        each.require_prompt(model.prompt)
    moved = settings.seed if any(parse_flow(name).is_moved for name in settings.flows) else None

    def part(category: str, selection: Selected) -> Part:
        determined = job.determining(category, model.prompt) | {
            **selection.determining(),
            "flows": list(settings.flows),
            "heads": heads_of(model),
            "seed": settings.seed,
            "engine": settings.engine,
        }
        items = [Item(question, [request_of(question, moved)], row) for question, row in selection.questions]
        return Part.of(category, determined, items, 1, run)

    def run(batch: Sequence[Item], given: Sequence[Given]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for item, (prepared,) in zip(batch, given, strict=True):
            answered = Answered.of(still_usable(prepared, item.question), item.answer)
            columns = knock_out_heads(model, answered, settings.flows, ENGINES[settings.engine], settings.seed)
            outcomes.append(partial(checked, item, partial(dict, columns), model.settings.dtype))
        return outcomes

    parts = [part(*each) for each in chosen.items()]
    with finished_parts(job, model, __name__, parts) as finished:
        for (category, determined, *_), (entries, _) in zip(parts, finished, strict=True):
            path = job.output / f"{category}.parquet"
            chosen[category].write(path, HEADS, entries, len(model.layers), determined)

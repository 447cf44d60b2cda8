"""Knockouts in some attention heads only, as the columns of their parts of a table of heads.

A flow's edges are blocked, or substituted, in one query head of one layer, or in a random subset of all heads; all
other heads are the model's own. Sources: single heads, K. Wang et al., Interpretability in the wild (ICLR 2023);
subsets, J. Kim et al., Interpreting attention heads for image-to-text information flow in large vision-language models
(arXiv 2509.17588), since single heads are redundant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import Window, parse_flow, require_centres
from crossflow.core.head_subsets import draw_subsets, written
from crossflow.core.measures import HEADS
from crossflow.engine.attention_mass import head_mass
from crossflow.engine.edges import Row, count_edges
from crossflow.engine.engines import ENGINES, Engine
from crossflow.experiments.job import Job
from crossflow.experiments.knocked_out import Answered, available_edges, no_op_rows, run_clean_with_donors
from crossflow.experiments.knockouts import Columns, write_tables
from crossflow.experiments.measures import measure, scored_tokens
from crossflow.experiments.noise import NOTHING, noise_floor
from crossflow.experiments.selection import Select
from crossflow.models.model import MultimodalModel

_MEASURED = ("p_clean", "p_knockout", "change_percent", "logprob_change")


def heads_of(model: MultimodalModel) -> int:
    """Number of query heads of a decoder layer."""
    return int(model.network.config.get_text_config().num_attention_heads)


class Case(NamedTuple):
    """The heads of one row of the table.

    Attributes:
        layer, head: The single head; None for a subset.
        subset: The subset as the table holds it; None for a single head.
        window: The layers of the heads.
        heads: The heads, as pairs of a layer and a head.
    """

    layer: int | None
    head: int | None
    subset: str | None
    window: Window
    heads: tuple[tuple[int, int], ...]

    @classmethod
    def alone(cls, layer: int, head: int) -> "Case":
        """A single head."""
        return cls(layer, head, None, Window(layer, layer), ((layer, head),))

    @classmethod
    def together(cls, subset: Bool[np.ndarray, "layers heads"]) -> "Case":
        """A subset of the heads, which may be empty."""
        heads = tuple((layer, head) for layer, head in np.argwhere(subset).tolist())
        return cls(None, None, written(subset), Window(0, len(subset) - 1), heads)


@dataclass(frozen=True)
class HeadSettings:
    """The heads of a job.

    Attributes:
        answers: Folder of the model's answers to the questions, {category}.parquet.
        flows: Flows, source->target, in the heads.
        only_subsets: Leave out the knockouts of each head alone.
        subsets: Number of random subsets of the heads, each knocked out together, per question.
        share: Probability that a head is in a subset.
        layers: Layers whose heads are knocked out; by default all.
        seed: Seed of random source sets and subsets.
        select: Which questions are knocked out, by the model's answer.
        engine: knockout (exact and fast) or reference (one full forward per number).
    """

    answers: Path
    flows: tuple[str, ...]
    only_subsets: bool = False
    subsets: int = 0
    share: float = 0.5
    layers: tuple[int, ...] = ()
    seed: int = 0
    select: Select = "correct"
    engine: Literal["knockout", "reference"] = "knockout"

    def cases(self, question_id: str, layers: int, heads: int) -> list[Case]:
        """What is knocked out of a question, for each flow.

        Args:
            question_id: The question.
            layers: Number of decoder layers of the model.
            heads: Number of query heads of a layer.
        """
        chosen = self.layers or range(layers)
        singles = [Case.alone(layer, head) for layer in chosen for head in range(heads)]
        subsets = draw_subsets(self.seed, question_id, self.subsets, self.share, chosen, (layers, heads))
        drawn = [Case.together(subset) for subset in subsets]
        return drawn if self.only_subsets else singles + drawn


def knock_out_heads(
    model: MultimodalModel, answered: Answered, flows: Sequence[str], cases: Sequence[Case], engine: Engine, seed: int
) -> dict[str, Any]:
    """Every flow of a question in some heads.

    Args:
        model: The model.
        answered: The question.
        flows: The flows.
        cases: The heads that are knocked out, for each flow.
        engine: How knockouts are computed.
        seed: Seed of random source sets.

    Returns:
        The question's part of a table of heads, and its noise floor; a flow without edges has rows with ``edges`` 0.

    Raises:
        CrossflowError: a flow replaces the output of a module.
    """
    question, positions = answered.prepared.question, answered.prepared.positions
    if modules := [flow for flow in flows if any(part.module for part in parse_flow(flow).parts)]:
        raise CrossflowError(f"Flow {modules[0]!r} replaces the output of a module, which is not divided into heads.")
    edges = {
        flow: available_edges(parse_flow(flow), positions, seed, question.question_id, answered.donors, {})
        for flow in flows
    }
    rows = [
        Row(flow, number, case.window, tuple(blocked), case.heads)
        for flow, blocked in edges.items()
        if blocked
        for number, case in enumerate(cases)
    ]
    columns: dict[str, Any] = {
        "flow": [flow for flow in flows for _ in cases],
        **{name: [getattr(case, name) for _ in flows for case in cases] for name in ("layer", "head", "subset")},
        "edges": [count_edges(edges[flow]) for flow in flows for _ in cases],
        **NOTHING,
    }
    if not rows:
        return columns | {name: [None] * len(columns["flow"]) for name in (*_MEASURED, "attention")}
    # The same rows in no head show the rounding.
    layers = len(model.layers)
    flowing = rows[:: len(cases)]
    nothing = [row._replace(window=Window(0, layers - 1), heads=()) for row in flowing] + no_op_rows(flowing, layers)
    (clean,) = run_clean_with_donors(model, [answered.prepared], [min(row.start for row in rows)], [answered.donors])
    (reading,) = engine(model, [(clean, [*rows, *nothing])])
    scored = scored_tokens(model.processor.tokenizer, question, answered.generated, answered.tokens[0])
    measured = measure(clean.reading, reading, scored)
    place = {(row.flow, row.layer): number for number, row in enumerate(rows)}
    blocked = {flow: found for flow, found in edges.items() if found}
    mass = dict(zip(blocked, head_mass(clean, list(blocked.values())).cpu().numpy(), strict=True))
    named = [(flow, number) for flow in flows for number in range(len(cases))]
    return columns | {
        **noise_floor(measured["p_clean"][0], measured["p_knockout"][len(rows) :]),
        **{name: [measured[name][place[each]] if each in place else None for each in named] for name in _MEASURED},
        "attention": [
            float(np.mean([mass[flow][cell] for cell in case.heads])) if flow in mass and case.heads else None
            for flow in flows
            for case in cases
        ],
    }


class _InHeads:
    """Every flow in some heads.

    Raises:
        CrossflowError: the model lacks a layer, or nothing is knocked out.
    """

    def __init__(self, settings: HeadSettings, model: MultimodalModel) -> None:
        if settings.layers:
            require_centres(settings.layers, len(model.layers), model.settings.path)
        if settings.only_subsets and not settings.subsets:
            raise CrossflowError("Neither each head alone nor random subsets of heads are to be knocked out.")
        self._settings = settings
        self._model = model

    @property
    def determining(self) -> dict[str, Any]:
        settings = self._settings
        subsets = {"subsets": settings.subsets, "share": settings.share} if settings.subsets else {}
        return {
            "flows": list(settings.flows),
            "heads": heads_of(self._model),
            "each": not settings.only_subsets,
            "head_layers": list(settings.layers),
            **subsets,
        }

    def _columns(self, answered: Answered) -> dict[str, Any]:
        settings, model = self._settings, self._model
        question_id = answered.prepared.question.question_id
        cases = settings.cases(question_id, len(model.layers), heads_of(model))
        return knock_out_heads(model, answered, settings.flows, cases, ENGINES[settings.engine], settings.seed)

    def run(self, questions: Sequence[Answered]) -> list[Columns]:
        return [partial(dict, self._columns(answered)) for answered in questions]


def write_heads(job: Job, settings: HeadSettings) -> None:
    """Knock out every flow in single attention heads, or in random subsets of them.

    Finished questions survive a killed job.

    Args:
        job: The job.
        settings: The flows and the heads.

    Raises:
        CrossflowError: the model or a question cannot be used, or the model lacks a layer.
    """
    write_tables(job, settings, settings.flows, HEADS, partial(_InHeads, settings), alone=True)

"""All knockouts of some questions, as the columns of their parts of a knockout table."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossflow.core.flows import MOVED, Flow, Window, parse_flow
from crossflow.core.measures import KNOCKOUT, OF_THE_WHOLE_ANSWER
from crossflow.core.records import ChosenQuestion
from crossflow.core.seeds import derived_seed
from crossflow.engine.attention_mass import attention_mass
from crossflow.engine.donors import Donor
from crossflow.engine.edges import Edges, Row, count_edges, edges_of, rows_of
from crossflow.engine.engines import Engine
from crossflow.engine.forward import CleanRun, Readout, run_clean_together
from crossflow.engine.modules import Silenced
from crossflow.experiments.measures import ScoredTokens, measure, scored_tokens
from crossflow.experiments.noise import NOTHING, noise_floor
from crossflow.models.memory import halving
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.positions import Positions
from crossflow.models.preparing import PrepareRequest

_MEASURED = [name for name in KNOCKOUT.names[4:] if name not in ("edges", "attention")]


ModuleMeans = Mapping[tuple[str, str], Tensor]
"""Module and set -> its mean output in each layer, ``(layers, width)``."""


class Answered(NamedTuple):
    """A question, the model's clean answer to it, and the answer's tokens.

    Attributes:
        own_edges: Name -> blocked edges, for knockouts that are not flows.
        donors: Substitute -> whose keys and values its flows read: a prompt that is laid out as the question's own, or
            ready ones. A flow whose substitute has no donor is missing.
        means: Mean outputs of modules; a flow that needs another one is missing.
    """

    prepared: Prepared
    generated: str
    tokens: Sequence[int]
    own_edges: Mapping[str, Sequence[Edges]] = {}
    donors: Mapping[str, Prepared | Donor] = {}
    means: Mapping[tuple[str, str], Tensor] = {}

    @classmethod
    def of(
        cls,
        prepared: Prepared,
        answer: Any,
        donors: Mapping[str, Prepared | Donor] | None = None,
        means: ModuleMeans | None = None,
    ) -> "Answered":
        """A question with its row of the answers table."""
        tokens = [int(token) for token in answer.answer_tokens]
        return cls(prepared, answer.generated, tokens, donors=donors or {}, means=means or {})


def request_of(question: ChosenQuestion, seed: int | None) -> PrepareRequest:
    """What to prepare for a question's knockouts; with a seed, its objects' boxes are moved too."""
    places = None if seed is None else derived_seed(seed, question.question_id, MOVED)
    return PrepareRequest(question, question.image_id, places)


OWN = "own"
"""The donor that is the question itself: reading its keys and values changes nothing."""


def no_op_rows(rows: Sequence[Row], layers: int) -> list[Row]:
    """Rows that change nothing, in all layers: they show the rounding of the engine.

    One for each first target position that blocks nothing, and one for each substituting flow that reads the question's
    own keys and values.
    """
    every = Window(0, layers - 1)
    starts = sorted({row.start for row in rows})
    nothing = [Row("", 0, every, (Edges(np.arange(0), np.array([start])),)) for start in starts]
    substituting = {row.flow: [edges for edges in row.edges if edges.donor] for row in rows if row.donors}
    itself = [
        Row(f"{flow} of itself", 0, every, tuple(each._replace(donor=OWN) for each in edges))
        for flow, edges in substituting.items()
    ]
    return nothing + itself


@dataclass(frozen=True)
class KnockedOut:
    """A question whose knockouts have been run; its measures are not computed yet.

    Attributes:
        flows: Name -> its centre layers.
        edges: Name -> blocked edges.
        rows: The rows that were run, followed by rows without edges.
        whole_answer: Whether all tokens of the answer were scored.
        scored_tokens: The tokens whose probabilities are measured.
        donors: Substitute -> donor.
        clean, reading: Readouts of the clean run and of the rows; None if there was nothing to knock out.
        mass: See `crossflow.engine.attention_mass`, in the order of the flows that have edges.
    """

    flows: Mapping[str, Sequence[int]]
    edges: Mapping[str, Sequence[Edges | Silenced]]
    rows: Sequence[Row]
    whole_answer: bool
    scored_tokens: ScoredTokens
    donors: Mapping[str, Prepared | Donor] = field(default_factory=dict)
    clean: Readout | None = None
    reading: Readout | None = None
    mass: Tensor | None = None

    def columns(self) -> dict[str, Any]:
        """The question's part of a knockout table.

        A flow without edges (an empty source or target set) gets its rows with ``edges`` 0 and no measures. The entries
        ``noise_floor`` and ``noise_floor_percent`` are the largest change of the probability by a no-op knockout,
        absolute and in percent; None if there was nothing to knock out.
        """
        measured: dict[str, list[Any]] = {name: [] for name in _MEASURED}
        mass: dict[str, np.ndarray] = {}
        floor: Mapping[str, float | None] = NOTHING
        if self.clean is not None and self.reading is not None and self.mass is not None:
            measured = measure(self.clean, self.reading, self.scored_tokens)
            floor = noise_floor(measured["p_clean"][0], measured["p_knockout"][len(self.rows) :])
            mass = dict(
                zip([name for name, edges in self.edges.items() if edges], self.mass.cpu().numpy(), strict=True)
            )
        if not self.whole_answer:
            measured |= dict.fromkeys(OF_THE_WHOLE_ANSWER, [None] * len(measured["p_clean"]))

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
            **floor,
        }


def available_edges(
    flow: Flow, positions: Positions, seed: int, question_id: str, donors: Collection[str], means: ModuleMeans
) -> Sequence[Edges | Silenced]:
    """As `edges_of`; none if the flow's substitute has no donor."""
    if flow.substitute is not None and flow.substitute not in donors:
        return ()
    return edges_of(flow, positions, seed, question_id, means)


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
        questions: Questions that run together.
        flows: Name -> its centre layers; a name is a flow, or belongs to each question's own edges.
        window: The window: a width, ``bottom`` or ``top``.
        engine: How knockouts are computed.
        seed: Seed of random source sets.
        whole_answer: Score all tokens of the answer, not only the first.
    """
    layers = len(model.layers)
    tokenizer = model.processor.tokenizer
    special = set(tokenizer.all_special_ids)
    planned: list[tuple[Prepared, KnockedOut]] = []
    for prepared, generated, tokens, own_edges, donors, means in questions:
        question, positions = prepared.question, prepared.positions
        answer = [token for token in tokens if token not in special]
        scored = whole_answer and answer[:1] == tokens[:1]
        prompt = prepared.answered_by(answer) if scored else prepared
        answered = {
            name: donor.answered_by(answer) if scored and isinstance(donor, Prepared) else donor
            for name, donor in donors.items()
        }

        edges = {
            name: own_edges[name]
            if name in own_edges
            else available_edges(parse_flow(name), positions, seed, question.question_id, donors, means)
            for name in flows
        }
        rows: list[Row] = []
        for name, found in edges.items():
            longer = [each.extended_by(positions.length - 1, prompt.length - positions.length) for each in found]
            rows.extend(rows_of(name, longer, window, layers, flows[name]) if longer else [])
        scored_first = scored_tokens(tokenizer, question, generated, tokens[0])
        outcome = KnockedOut(flows, edges, rows, whole_answer, scored_first, answered)
        planned.append((prompt, outcome))
    ran = iter(halving([each for each in planned if each[1].rows], partial(_run, model, engine), "questions"))
    return [next(ran) if outcome.rows else outcome for _, outcome in planned]


def run_clean_with_donors(
    model: MultimodalModel,
    prompts: Sequence[Prepared],
    firsts: Sequence[int],
    donors: Sequence[Mapping[str, Prepared | Donor]],
) -> list[CleanRun]:
    """Clean runs of some prompts with what their substitutions read, their own keys and values included.

    Args:
        model: The model.
        prompts: The prompts.
        firsts: The first target of each.
        donors: Substitute -> donor of each. Donors that are prompts run beside the questions; only their keys and
            values are kept.
    """
    others = [
        (number, name, donor)
        for number, of_prompt in enumerate(donors)
        for name, donor in of_prompt.items()
        if isinstance(donor, Prepared)
    ]
    ran = run_clean_together(
        model,
        [*prompts, *(donor for *_, donor in others)],
        [*firsts, *(donor.positions.length - 1 for *_, donor in others)],
    )
    found: list[dict[str, Donor]] = [
        {name: donor for name, donor in of_prompt.items() if isinstance(donor, Donor)} for of_prompt in donors
    ]
    for (number, name, _), clean in zip(others, ran[len(prompts) :], strict=True):
        found[number][name] = clean.as_donor
    return [
        replace(clean, donors={OWN: clean.as_donor} | of_prompt) for clean, of_prompt in zip(ran, found, strict=False)
    ]


def _run(model: MultimodalModel, engine: Engine, planned: Sequence[tuple[Prepared, KnockedOut]]) -> list[KnockedOut]:
    """Prompts and their planned knockouts, which are run together."""
    outcomes = [outcome for _, outcome in planned]
    cleans = run_clean_with_donors(
        model,
        [prompt for prompt, _ in planned],
        [min(row.start for row in outcome.rows) for outcome in outcomes],
        [outcome.donors for outcome in outcomes],
    )
    work = [
        (clean, [*outcome.rows, *no_op_rows(outcome.rows, len(model.layers))])
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

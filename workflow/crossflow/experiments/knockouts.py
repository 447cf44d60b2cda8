"""All knockouts of some questions, as the columns of their parts of a knockout table."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossflow.core.devices import take_device
from crossflow.core.files import hash_file
from crossflow.core.flows import MOVED, Flow, Window, parse_flow, require_window
from crossflow.core.measures import KNOCKOUT
from crossflow.core.records import ChosenQuestion
from crossflow.core.seeds import derived_seed
from crossflow.core.tables import ANSWERS, question_rows, read_parquet, write_parquet
from crossflow.engine.attention_mass import attention_mass
from crossflow.engine.donors import Donor
from crossflow.engine.edges import Edges, Row, count_edges, edges_of, rows_of
from crossflow.engine.engines import ENGINES, Engine
from crossflow.engine.forward import Readout, run_clean_together
from crossflow.engine.planning import plan_parts
from crossflow.experiments.donors import Donors, Layout, substitutes_of
from crossflow.experiments.job import (
    Given,
    Item,
    Job,
    Outcome,
    Part,
    finished_parts,
    require_same_clean_run,
    require_same_prompt,
    still_usable,
)
from crossflow.experiments.measures import ScoredTokens, measure, scored_tokens
from crossflow.experiments.selection import Select, selected
from crossflow.models.loading import load_model
from crossflow.models.memory import halving
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.positions import Positions
from crossflow.models.preparing import PrepareRequest

log = logging.getLogger(__name__)

_MEASURED = [name for name in KNOCKOUT.names[4:] if name not in ("edges", "attention")]


class Answered(NamedTuple):
    """A question, the model's clean answer to it, and the answer's tokens.

    Attributes:
        own_edges: Name -> blocked edges, for knockouts that are not flows.
        donors: Substitute -> whose keys and values its flows read: a prompt that is laid out as the question's own, or
            ready ones. A flow whose substitute has no donor is missing.
    """

    prepared: Prepared
    generated: str
    tokens: Sequence[int]
    own_edges: Mapping[str, Sequence[Edges]] = {}
    donors: Mapping[str, Prepared | Donor] = {}


OWN = "own"
"""The donor that is the question itself: reading its keys and values changes nothing."""


def _no_op_rows(rows: Sequence[Row], layers: int) -> list[Row]:
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
    edges: Mapping[str, Sequence[Edges]]
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
        noise_floor = noise_floor_percent = None
        if self.clean is not None and self.reading is not None and self.mass is not None:
            measured = measure(self.clean, self.reading, self.scored_tokens)
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


def _edges_of(
    flow: Flow, positions: Positions, seed: int, question_id: str, donors: Collection[str]
) -> Sequence[Edges]:
    """As `edges_of`; none if the flow's substitute has no donor."""
    if flow.substitute is not None and flow.substitute not in donors:
        return ()
    return edges_of(flow, positions, seed, question_id)


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
    for prepared, generated, tokens, own_edges, donors in questions:
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
            else _edges_of(parse_flow(name), positions, seed, question.question_id, donors)
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


def _run(model: MultimodalModel, engine: Engine, planned: Sequence[tuple[Prepared, KnockedOut]]) -> list[KnockedOut]:
    """Prompts and their planned knockouts, which are run together."""
    prompts = [prompt for prompt, _ in planned]
    outcomes = [outcome for _, outcome in planned]
    firsts = [min(row.start for row in outcome.rows) for outcome in outcomes]
    # Donors that are prompts run beside the questions; only their keys and values are kept.
    others = [
        (number, name, donor)
        for number, outcome in enumerate(outcomes)
        for name, donor in outcome.donors.items()
        if isinstance(donor, Prepared)
    ]
    ran = run_clean_together(
        model,
        [*prompts, *(donor for *_, donor in others)],
        [*firsts, *(donor.positions.length - 1 for *_, donor in others)],
    )
    found: list[dict[str, Donor]] = [
        {name: donor for name, donor in outcome.donors.items() if isinstance(donor, Donor)} for outcome in outcomes
    ]
    for (number, name, _), clean in zip(others, ran[len(prompts) :], strict=True):
        found[number][name] = clean.as_donor
    cleans = [replace(clean, donors={OWN: clean.as_donor} | donors) for clean, donors in zip(ran, found, strict=False)]
    work = [
        (clean, [*outcome.rows, *_no_op_rows(outcome.rows, len(model.layers))])
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


@dataclass(frozen=True)
class KnockoutSettings:
    """The knockouts of a job.

    Attributes:
        answers: Folder of the model's answers to the questions, {category}.parquet.
        window: Width of the window in layers, bottom or top.
        flows: Flows, source->target, at every centre layer.
        controls: Control flows, at centre layers `stride` apart.
        stride: Distance between the centre layers of the controls.
        seed: Seed of random source sets.
        whole_answer: Score all tokens of the answer, not only the first.
        select: Which questions are knocked out, by the model's answer.
        engine: knockout (exact and fast) or reference (one full forward per number).
    """

    answers: Path
    window: str
    flows: tuple[str, ...]
    controls: tuple[str, ...] = ()
    stride: int = 1
    seed: int = 0
    whole_answer: bool = False
    select: Select = "correct"
    engine: Literal["knockout", "reference"] = "knockout"

    @property
    def names(self) -> list[str]:
        """All flows, controls included."""
        return [*self.flows, *self.controls]

    def centres(self, layers: int) -> dict[str, list[int]]:
        """Flow -> its centre layers in a model with the given number of layers."""
        found = {name: list(range(layers)) for name in self.flows}
        return found | {name: list(range(0, layers, self.stride)) for name in self.controls}


def request_of(question: ChosenQuestion, seed: int | None) -> PrepareRequest:
    """What to prepare for a question's knockouts; with a seed, its objects' boxes are moved too."""
    places = None if seed is None else derived_seed(seed, question.question_id, MOVED)
    return PrepareRequest(question, question.image_id, places)


def _checked(item: Item, knocked_out: KnockedOut, dtype: str) -> dict[str, Any]:
    columns = knocked_out.columns()
    for probability in columns["p_clean"]:
        if probability is not None:
            require_same_clean_run(item.question.question_id, item.answer.p_clean, probability, dtype)
    return columns


def _noise_floor(entries: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return max((entry[name] for entry in entries if entry[name] is not None), default=None)


def write_knockouts(job: Job, settings: KnockoutSettings) -> None:
    """Knock out every flow at every centre layer.

    Finished questions survive a killed job.

    Args:
        job: The job.
        settings: The knockouts.

    Raises:
        CrossflowError: the model or a question cannot be used, or the window does not fit the model.
    """
    categories = job.categories()
    tables = {category: settings.answers / f"{category}.parquet" for category in categories}
    answers = {category: read_parquet(table, ANSWERS) for category, table in tables.items()}
    chosen = {name: selected(questions, answers[name][0], settings.select) for name, questions in categories.items()}
    moved = any(parse_flow(name).is_moved for name in settings.names)
    device = take_device(job.device)
    together = plan_parts(
        job.settings,
        [[question for question, _ in questions] for questions in chosen.values()],
        device,
        settings.names,
        batched=settings.engine != "reference",
    )
    model = load_model(job.settings, device)
    layers = len(model.layers)
    require_window(settings.window, layers, job.settings.path)
    for category, (_, answered) in answers.items():
        require_same_prompt(tables[category], answered, model.prompt)
    centres = settings.centres(layers)

    needed = substitutes_of(settings.names)
    donors = {
        name: Donors(model, needed, every, [asked for asked, _ in chosen[name]], job.images.open, settings.seed)
        for name, every in categories.items()
    }
    places = dict(zip(categories, together, strict=True))

    @lru_cache(maxsize=1)
    def means(category: str) -> Mapping[Layout, Donor]:
        """Computed when a category's first questions run; those of one category fill much memory."""
        return donors[category].means(places[category], job.workers_for(model))

    def part(category: str, at_once: int) -> Part:
        determined = job.determining(category, model.prompt) | {
            "answers": hash_file(tables[category]),
            "window": settings.window,
            "flows": settings.names,
            "centres": centres,
            "seed": settings.seed,
            "whole_answer": settings.whole_answer,
            "select": settings.select,
            "engine": settings.engine,
        }
        seed = settings.seed if moved else None
        items = [
            Item(question, [request_of(question, seed), *donors[category].requests(question)], row)
            for question, row in chosen[category]
        ]
        return Part.of(category, determined, items, at_once, partial(run, category))

    def run(category: str, batch: Sequence[Item], given: Sequence[Given]) -> list[Outcome]:
        answered = []
        for item, (first, *others) in zip(batch, given, strict=True):
            prepared = still_usable(first, item.question)
            tokens = [int(token) for token in item.answer.answer_tokens]
            own = donors[category].of(prepared, others, means(category))
            answered.append(Answered(prepared, item.answer.generated, tokens, donors=own))
        engine = ENGINES[settings.engine]
        knocked_out = knock_out(model, answered, centres, settings.window, engine, settings.seed, settings.whole_answer)
        return [
            partial(_checked, item, each, model.settings.dtype) for item, each in zip(batch, knocked_out, strict=True)
        ]

    parts = [part(category, at_once) for category, at_once in zip(categories, together, strict=True)]
    with finished_parts(job, model, __name__, parts) as finished:
        for (category, determined, *_), (entries, _) in zip(parts, finished, strict=True):
            questions = chosen[category]
            found = [entries[question.question_id] for question, _ in questions]
            floors = {name: _noise_floor(found, name) for name in ("noise_floor", "noise_floor_percent")}
            if floors["noise_floor"] is not None:
                log.info(
                    "noise floor, %s: a no-op knockout changes a probability by at most %.1e",
                    category, floors["noise_floor"],
                )  # fmt: skip
            rows = question_rows(KNOCKOUT, zip((question for question, _ in questions), found, strict=True))
            excluded = len(answers[category][0]) - len(questions)
            counts = {"layers": layers, "selected": len(questions), "excluded": excluded}
            if averaged := donors[category].averaged:
                counts["mean_images"] = len(averaged)
            write_parquet(job.output / f"{category}.parquet", KNOCKOUT, rows, dict(determined) | counts | floors)

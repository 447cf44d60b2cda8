"""Activation patching on pairs: where in the network what distinguishes two images is held.

A pair is a question with two images and two answers. The residual stream of one run, at a position set and after some
layers, is replaced by that of the other run (*noising*: the own image's run gets the pair's states; *denoising*: the
reverse). The measure is the margin between the two answers' logits: whatever the patched states hold of the difference
moves it from its own value to the other run's.

Visual sets follow from the objects' boxes, which may differ between the images: ``related`` are the visual tokens that
show the objects in either image, ``other`` those that show them in neither. A set that differs in any other way is
missing.

Sources: J. Vig et al., Investigating gender bias in language models using causal mediation analysis (NeurIPS 2020); F.
Zhang and N. Nanda, Towards best practices of activation patching in language models (ICLR 2024), for pairs of symmetric
inputs and logit differences; S. Heimersheim and N. Nanda, How to use and interpret activation patching (arXiv
2404.15255), for the two directions.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from crossflow.core.devices import take_device
from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.files import hash_file
from crossflow.core.flows import IMAGE_SETS, PATCHED_SETS, SINK_SETS
from crossflow.core.patching import DENOISING, DIRECTIONS, NOISING, PAIR_OUTCOMES, PATCHED, PATCHING
from crossflow.core.records import ChosenQuestion
from crossflow.core.tables import question_rows, write_csv, write_parquet
from crossflow.data.chosen import read_chosen
from crossflow.engine.edges import Row, patched_row
from crossflow.engine.engines import ENGINES, Engine
from crossflow.engine.forward import CleanRun, run_clean_together
from crossflow.engine.patches import Patch
from crossflow.engine.planning import plan_parts
from crossflow.experiments.job import (
    Finished,
    Given,
    Item,
    Job,
    Outcome,
    Part,
    finished_parts,
    require_same_clean_run,
    still_usable,
)
from crossflow.experiments.measures import scored_tokens
from crossflow.experiments.noise import NOTHING, largest_floor, noise_floor
from crossflow.experiments.selection import Select, Selected, select_answered
from crossflow.models.loading import load_model
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.positions import Indices, Positions
from crossflow.models.preparing import PrepareRequest

log = logging.getLogger(__name__)

_NOT_ASKED = {"right": None, "pair_right": None}
_MEASURED = ("margin_base", "margin_other", "margin_patched", "p_base", "p_patched")


def patched_sets(names: Sequence[str], own: Positions, pair: Positions) -> dict[str, Indices]:
    """The positions at which each set is patched; none if the set does not correspond in the two prompts."""

    def corresponding(name: str) -> Indices:
        if name not in ("related", "other"):
            return own[name] if np.array_equal(own[name], pair[name]) else np.arange(0)
        if not len(own["related"]) or not len(pair["related"]):
            return np.arange(0)
        return (np.union1d if name == "related" else np.intersect1d)(own[name], pair[name])

    return {name: corresponding(name) for name in names}


def _start(clean: CleanRun, position: int) -> int:
    """The last position up to the given one such that no position before it attends to it or to a later one."""
    if all(record.is_causal for record in clean.layers):
        return position
    masks = {id(record.visible): record.visible for record in clean.layers}.values()
    starts = range(position, clean.first, -1)
    apart = (start for start in starts if not any(mask[: start - clean.first, start:].any() for mask in masks))
    return next(apart, clean.first)


class _Direction(NamedTuple):
    """One direction of a pair: the run that is patched, and the one whose states it gets."""

    name: str
    base: CleanRun
    other: CleanRun

    def patch(self, positions: Indices, states: CleanRun) -> Patch:
        """A patch with the states of a run."""
        return Patch(torch.from_numpy(positions).to(self.base.after.device), states.entering, states.first)


def patch_pair(
    model: MultimodalModel, own: CleanRun, pair: CleanRun, sets: Sequence[str], layers: Sequence[int], engine: Engine
) -> dict[str, Any]:
    """Patch both runs of a pair with one another.

    Args:
        model: The model.
        own, pair: The runs with the own and the pair's image, recorded from before the first patched position on; their
            most likely tokens differ.
        sets: Position sets.
        layers: After how many layers they are patched.
        engine: How patches are computed.

    Returns:
        The columns of `crossflow.core.patching.PATCHING` that follow from the runs, and the noise floor: the largest
        change of a probability by a patch with the run's own states, absolute and in percent; None without a patch.
    """
    found = patched_sets(sets, own.prepared.positions, pair.prepared.positions)
    there = {name: positions for name, positions in found.items() if len(positions)}
    cells = list(product(DIRECTIONS, sets, layers))
    columns: dict[str, Any] = {
        "direction": [direction for direction, *_ in cells],
        "set": [name for _, name, _ in cells],
        "layer": [layer for *_, layer in cells],
        "positions": [len(found[name]) for _, name, _ in cells],
        **NOTHING,
    }
    if not there:
        return columns | {name: [None] * len(cells) for name in _MEASURED}
    directions = (_Direction(NOISING, own, pair), _Direction(DENOISING, pair, own))
    work: list[tuple[CleanRun, Sequence[Row]]] = []
    for direction in directions:
        starts = {name: _start(direction.base, int(positions[0])) for name, positions in there.items()}
        rows = [
            patched_row(direction.patch(positions, direction.other), starts[name], layer)
            for name, positions in there.items()
            for layer in layers
        ]
        itself = [
            patched_row(direction.patch(positions, direction.base), starts[name], layers[0])
            for name, positions in there.items()
        ]
        work.append((direction.base, [*rows, *itself]))
    measured: dict[tuple[str, str, int], dict[str, float]] = {}
    floors: list[dict[str, float]] = []
    with torch.inference_mode():
        for direction, reading in zip(directions, engine(model, work), strict=True):
            answers = torch.stack([direction.base.logits.argmax(), direction.other.logits.argmax()])
            runs = torch.cat([direction.base.reading.logits, direction.other.reading.logits, reading.logits]).double()
            chosen = runs[:, answers].cpu().numpy()
            margins = chosen[:, 0] - chosen[:, 1]
            logprobs = torch.log_softmax(runs, dim=-1)[:, answers[0]]
            p_base, _, *p_patched = logprobs.exp().tolist()
            places = [(direction.name, name, layer) for name in there for layer in layers]
            for number, place in enumerate(places):
                values = (margins[0], margins[1], margins[2 + number], p_base, p_patched[number])
                measured[place] = dict(zip(_MEASURED, map(float, values), strict=True))
            floors.append(noise_floor(p_base, p_patched[len(places) :]))
    return columns | {
        **largest_floor(floors),
        **{name: [measured[cell][name] if cell in measured else None for cell in cells] for name in _MEASURED},
    }


@dataclass(frozen=True)
class PatchingSettings:
    """The patches of a job.

    Attributes:
        answers: Folder of the model's answers to the questions, {category}.parquet.
        pairs: Folder of the questions' pairs, {category}.csv.
        sets: Position sets at which the residual stream is patched.
        stride: Distance between the patched layers; the last one is always patched.
        select: Which questions are patched, by the model's answer.
        engine: knockout (exact and fast) or reference (one full forward per number).
    """

    answers: Path
    pairs: Path
    sets: tuple[str, ...] = PATCHED_SETS
    stride: int = 1
    select: Select = "correct"
    engine: Literal["knockout", "reference"] = "knockout"

    def layers(self, count: int) -> list[int]:
        """After how many layers the residual stream of a model with ``count`` layers is patched."""
        return sorted({*range(0, count, self.stride), count})


class _Pairs:
    """The pairs of the questions of one category.

    Args:
        settings: The patches.
        category: The category.
        selection: Its questions.
    """

    def __init__(self, settings: PatchingSettings, category: str, selection: Selected) -> None:
        self.table = settings.pairs / f"{category}.csv"
        self._settings = settings
        self._pairs = {pair.question_id: pair for pair in read_chosen(self.table)}
        self._selected = {question.question_id for question in selection.asked}

    def items(self, answered: Sequence[tuple[ChosenQuestion, Any]]) -> list[Item]:
        """The questions that have a pair, each with what to prepare."""
        return [
            Item(
                question,
                [
                    PrepareRequest(question, question.image_id),
                    PrepareRequest(self._pairs[question.question_id], self._pairs[question.question_id].image_id),
                ],
                row,
            )
            for question, row in answered
            if question.question_id in self._pairs
        ]

    def entry(self, model: MultimodalModel, item: Item, own: Prepared, pair: Prepared) -> dict[str, Any]:
        """The entry of a question: what became of its pair, and its columns if it was patched."""
        settings = self._settings
        question, other = item.question, self._pairs[item.question.question_id]
        if own.layout != pair.layout or not torch.equal(own.inputs["input_ids"], pair.inputs["input_ids"]):
            return _NOT_ASKED | {"outcome": "the visual tokens of the two images do not correspond"}
        sets = [own.positions["image" if name in IMAGE_SETS else name] for name in settings.sets]
        first = min((int(positions[0]) for positions in sets if len(positions)), default=own.length - 1)
        cleans = run_clean_together(model, [own, pair], [first, first])
        probability = float(torch.softmax(cleans[0].logits.double(), dim=-1)[item.answer.first_token])
        require_same_clean_run(question.question_id, item.answer.p_clean, probability, model.settings.dtype)
        tokens = [int(clean.logits.argmax()) for clean in cleans]
        tokenizer = model.processor.tokenizer
        right = [
            token in scored_tokens(tokenizer, each, "", token).gold
            for token, each in zip(tokens, (question, other), strict=True)
        ]
        found = {"right": right[0], "pair_right": right[1]}
        if question.question_id not in self._selected:
            return found | {"outcome": f"the answer to the own image is not {settings.select}"}
        if not right[1]:
            return found | {"outcome": "the answer to the pair's image is wrong"}
        if tokens[0] == tokens[1]:
            return found | {"outcome": "both answers begin with the same token"}
        layers = settings.layers(len(model.layers))
        columns = patch_pair(model, cleans[0], cleans[1], settings.sets, layers, ENGINES[settings.engine])
        return found | {"outcome": PATCHED, "columns": columns}

    def outcomes(self, answered: Sequence[tuple[ChosenQuestion, Any]], finished: Finished) -> list[dict[str, Any]]:
        """The rows of the table of outcomes."""

        def row(question: ChosenQuestion) -> dict[str, Any]:
            question_id = question.question_id
            named = {"question_id": question_id, "image_id": question.image_id, "pair_image_id": None}
            if question_id not in self._pairs:
                return named | _NOT_ASKED | {"outcome": "no pair"}
            named["pair_image_id"] = self._pairs[question_id].image_id
            if question_id in finished.broken:
                return named | _NOT_ASKED | {"outcome": str(finished.broken[question_id])}
            entry: Mapping[str, Any] = finished.entries[question_id]
            return {**named, **entry}

        return [row(question) for question, _ in answered]


def write_patching(job: Job, settings: PatchingSettings) -> None:
    """Patch the residual stream of pairs, and write a table of each category and one of what became of its pairs.

    Finished questions survive a killed job.

    Args:
        job: The job.
        settings: The patches.

    Raises:
        CrossflowError: the model or a question cannot be used, a set follows from sinks, or a table of pairs is not
            as expected.
    """
    if sinks := [name for name in settings.sets if name in SINK_SETS]:
        raise CrossflowError(f"Patching: the position set {sinks[0]} differs between images; choose another.")
    everything = select_answered(job, settings.answers, "all")
    selected = select_answered(job, settings.answers, settings.select)
    pairs = {category: _Pairs(settings, category, selection) for category, selection in selected.items()}
    device = take_device(job.device)
    flows = [f"{name}->{name}" for name in settings.sets]
    asked = [each.asked for each in everything.values()]
    plan_parts(job.settings, asked, device, flows, batched=settings.engine != "reference")
    model = load_model(job.settings, device)
    for each in everything.values():
        each.require_prompt(model.prompt)

    def run(category: str, batch: Sequence[Item], given: Sequence[Given]) -> list[Outcome]:
        ((own, pair),) = given
        usable = still_usable(own, batch[0].question)
        if isinstance(pair, BrokenQuestion):
            return [BrokenQuestion(f"the pair cannot be used: {pair}")]
        return [partial(dict, pairs[category].entry(model, batch[0], usable, pair))]

    def part(category: str, selection: Selected) -> Part:
        determined = job.determining(category, model.prompt) | {
            **selected[category].determining(),
            "pairs": hash_file(pairs[category].table),
            "pair_images": [hash_file(path) for path in job.images.further],
            "sets": list(settings.sets),
            "patched_layers": settings.layers(len(model.layers)),
            "engine": settings.engine,
        }
        return Part.of(category, determined, pairs[category].items(selection.questions), 1, partial(run, category))

    parts = [part(*each) for each in everything.items()]
    with finished_parts(job, model, __name__, parts) as finished:
        for (category, determined, *_), of_part in zip(parts, finished, strict=True):
            answered = everything[category].questions
            outcomes = pairs[category].outcomes(answered, of_part)
            write_csv(job.output / f"{category}.pairs.csv", PAIR_OUTCOMES, outcomes)
            _write(job.output / f"{category}.parquet", answered, of_part, len(model.layers), determined)
            counted = Counter(row["outcome"] for row in outcomes)
            log.info("pairs, %s: %s", category, ", ".join(f"{n} {outcome}" for outcome, n in counted.most_common()))


def _write(
    path: Path,
    answered: Sequence[tuple[ChosenQuestion, Any]],
    finished: Finished,
    layers: int,
    determined: Mapping[str, Any],
) -> None:
    """Write the table of a category."""
    found = [
        (question, finished.entries[question.question_id]["columns"])
        for question, _ in answered
        if finished.entries.get(question.question_id, {}).get("outcome") == PATCHED
    ]
    floors = largest_floor(columns for _, columns in found)
    write_parquet(
        path,
        PATCHING,
        question_rows(PATCHING, found),
        dict(determined) | {"layers": layers, "selected": len(found)} | floors,
    )

"""Knockouts as a job: what knockouts in windows and in heads share, and the knockouts in windows.

Answered questions are chosen by their answers and knocked out with one model, their donors beside them. Experiments
differ in the function from questions to columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import pyarrow as pa

from crossflow.core.devices import take_device
from crossflow.core.flows import parse_flow, require_window
from crossflow.core.measures import KNOCKOUT
from crossflow.engine.donors import Donor
from crossflow.engine.engines import ENGINES
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
    still_usable,
)
from crossflow.experiments.knocked_out import Answered, ModuleMeans, knock_out, request_of
from crossflow.experiments.module_means import module_means, wanted_by
from crossflow.experiments.selection import Select, Selected, select_answered
from crossflow.experiments.sinks import SinkSets
from crossflow.models.loading import sketch_model, with_weights
from crossflow.models.model import MultimodalModel

Columns = Callable[[], dict[str, Any]]
"""A question's columns, computed once they are written."""


@runtime_checkable
class Settings(Protocol):
    """What all knockouts need.

    Attributes:
        answers: Folder of the model's answers.
        seed: Seed of random source sets.
        select: Which questions are knocked out.
        engine: How knockouts are computed.
    """

    @property
    def answers(self) -> Path: ...
    @property
    def seed(self) -> int: ...
    @property
    def select(self) -> Select: ...
    @property
    def engine(self) -> Literal["knockout", "reference"]: ...


@runtime_checkable
class Experiment(Protocol):
    """One kind of knockout, for one model.

    Attributes:
        determining: What determines its numbers, besides the job, the choice of questions, the seed and the engine.
    """

    @property
    def determining(self) -> Mapping[str, Any]: ...

    def run(self, questions: Sequence[Answered]) -> Sequence[Columns]:
        """The columns of questions that run together."""


def _checked(item: Item, columns: Columns, dtype: str) -> dict[str, Any]:
    """A question's columns, refused if its clean run is not the one that was answered.

    Raises:
        CrossflowError: the probability of its answer has changed.
    """
    found = columns()
    for probability in found["p_clean"]:
        if probability is not None:
            require_same_clean_run(item.question.question_id, item.answer.p_clean, probability, dtype)
    return found


def write_tables(
    job: Job,
    settings: Settings,
    flows: Sequence[str],
    schema: pa.Schema,
    experiment_of: Callable[[MultimodalModel], Experiment],
    *,
    alone: bool = False,
) -> None:
    """Knock out the answered questions of a job, and write a table of each category.

    Finished questions survive a killed job.

    Args:
        job: The job.
        settings: What all knockouts need.
        flows: All flows, controls included.
        schema: Columns of the tables.
        experiment_of: The experiment, given the model, at first without weights; its module's code determines the
            numbers.
        alone: Each question runs alone, because its own rows fill a batch.

    Raises:
        CrossflowError: the model or a question cannot be used.
    """
    chosen = select_answered(job, settings.answers, settings.select)
    device = take_device(job.device)
    planned = plan_parts(
        job.settings,
        [each.asked for each in chosen.values()],
        device,
        flows,
        batched=settings.engine != "reference",
    )
    together = dict(zip(chosen, planned, strict=True))
    sketch = sketch_model(job.settings, device)
    # What does not fit the model is refused before its weights are read.
    experiment_of(sketch)
    model = with_weights(sketch)
    experiment = experiment_of(model)
    for each in chosen.values():
        each.require_prompt(model.prompt)
    moved = settings.seed if any(parse_flow(name).is_moved for name in flows) else None
    substitutes = substitutes_of(flows)
    donors = {
        category: Donors(model, substitutes, each.chosen, each.asked, job.images.open, settings.seed)
        for category, each in chosen.items()
    }

    sinks = {category: SinkSets(model, flows, category) for category in chosen}

    outputs = wanted_by(flows)

    @lru_cache(maxsize=1)
    def mean_outputs(category: str) -> ModuleMeans:
        """Computed when a category's first questions run."""
        return module_means(model, outputs, chosen[category].asked, job.images.open, job.workers_for(model))

    @lru_cache(maxsize=1)
    def means(category: str) -> Mapping[Layout, Donor]:
        """Computed when a category's first questions run; those of one category fill much memory."""
        return donors[category].means(together[category], job.workers_for(model))

    def part(category: str, selection: Selected) -> Part:
        determined = job.determining(category, model.prompt) | {
            **selection.determining(),
            **experiment.determining,
            "seed": settings.seed,
            "engine": settings.engine,
        }
        items = [
            Item(question, [request_of(question, moved), *donors[category].requests(question)], row)
            for question, row in selection.questions
        ]
        return Part.of(category, determined, items, 1 if alone else together[category], partial(run, category))

    def run(category: str, batch: Sequence[Item], given: Sequence[Given]) -> list[Outcome]:
        usable = [still_usable(first, item.question) for item, (first, *_) in zip(batch, given, strict=True)]
        prompts = sinks[category].added_to(usable)
        answered = [
            Answered.of(
                prepared,
                item.answer,
                donors[category].of(prepared, others, means(category)),
                mean_outputs(category),
            )
            for item, prepared, (_, *others) in zip(batch, prompts, given, strict=True)
        ]
        return [
            partial(_checked, item, columns, model.settings.dtype)
            for item, columns in zip(batch, experiment.run(answered), strict=True)
        ]

    parts = [part(*each) for each in chosen.items()]
    with finished_parts(job, model, type(experiment).__module__, parts) as finished:
        for (category, determined, *_), (entries, _) in zip(parts, finished, strict=True):
            averaged = donors[category].averaged
            means_of = {"mean_images": len(averaged)} if averaged else {}
            chosen[category].write(
                job.output / f"{category}.parquet",
                schema,
                entries,
                len(model.layers),
                dict(determined) | means_of,
            )


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


class _InWindows:
    """Every flow at every centre layer.

    Raises:
        CrossflowError: the window does not fit the model.
    """

    def __init__(self, settings: KnockoutSettings, model: MultimodalModel) -> None:
        layers = len(model.layers)
        require_window(settings.window, layers, model.settings.path)
        self._settings = settings
        self._model = model
        self._centres = settings.centres(layers)

    @property
    def determining(self) -> dict[str, Any]:
        return {
            "window": self._settings.window,
            "flows": self._settings.names,
            "centres": self._centres,
            "whole_answer": self._settings.whole_answer,
        }

    def run(self, questions: Sequence[Answered]) -> list[Columns]:
        settings = self._settings
        engine = ENGINES[settings.engine]
        knocked_out = knock_out(
            self._model, questions, self._centres, settings.window, engine, settings.seed, settings.whole_answer
        )
        return [each.columns for each in knocked_out]


def write_knockouts(job: Job, settings: KnockoutSettings) -> None:
    """Knock out every flow at every centre layer.

    Finished questions survive a killed job.

    Args:
        job: The job.
        settings: The knockouts.

    Raises:
        CrossflowError: the model or a question cannot be used, or the window does not fit the model.
    """
    write_tables(job, settings, settings.names, KNOCKOUT, partial(_InWindows, settings))

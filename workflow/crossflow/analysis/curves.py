"""Knockout tables arranged by flow: the effect of each flow on each question, at every centre layer.

The draws of a random control are one curve, ``related~random->question``: the mean of a question's draws.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import RANDOM
from crossflow.core.measures import MEASURES, Measure

_DRAW = re.compile(rf"~{RANDOM}[0-9]+(?=->)")


class Curve(NamedTuple):
    """The effect of one flow on the questions that count.

    Attributes:
        centres: Centre layers, ascending.
        question_ids, images: Of each question that counts.
        values: Measure -> one row per question that counts and one column per centre layer; rows of NaN if a question
            lacks the measure, as a margin without options. In the units of the knockout table; ``margin_change`` in
            nats.
        missing: Number of questions for which the flow blocks no edge.
    """

    centres: tuple[int, ...]
    question_ids: Shaped[np.ndarray, " questions"]
    images: Shaped[np.ndarray, " questions"]
    values: Mapping[str, Float[np.ndarray, "questions centres"]]
    missing: int

    @property
    def change(self) -> Float[np.ndarray, "questions centres"]:
        """Change of the answer's probability, in percent."""
        return self.values["change_percent"]

    def among(self, question_ids: Collection[str]) -> "Curve":
        """The curve of some of its questions; none of them counts as missing."""
        kept = np.isin(self.question_ids, list(question_ids))
        values = {name: rows[kept] for name, rows in self.values.items()}
        return Curve(self.centres, self.question_ids[kept], self.images[kept], values, 0)


class Knockouts(NamedTuple):
    """One knockout table: a model, a window, a category.

    Attributes:
        layers: Number of decoder layers.
        question_ids: The questions that were knocked out.
        curves: Flow -> curve, in the study's order.
        noise: Largest change of a probability by a no-op knockout, absolute and in percent; NaN without any.
    """

    model: str
    window: str
    category: str
    layers: int
    question_ids: frozenset[str]
    curves: Mapping[str, Curve]
    noise: tuple[float, float]

    def largest(self, of: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        """Question -> the largest ``of(change)`` of all flows and layers, at least 0; controls left out."""
        found: dict[str, float] = {}
        for flow, curve in self.curves.items():
            if "~" not in flow:
                for question, value in zip(curve.question_ids, of(curve.change).max(axis=1), strict=True):
                    found[question] = max(found.get(question, 0.0), float(value))
        return found

    def of_question(self, question_id: str) -> dict[str, tuple[tuple[int, ...], Float[np.ndarray, " centres"]]]:
        """One question's curves, flow -> centre layers and change in percent, without controls and missing flows."""
        found = {}
        for flow, curve in self.curves.items():
            (places,) = np.nonzero(curve.question_ids == question_id)
            if len(places) and "~" not in flow:
                found[flow] = (curve.centres, curve.change[places[0]])
        return found


def _values(rows: pd.DataFrame, measure: Measure) -> Float[np.ndarray, " rows"]:
    first, *second = (rows[column].to_numpy(dtype=float) for column in measure.columns)
    return np.asarray(first - second[0] if second else first)


def _curve(rows: pd.DataFrame, flow: str, centres: Sequence[int], where: str) -> Curve:
    rows = rows.sort_values(["question_id", "layer"], kind="stable")
    ids = rows["question_id"].to_numpy(dtype=object)
    layers = rows["layer"].to_numpy(dtype=int)
    count = len(centres)
    if len(rows) % count or (layers != np.tile(centres, len(rows) // count)).any():
        raise CrossflowError(f"{where}: {flow} does not have each of its {count} centre layers once per question.")
    if (ids.reshape(-1, count) != ids[::count, None]).any():
        raise CrossflowError(f"{where}: the layers of {flow} belong to different questions.")
    present = rows["edges"].to_numpy(dtype=int).reshape(-1, count).min(axis=1, initial=1) > 0
    values = {measure.name: _values(rows, measure).reshape(-1, count)[present] for measure in MEASURES}
    broken = ~np.isfinite(values["change_percent"]).all(axis=1)
    if broken.any():
        question = ids[::count][present][broken][0]
        raise CrossflowError(f"{where}: {flow} of question {question} blocks edges but has no finite change.")
    images = rows["image_id"].to_numpy(dtype=object)[::count][present]
    return Curve(tuple(centres), ids[::count][present], images, values, int((~present).sum()))


def _mean_of_draws(draws: Sequence[Curve], flow: str, where: str) -> Curve:
    first = draws[0]
    if any(not np.array_equal(draw.question_ids, first.question_ids) for draw in draws):
        raise CrossflowError(f"{where}: the draws of {flow} do not have the same questions.")
    values = {name: np.mean([draw.values[name] for draw in draws], axis=0) for name in first.values}
    return first._replace(values=values)


def knockouts(table: pd.DataFrame, metadata: Mapping[str, Any], *, model: str, window: str, category: str) -> Knockouts:
    """Arrange a knockout table by flow.

    Args:
        table: The columns of ``tables.KNOCKOUT``, in any order of rows.
        metadata: The table's ``layers``, ``flows``, ``centres`` (flow -> centre layers), ``selected`` (number of
            questions knocked out) and noise floor.
        model, window, category: Of the table.

    Raises:
        CrossflowError: a row is missing or repeated, a change is not finite although edges were blocked, or the
            metadata do not fit.
    """
    where = f"Knockouts of {model}, window {window}, {category}"
    try:
        layers, selected = int(metadata["layers"]), int(metadata["selected"])
        centres = {str(flow): [int(layer) for layer in metadata["centres"][flow]] for flow in metadata["flows"]}
        noise = (metadata["noise_floor"], metadata["noise_floor_percent"])
    except KeyError as error:
        raise CrossflowError(f"{where}: the table's metadata lack {error}: delete the table and run again.") from error
    question_ids = frozenset(table["question_id"])
    expected = selected * sum(map(len, centres.values()))
    if len(question_ids) != selected or len(table) != expected:
        raise CrossflowError(
            f"{where}: {len(table)} rows for {len(question_ids)} questions, expected {expected} for {selected}: delete "
            "the table and run again."
        )
    by_flow = dict(tuple(table.groupby("flow", sort=False)))
    together: dict[str, list[Curve]] = {}
    for flow, chosen in centres.items():
        curve = _curve(by_flow.get(flow, table[:0]), flow, chosen, where)
        if len(curve.images) + curve.missing != selected:
            raise CrossflowError(f"{where}: {flow} does not have a row for each of {selected} questions.")
        together.setdefault(_DRAW.sub(f"~{RANDOM}", flow), []).append(curve)
    curves = {
        flow: draws[0] if len(draws) == 1 else _mean_of_draws(draws, flow, where) for flow, draws in together.items()
    }
    floors = tuple(np.nan if floor is None else float(floor) for floor in noise)
    return Knockouts(model, window, category, layers, question_ids, curves, (floors[0], floors[1]))

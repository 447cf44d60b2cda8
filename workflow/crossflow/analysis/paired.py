"""Paired comparisons: two flows of one model, or two models, on the same questions.

Differences are taken per question and then averaged, so that what the questions have in common drops out; intervals
resample images. Two flows are compared at every centre layer, with a band that holds all layers at once, and on the
mean over layers. Two models differ in their layers, so only that mean is compared, on the questions that were knocked
out in both.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from crossflow.analysis.bootstrap import clustered_mean
from crossflow.analysis.curves import Curve, Knockouts
from crossflow.analysis.results import Results, Row
from crossflow.core.flows import blocking_of, substitute_of
from crossflow.core.seeds import derived_seed

PAIRS = (
    ("question->last", "image->last"),
    ("image->question", "image->last"),
    ("related->question", "other->question"),
)


def on_common_ground(curves: Sequence[Curve]) -> list[Curve]:
    """The same questions, in the same order, at the centre layers that all curves have."""
    ids = set.intersection(*(set(curve.question_ids) for curve in curves))
    centres = sorted(set.intersection(*(set(curve.centres) for curve in curves)))
    found = []
    for curve in (curve.among(ids) for curve in curves):
        order = np.argsort(curve.question_ids.astype(str), kind="stable")
        columns = np.searchsorted(curve.centres, centres)
        values = {name: rows[np.ix_(order, columns)] for name, rows in curve.values.items()}
        found.append(Curve(tuple(centres), curve.question_ids[order], curve.images[order], values, 0))
    return found


def pairs_of(flows: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that are compared: those of the study's claims, each flow with its controls and its substitutions."""
    substitutions = [(blocking_of(flow), flow) for flow in flows if substitute_of(flow) and blocking_of(flow) in flows]
    controls = [(flow, other) for other in flows for flow in flows if "~" in other and flow == _without_control(other)]
    return [pair for pair in PAIRS if set(pair) <= set(flows)] + controls + substitutions


def _without_control(flow: str) -> str:
    """A control's flow: of a sum, each part without its own control."""
    return re.sub(r"~\w+", "", flow)


def _row(
    table: Knockouts, other: str, flows: tuple[str, str], layer: int | None, n: int, numbers: Mapping[str, float]
) -> Row:
    return {
        "model": table.model,
        "other_model": other,
        "category": table.category,
        "window": table.window,
        "layer": layer,
        "flow": flows[0],
        "other_flow": flows[1],
        "n": n,
        **numbers,
    }


def flow_pairs(table: Knockouts, seed: int) -> Iterator[Row]:
    """The rows of comparisons.csv for pairs of flows, in percentage points; a pair without questions has no rows."""
    for pair in pairs_of(list(table.curves)):
        one, other = on_common_ground([table.curves[flow] for flow in pair])
        if not len(one.images) or not one.centres:
            continue
        drawn = derived_seed(seed, table.model, table.category, *pair, table.window)
        difference = one.change - other.change
        by_layer = clustered_mean(difference, one.images, drawn)
        whole = clustered_mean(difference.mean(axis=1, keepdims=True), one.images, drawn)
        n = len(one.images)
        for column, layer in enumerate(one.centres):
            band = {"low": by_layer.band_low[column], "high": by_layer.band_high[column]}
            yield _row(table, "", pair, layer, n, by_layer.row(column) | band)
        yield _row(table, "", pair, None, n, whole.row(0))


def model_pairs(tables: Mapping[str, Knockouts], seed: int) -> Iterator[Row]:
    """Give the rows of comparisons.csv that compare models, in percentage points of the mean over layers.

    Args:
        tables: Model -> its knockouts of one category, in corresponding windows.
    """
    for one, other in combinations(tables.values(), 2):
        for flow in (flow for flow in one.curves if flow in other.curves and "~" not in flow):
            curves = [table.curves[flow] for table in (one, other)]
            # Each model keeps its own layers: only the questions are shared.
            ids = set(curves[0].question_ids) & set(curves[1].question_ids)
            means = [dict(zip(curve.question_ids, curve.change.mean(axis=1), strict=True)) for curve in curves]
            if not ids:
                continue
            kept = curves[0].among(ids)
            difference = np.array([[means[0][question] - means[1][question]] for question in kept.question_ids])
            drawn = derived_seed(seed, one.model, other.model, one.category, flow, one.window)
            estimate = clustered_mean(difference, kept.images, drawn)
            yield _row(one, other.model, (flow, flow), None, len(ids), estimate.row(0))


def tables(results: Results) -> dict[str, Iterable[Row]]:
    """Rows of comparisons.csv: of each category, the pairs of flows and then the pairs of models.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    rows: list[Row] = []
    for category in results.categories:
        found: dict[str, list[Knockouts]] = {model: [] for model in results.windows}
        for model, windows in results.windows.items():
            for window in windows:
                table = results.knockouts(model, window, category)
                found[model].append(table)
                rows.extend(flow_pairs(table, results.seed))
        for corresponding in zip(*found.values(), strict=False):
            rows.extend(model_pairs({each.model: each for each in corresponding}, results.seed))
    return {"comparisons": rows}

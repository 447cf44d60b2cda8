"""Mean curves of a study: effects.csv, bands.csv and measures.csv.

Every curve has a mean with a 95 % interval at each centre layer; effects.csv holds the change of the answer's
probability over all questions, measures.csv the other measures, and the changes of strata.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from crossflow.analysis.bootstrap import clustered_mean
from crossflow.analysis.curves import Curve, Knockouts
from crossflow.analysis.results import Results, Row
from crossflow.core.measures import MEASURES
from crossflow.core.seeds import derived_seed

ALL = "all"
"""The stratum of all questions."""


def _chunks(curve: Curve) -> Iterator[tuple[np.ndarray, list[str]]]:
    """The measures of a curve, grouped by the questions that have them: which questions, which measures."""
    together: dict[bytes, tuple[np.ndarray, list[str]]] = {}
    for name, values in curve.values.items():
        has = np.isfinite(values).all(axis=1)
        together.setdefault(has.tobytes(), (has, []))[1].append(name)
    yield from together.values()


def rows_of_curve(
    table: Knockouts, flow: str, curve: Curve, stratum: str, measures: Collection[str], seed: int
) -> Iterator[dict[str, Any]]:
    """Give the rows of one curve for measures.csv, with the ends of the simultaneous band beside them.

    A flow without questions has rows with n = 0 and no numbers; a measure that no question has is left out. Each curve
    has its own seed, so that adding a flow, category, window or model changes no interval.
    """
    drawn = derived_seed(seed, table.model, table.category, flow, table.window)
    wanted = curve._replace(values={name: curve.values[name] for name in measures})
    for has, names in _chunks(wanted):
        n = int(has.sum())
        if not n and len(has):
            continue
        values = [curve.values[name][has] for name in names]
        # A band belongs to one curve: measures do not share it.
        estimates = [clustered_mean(each, curve.images[has], drawn) for each in values]
        for name, each, estimate in zip(names, values, estimates, strict=True):
            median = np.median(each, axis=0) if n else np.full(len(curve.centres), np.nan)
            for column, layer in enumerate(curve.centres):
                yield {
                    "model": table.model,
                    "category": table.category,
                    "flow": flow,
                    "window": table.window,
                    "layer": layer,
                    "n": n,
                    **estimate.row(column),
                    "median": median[column],
                    "measure": name,
                    "stratum": stratum,
                    "band_low": estimate.band_low[column],
                    "band_high": estimate.band_high[column],
                }


def summarise(table: Knockouts, strata: Mapping[str, Collection[str]], seed: int) -> Iterator[dict[str, Any]]:
    """Give all rows of a knockout table: every measure of every flow, and the changes of each stratum.

    Args:
        strata: Name -> its questions; a stratum with all knocked-out questions is not repeated.
    """
    stratified = [measure.name for measure in MEASURES if measure.stratified]
    apart = {name: ids for name, ids in strata.items() if not table.question_ids <= set(ids)}
    for flow, curve in table.curves.items():
        yield from rows_of_curve(table, flow, curve, ALL, [measure.name for measure in MEASURES], seed)
        for name, ids in apart.items():
            yield from rows_of_curve(table, flow, curve.among(ids), name, stratified, seed)


def tables(results: Results) -> dict[str, Iterable[Row]]:
    """Rows of effects.csv, measures.csv and bands.csv.

    Raises:
        CrossflowError: a table is absent or does not fit the others.
    """
    models = list(results.windows)
    # (model, category) -> question id -> whether it is answered correctly
    verdicts = {
        (model, category): results.answers(model, category).set_index("question_id")["correct"]
        for model in models
        for category in results.categories
    }
    correct = {key: set(verdict.index[verdict]) for key, verdict in verdicts.items()}
    rows: list[Row] = []
    for table in results.all_knockouts():
        right = correct[table.model, table.category]
        strata = {"correct": right, "wrong": set(verdicts[table.model, table.category].index) - right}
        if len(models) > 1:
            strata["shared"] = set.intersection(*(correct[model, table.category] for model in models))
        rows.extend(summarise(table, strata, results.seed))
    published = [row for row in rows if (row["measure"], row["stratum"]) == ("change_percent", ALL)]
    others = [row for row in rows if (row["measure"], row["stratum"]) != ("change_percent", ALL)]
    bands = (row | {"low": row["band_low"], "high": row["band_high"]} for row in published)
    return {"effects": published, "measures": others, "bands": bands}

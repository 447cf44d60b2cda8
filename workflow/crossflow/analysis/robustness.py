"""The same weights asked in another way: what another instruction, swapped options or one tile change.

A *variant* is a model of the study with the weights of an earlier one, its *base*. Accuracies and effects are compared
on the same questions: differences are taken per question and then averaged, and intervals resample images. An effect
is the mean over centre layers; whether it lies in the same layers is told by the correlation of the mean curves.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, Shaped

from crossflow.analysis.bootstrap import clustered_mean
from crossflow.analysis.curves import Knockouts
from crossflow.analysis.paired import on_common_ground
from crossflow.analysis.results import Results, Row
from crossflow.core.seeds import derived_seed

ACCURACY = "accuracy"


def variants(results: Results) -> dict[str, str]:
    """Model -> the first model of the study with the same weights; only models for which this is another one.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    first: dict[str, str] = {}
    found = {}
    for model in results.windows:
        base = first.setdefault(results.weights(model), model)
        if base != model:
            found[model] = base
    return found


def _compared(
    values: Float[np.ndarray, "questions 2"], images: Shaped[np.ndarray, " questions"], seed: int
) -> dict[str, float]:
    """The means of a base and of its variant, and their paired difference."""
    estimate = clustered_mean(np.column_stack([values, values[:, 1] - values[:, 0]]), images, seed)
    return {
        "base_value": estimate.mean[0],
        "value": estimate.mean[1],
        "difference": estimate.mean[2],
        "low": estimate.low[2],
        "high": estimate.high[2],
    }


def _accuracy(results: Results, base: str, model: str, category: str) -> Row:
    both = results.answers(base, category).merge(
        results.answers(model, category), on=["question_id", "image_id"], suffixes=("_base", "")
    )
    verdicts = both[["correct_base", "correct"]].to_numpy(dtype=float)
    seed = derived_seed(results.seed, model, base, category, ACCURACY)
    return {
        "window": "",
        "quantity": ACCURACY,
        "n": len(both),
        **_compared(verdicts, both["image_id"].to_numpy(dtype=object), seed),
        "correlation": None,
    }


def _flows(base: Knockouts, variant: Knockouts, seed: int) -> Iterator[Row]:
    for flow in (flow for flow in base.curves if flow in variant.curves and "~" not in flow):
        curves = on_common_ground([base.curves[flow], variant.curves[flow]])
        n = len(curves[0].question_ids)
        if not n:
            continue
        effects = np.column_stack([curve.change.mean(axis=1) for curve in curves])
        means = [curve.change.mean(axis=0) for curve in curves]
        vary = all(np.ptp(mean) > 0 for mean in means)
        drawn = derived_seed(seed, variant.model, base.model, base.category, flow, base.window)
        yield {
            "window": base.window,
            "quantity": flow,
            "n": n,
            **_compared(effects, curves[0].images, drawn),
            "correlation": float(np.corrcoef(*means)[0, 1]) if vary else None,
        }


def tables(results: Results) -> dict[str, Iterable[Row]]:
    """Rows of robustness.csv: of each variant and category, its accuracy and then its flows.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    rows: list[Row] = []
    for model, base in variants(results).items():
        for category in results.categories:
            found = [_accuracy(results, base, model, category)]
            for window in (each for each in results.windows[model] if each in results.windows[base]):
                asked = [results.knockouts(each, window, category) for each in (base, model)]
                found.extend(_flows(asked[0], asked[1], results.seed))
            rows.extend({"model": model, "base": base, "category": category, **row} for row in found)
    return {"robustness": rows}

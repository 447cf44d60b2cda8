"""Attention beside effect, over layers: attention.csv.

Where the clean run attends more, does a knockout of the same edges change more? For each question, the attention on a
flow's edges and the fall of the answer's probability by the knockout are ranked over the centre layers, and the two
rankings are correlated (`crossflow.core.ranks`). Changes within the table's noise floor are rounding: they count as 0.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Shaped

from crossflow.analysis.bootstrap import clustered_mean
from crossflow.analysis.results import Results, Row
from crossflow.core.errors import CrossflowError
from crossflow.core.flows import BOTTOM, TOP, silences, substitute_of
from crossflow.core.ranks import falls_of, rank_correlation
from crossflow.core.seeds import derived_seed


def correlation_row(
    attention: Float[np.ndarray, "questions places"],
    change: Float[np.ndarray, "questions places"],
    images: Shaped[np.ndarray, " questions"],
    noise: float,
    seed: int,
) -> Row:
    """The rank correlation of attention and fall, without its names.

    Args:
        attention: Share of the attention on the edges, at each layer or in each head.
        change: Change of the answer's probability by knocking them out there, in percent.
        images: Each question's image.
        noise: Largest change by rounding, in percent; NaN if it is unknown.
        seed: Seed of the resamples.
    """
    fall = falls_of(change, noise)
    found = rank_correlation(attention, fall)
    varies = np.isfinite(found)
    estimate = clustered_mean(found[varies, None], images[varies], seed)
    of_means = np.full(1, np.nan)
    if len(images):
        of_means = rank_correlation(attention.mean(axis=0, keepdims=True), fall.mean(axis=0, keepdims=True))
    counts = {"n": int(varies.sum()), "constant": int((~varies).sum())}
    return {**counts, **estimate.row(0), "of_means": float(of_means[0])}


def tables(results: Results) -> dict[str, Iterable[Row]]:
    """Rows of attention.csv: knockouts, not substitutions, in windows of some width.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    rows: list[Row] = []
    for table in results.all_knockouts():
        if table.window in (BOTTOM, TOP):
            continue
        model, category, window = table.model, table.category, table.window
        for flow, curve in table.curves.items():
            if substitute_of(flow) or silences(flow):
                continue
            attention = curve.values["attention"]
            if not np.isfinite(attention).all():
                raise CrossflowError(
                    f"Knockouts of {model}, window {window}, {category}: {flow} blocks edges whose attention is not "
                    "known: delete the table and run again."
                )
            seed = derived_seed(results.seed, model, category, flow, window, "attention")
            named = {"model": model, "category": category, "flow": flow, "window": window}
            rows.append(named | correlation_row(attention, curve.change, curve.images, table.noise[1], seed))
    return {"attention": rows}

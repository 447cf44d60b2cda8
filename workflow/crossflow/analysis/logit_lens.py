"""The logit lens of a study: lens.csv, the mean probability of each token after each layer."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from crossflow.analysis.bootstrap import clustered_mean
from crossflow.analysis.results import Results, Row
from crossflow.core.errors import CrossflowError
from crossflow.core.seeds import derived_seed


def lens_rows(table: pd.DataFrame, layers: int, *, model: str, category: str, seed: int) -> Iterator[Row]:
    """Give the rows of lens.csv: mean probability (0..1) of each token after each layer, with its 95 % interval.

    Args:
        table: The columns of ``LENS``.
        layers: Number of decoder layers.
        model, category, seed: Of the study.

    Raises:
        CrossflowError: a question lacks a layer.
    """
    states = layers + 1
    for token in dict.fromkeys(table["token"]):
        rows = table[table["token"] == token].sort_values(["question_id", "normed", "layer"], kind="stable")
        found = rows["layer"].to_numpy(dtype=int)
        if len(rows) % (2 * states) or (found != np.tile(np.arange(states), len(rows) // states)).any():
            raise CrossflowError(
                f"Logit lens of {model}, {category}: {token} lacks a layer: delete the table and run again."
            )
        values = rows["probability"].to_numpy(dtype=float).reshape(-1, 2 * states)
        images = rows["image_id"].to_numpy(dtype=object)[:: 2 * states]
        estimate = clustered_mean(values, images, derived_seed(seed, model, category, "lens", token))
        for column in range(2 * states):
            yield {
                "model": model,
                "category": category,
                "layer": column % states,
                "normed": column >= states,
                "token": token,
                "n": len(values),
                **estimate.row(column),
            }


def tables(results: Results) -> dict[str, Iterable[Row]]:
    """Rows of lens.csv.

    Raises:
        CrossflowError: a table is absent or lacks a layer.
    """
    rows: list[Row] = []
    for model in results.windows:
        for category in results.categories:
            table, layers = results.logit_lens(model, category)
            rows.extend(lens_rows(table, layers, model=model, category=category, seed=results.seed))
    return {"lens": rows}

"""Knockouts in single heads: heads.csv, the mean of every head, and top_heads.csv, the heads that matter most.

The best of a thousand heads looks better than it is. So one half of the images, drawn at random, chooses the heads, and
the other half measures them: their intervals owe nothing to the choice. Source: D. R. Cox, A note on data-splitting for
the evaluation of significance levels, Biometrika 62 (1975) 441-444.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from crossflow.analysis.bootstrap import clustered_mean
from crossflow.analysis.results import Results, Row
from crossflow.core.errors import CrossflowError
from crossflow.core.seeds import derived_seed

SHOWN = 10
"""How many heads are chosen."""


class HeadChanges(NamedTuple):
    """The effect of one flow in each head.

    Attributes:
        cells: Layer and head of each column.
        images: Each question's image.
        change: Change of the answer's probability, in percent; questions for which the flow is missing are left out.
        attention: Share of the targets' attention on the flow's edges in the clean run.
    """

    cells: list[tuple[int, int]]
    images: Shaped[np.ndarray, " questions"]
    change: Float[np.ndarray, "questions cells"]
    attention: Float[np.ndarray, "questions cells"]

    @classmethod
    def of(cls, rows: pd.DataFrame, where: str) -> "HeadChanges":
        """Arrange the rows of one flow.

        Raises:
            CrossflowError: a question lacks a head, or its knockouts have no finite change.
        """
        rows = rows.sort_values(["question_id", "layer", "head"], kind="stable")
        cells = sorted({(int(layer), int(head)) for layer, head in zip(rows["layer"], rows["head"], strict=True)})
        found = rows[["layer", "head"]].to_numpy(dtype=int)
        if len(rows) % len(cells) or (found != np.tile(cells, (len(rows) // len(cells), 1))).any():
            raise CrossflowError(f"{where}: a question does not have each head once: delete the table and run again.")
        present = rows["edges"].to_numpy(dtype=int)[:: len(cells)] > 0
        change, attention = (
            rows[name].to_numpy(dtype=float).reshape(-1, len(cells))[present]
            for name in ("change_percent", "attention")
        )
        if not (np.isfinite(change).all() and np.isfinite(attention).all()):
            raise CrossflowError(f"{where}: a knockout that blocks edges has no finite change, or no attention.")
        return cls(cells, rows["image_id"].to_numpy(dtype=object)[:: len(cells)][present], change, attention)

    def halves(self, seed: int) -> tuple["HeadChanges", "HeadChanges"]:
        """The questions of a random half of the images, and those of the others."""
        names = np.unique(self.images.astype(str))
        chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
        first = np.isin(self.images.astype(str), chosen)
        one, other = (
            HeadChanges(self.cells, self.images[part], self.change[part], self.attention[part])
            for part in (first, ~first)
        )
        return one, other


def head_rows(changes: HeadChanges, seed: int) -> Iterator[Row]:
    """The rows of heads.csv of one flow, without its names."""
    estimate = clustered_mean(changes.change, changes.images, seed)
    n = len(changes.images)
    attention = changes.attention.mean(axis=0) if n else np.full(len(changes.cells), np.nan)
    for column, (layer, head) in enumerate(changes.cells):
        yield {"layer": layer, "head": head, "n": n, **estimate.row(column), "attention": attention[column]}


def top_rows(changes: HeadChanges, seed: int) -> Iterator[Row]:
    """The rows of top_heads.csv of one flow, without its names; none with fewer than two images."""
    choosing, measuring = changes.halves(seed)
    if not len(choosing.images):
        return
    means = choosing.change.mean(axis=0)
    chosen = np.argsort(means, kind="stable")[:SHOWN]
    estimate = clustered_mean(measuring.change[:, chosen], measuring.images, seed)
    for place, column in enumerate(chosen.tolist()):
        layer, head = changes.cells[column]
        chosen_by, n = float(means[column]), len(measuring.images)
        yield {"rank": place + 1, "layer": layer, "head": head, "chosen_by": chosen_by, "n": n, **estimate.row(place)}


def tables(results: Results) -> dict[str, Iterable[Row]]:
    """Rows of heads.csv and top_heads.csv.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    rows: dict[str, list[Row]] = {"heads": [], "top_heads": []}
    for model in results.windows:
        for category in results.categories:
            table = results.heads(model, category).table
            for flow, found in table[table["subset"].isna()].groupby("flow", sort=False):
                changes = HeadChanges.of(found, f"Heads of {model}, {category}, {flow}")
                named = {"model": model, "category": category, "flow": flow}
                seed = derived_seed(results.seed, model, category, str(flow), "heads")
                rows["heads"].extend(named | row for row in head_rows(changes, seed))
                rows["top_heads"].extend(named | row for row in top_rows(changes, seed))
    return {**rows}

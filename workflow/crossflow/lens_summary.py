"""From the tables of tracked answers to their means, and from these to the panels of a figure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from crossflow.errors import CrossflowError
from crossflow.figures import Line, Panel
from crossflow.seeds import derived_seed
from crossflow.statistics import clustered_mean
from crossflow.summary import number


def lens_rows(
    table: pd.DataFrame, metadata: Mapping[str, Any], *, model: str, category: str, seed: int
) -> Iterator[dict[str, str]]:
    """Give the rows of lens.csv: mean probability (0..1) of each token after each layer, with its 95 % interval.

    Args:
        table: The columns of ``tables.LENS``.
        metadata: The table's ``layers``.
        model: Slug of the model.
        category: The questions' category.
        seed: The study's seed.

    Raises:
        CrossflowError: a question lacks a layer.
    """
    states = int(metadata["layers"]) + 1
    for token in dict.fromkeys(table["token"]):
        rows = table[table["token"] == token].sort_values(["question_id", "normed", "layer"], kind="stable")
        layers = rows["layer"].to_numpy(dtype=int)
        if len(rows) % (2 * states) or (layers != np.tile(np.arange(states), len(rows) // states)).any():
            raise CrossflowError(f"Tracked answers of {model}, {category}: {token} lacks a layer; delete the table.")
        values = rows["probability"].to_numpy(dtype=float).reshape(-1, 2 * states)
        pictures = rows["image_id"].to_numpy(dtype=object)[:: 2 * states]
        estimate = clustered_mean(values, pictures, derived_seed(seed, model, category, "lens", token))
        for column in range(2 * states):
            yield {
                "model": model,
                "category": category,
                "layer": str(column % states),
                "normed": str(column >= states).lower(),
                "token": token,
                "n": str(len(values)),
                "mean": number(estimate.mean[column]),
                "low": number(estimate.low[column]),
                "high": number(estimate.high[column]),
            }


def lens_panels(
    rows: Sequence[Mapping[str, str]], *, model: str, categories: Sequence[str], published: bool
) -> list[Panel]:
    """Pick a figure's panels out of lens.csv, in percent.

    Args:
        rows: lens.csv.
        model: Slug of the model.
        categories: One panel each, in this order.
        published: Without the final norm but after the last layer, as the published program does; otherwise with it.

    Raises:
        CrossflowError: there is no row of the model.
    """
    of_model = [row for row in rows if row["model"] == model]
    if not of_model:
        raise CrossflowError(f"lens.csv has no rows of {model}; make the summary again.")
    last = max(int(row["layer"]) for row in of_model)
    drawn: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in of_model:
        normed = not published or int(row["layer"]) == last
        if (row["normed"] == "true") == normed:
            drawn.setdefault((row["category"], row["token"]), []).append(row)
    # Tokens that some category has have a line in each panel, so that the legend holds for all.
    tokens = dict.fromkeys(token for _, token in drawn)
    panels = []
    for category in categories:
        lines = []
        for token in tokens:
            curve = sorted(drawn.get((category, token), []), key=lambda row: int(row["layer"]))
            mean, low, high = (
                np.array([100 * float(row[name] or "nan") for row in curve]) if curve else np.full(last + 1, np.nan)
                for name in ("mean", "low", "high")
            )
            lines.append(Line(token, int(curve[0]["n"]) if curve else 0, mean, low, high))
        panels.append(Panel(category, lines, max(line.n for line in lines), 0, 0))
    return panels

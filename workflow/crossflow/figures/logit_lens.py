"""Figures of the logit lens: how likely the answer's first token is after every layer, one panel per category."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from crossflow.core.errors import CrossflowError
from crossflow.figures.panels import Line, Panel, draw_panels
from crossflow.figures.request import FigureRequest

_PUBLISHED = "logit-lens-published"


def lens_panels(
    rows: Sequence[Mapping[str, Any]], *, model: str, categories: Sequence[str], published: bool
) -> list[Panel]:
    """Pick a figure's panels out of lens.csv, in percent.

    Args:
        rows: Rows of lens.csv.
        categories: One panel each, in this order.
        published: Without the final norm but after the last layer, as the published program does; otherwise with it.

    Raises:
        CrossflowError: there is no row of the model.
    """
    of_model = [row for row in rows if row["model"] == model]
    if not of_model:
        raise CrossflowError(f"lens.csv has no rows for {model}: make the summary again.")
    last = max(row["layer"] for row in of_model)
    drawn: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in of_model:
        if row["normed"] == (not published or row["layer"] == last):
            drawn.setdefault((row["category"], row["token"]), []).append(row)
    # Tokens that some category has have a line in each panel, so that the legend holds for all.
    tokens = dict.fromkeys(token for _, token in drawn)
    panels = []
    for category in categories:
        lines = []
        for token in tokens:
            curve = sorted(drawn.get((category, token), []), key=lambda row: int(row["layer"]))
            mean, low, high = (
                np.array([100 * row[name] for row in curve]) if curve else np.full(last + 1, np.nan)
                for name in ("mean", "low", "high")
            )
            lines.append(Line(token, curve[0]["n"] if curve else 0, mean, low, high))
        panels.append(Panel(category, lines, max(line.n for line in lines), 0, 0))
    return panels


def draw(figure: FigureRequest) -> Figure:
    """Draw the logit lens of one model.

    Raises:
        CrossflowError: the summary lacks what the figure shows.
    """
    published, model = figure.kind == _PUBLISHED, figure.models[0]
    panels = lens_panels(figure.rows("lens"), model=model, categories=figure.categories, published=published)
    norm = "final norm after the last layer only, as published" if published else "with the final norm"
    return draw_panels(panels, f"{model}, {norm}", across="layer", up="probability of\nthe first token (%)")

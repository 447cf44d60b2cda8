"""Figure of the lens over image and question: a row per category, a panel per word, a line per place."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from crossflow.core.errors import CrossflowError
from crossflow.figures.panels import draw_legend, handle_of, ticks
from crossflow.figures.request import FigureRequest
from crossflow.figures.style import LINE_HEIGHT, PAGE_WIDTH, look_of

_ROW_HEIGHT = 1.35
_TITLES = {"object": "object's name", "answer": "answer", "false_option": "false option"}
_LEAST = 1e-8
"""Where the axis of probabilities ends at the latest."""


def _panel(axes: Axes, lines: dict[str, list[dict[str, Any]]], layers: int) -> None:
    """Draw a line for each place that has a number."""
    for place, rows in lines.items():
        look = look_of(place)
        at = [row["layer"] for row in rows]
        low, mean, high = (np.array([row[name] for row in rows]).clip(_LEAST) for name in ("low", "mean", "high"))
        axes.fill_between(at, low, high, color=look.colour, alpha=0.18, linewidth=0, zorder=2)
        axes.plot(at, mean, **look.line, markersize=3, zorder=3)
    if lines:
        numbers = sorted({rows[0]["n"] for rows in lines.values()})
        n = f"{numbers[0]}–{numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
        axes.text(0.98, 0.04, f"n = {n}", transform=axes.transAxes, ha="right", va="bottom", fontsize=7, color="0.35")
    else:
        axes.text(0.5, 0.5, "no question has it", transform=axes.transAxes, ha="center", va="center")
    axes.set_yscale("log")
    axes.set_xlim(-0.02 * layers, layers - 1 + 0.02 * layers)
    axes.set_xticks(ticks(layers))
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_minor_locator(NullLocator())


def draw(figure: FigureRequest) -> Figure:
    """Draw the lens of one model.

    Raises:
        CrossflowError: the summary lacks the model.
    """
    model = figure.models[0]
    rows = [row for row in figure.rows("image_lens") if row["model"] == model]
    if not rows:
        raise CrossflowError(f"image_lens.csv has no rows for {model}: make the summary again.")
    shown = [row for row in rows if row["n"]]
    places = list(dict.fromkeys(row["place"] for row in rows))
    drawn = {row["token"] for row in shown}
    tokens = [token for token in _TITLES if token in drawn] or list(_TITLES)[:1]
    layers = 1 + max(row["layer"] for row in rows)
    down = len(figure.categories)
    page = Figure(figsize=(PAGE_WIDTH, down * _ROW_HEIGHT + 3 * LINE_HEIGHT + 0.4), layout="constrained")
    grid = page.subplots(down, len(tokens), sharex=True, sharey=True, squeeze=False)
    for category, line in zip(figure.categories, grid, strict=True):
        for token, axes in zip(tokens, line, strict=True):
            found: dict[str, list[dict[str, Any]]] = {}
            for row in shown:
                if (row["category"], row["token"]) == (category, token):
                    found.setdefault(row["place"], []).append(row)
            _panel(axes, found, layers)
        line[0].set_ylabel(f"{category}\nprobability")
    least = min((row["mean"] for row in shown), default=_LEAST)
    grid[0, 0].set_ylim(max(_LEAST, 10 ** math.floor(math.log10(max(least, _LEAST)))), 1)
    for token, axes in zip(tokens, grid[0], strict=True):
        axes.set_title(_TITLES[token], pad=3)
    for axes in grid[-1]:
        axes.set_xlabel("layer")
    heading = f"{model}, logit lens with the final norm, at tokens of the image and of the question"
    draw_legend(page, [handle_of(place, look_of(place)) for place in places], heading, spacing=1.6)
    return page

"""Figure of attention beside effect: a point per head, a panel per category and flow."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from crossflow.figures.heads import rows_of_heads
from crossflow.figures.panels import ticks
from crossflow.figures.request import FigureRequest
from crossflow.figures.style import PAGE_WIDTH, SETTINGS, arrow

_LEAST = 0.01
"""Percent: less attention is drawn here, since a logarithmic axis has no 0."""
_LINEAR = 0.1
"""Percent: the axis of changes is linear up to here, and logarithmic beyond."""
_COLOURS = "viridis"


def _correlation(row: dict[str, Any] | None) -> str:
    """What stands in a panel."""
    if row is None or not row["n"]:
        return "no rank correlation"
    interval = "" if np.isnan(row["low"]) else f" ({row['low']:+.2f} to {row['high']:+.2f})"
    return f"rank correlation {row['mean']:+.2f}{interval}, n = {row['n']}"


def _numbers(rows: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], dtype=float)


def draw(figure: FigureRequest) -> Figure:
    """Draw the heads of one model: mean attention across, mean change up, coloured by layer.

    Raises:
        CrossflowError: the summary lacks the model.
    """
    found = {(row["category"], row["flow"]): row for row in rows_of_heads(figure, "head_attention")}
    # heads.csv has substitutions too, which are no knockouts.
    flows = list(dict.fromkeys(flow for _, flow in found))
    rows = [row for row in rows_of_heads(figure, "heads") if row["flow"] in flows]
    layers = 1 + max(row["layer"] for row in rows)
    down, across = len(figure.categories), len(flows)
    page = Figure(figsize=(PAGE_WIDTH, down * 1.7 + 0.9), layout="constrained")
    grid = page.subplots(down, across, sharex="col", sharey=True, squeeze=False)
    norm = Normalize(0, layers - 1)
    for category, line in zip(figure.categories, grid, strict=True):
        for flow, axes in zip(flows, line, strict=True):
            points = [row for row in rows if (row["category"], row["flow"]) == (category, flow) and row["n"]]
            attention = np.maximum(100 * _numbers(points, "attention"), _LEAST)
            changes = _numbers(points, "mean")
            axes.axhline(0, color="0.7", linewidth=0.5, zorder=1)
            axes.scatter(attention, changes, c=_numbers(points, "layer"), cmap=_COLOURS, norm=norm, s=9, linewidths=0)
            axes.set_title(_correlation(found.get((category, flow))), pad=3, fontsize=SETTINGS["font.size"])
        line[0].set_ylabel(f"{category}\nmean change (%)")
    for flow, axes in zip(flows, grid[-1], strict=True):
        axes.set_xlabel(f"mean attention on {arrow(flow)} (%)")
        axes.set_xscale("log")
        decade = 10 ** np.floor(np.log10(axes.dataLim.x0)) if np.isfinite(axes.dataLim.x0) else _LEAST
        axes.set_xlim(decade / 1.2, 120)
        axes.xaxis.set_major_formatter(lambda value, _: f"≤ {value:g}" if value <= _LEAST else f"{value:g}")
    first = grid[0, 0]
    first.set_yscale("symlog", linthresh=_LINEAR)
    first.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}"))
    changes = _numbers([row for row in rows if row["n"]], "mean")
    first.set_ylim(1.5 * min(-1.0, *changes), 1.5 * max(_LINEAR, *changes))
    bar = page.colorbar(ScalarMappable(norm, _COLOURS), ax=grid, aspect=40, pad=0.02, ticks=ticks(layers))
    bar.set_label("layer")
    heading = f"{figure.models[0]}, attention beside the effect of each head alone"
    page.suptitle(heading, x=0.01, ha="left", fontsize=SETTINGS["axes.labelsize"])
    return page

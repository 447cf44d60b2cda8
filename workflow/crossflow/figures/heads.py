"""Figure of each head alone: the mean change by layer and head, a panel per category and flow."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from crossflow.core.errors import CrossflowError
from crossflow.figures.grids import DIVERGING
from crossflow.figures.panels import ticks
from crossflow.figures.request import FigureRequest
from crossflow.figures.style import PAGE_WIDTH, SETTINGS, SMALLEST_SPAN, arrow

MARKED = 1
"""Percent: a head is marked if the whole interval of its change lies below minus this."""
_MARK: dict[str, Any] = {
    "marker": "o",
    "markersize": 4.5,
    "markerfacecolor": "none",
    "markeredgecolor": "black",
    "markeredgewidth": 0.8,
    "path_effects": [withStroke(linewidth=2.2, foreground="white")],
}


def rows_of_heads(figure: FigureRequest, table: str) -> list[dict[str, Any]]:
    """The rows of one model in a summary table of heads.

    Raises:
        CrossflowError: there are none.
    """
    rows = [row for row in figure.rows(table) if row["model"] == figure.models[0]]
    if not rows:
        raise CrossflowError(f"{table}.csv has no rows for {figure.models[0]}: make the summary again.")
    return rows


def draw(figure: FigureRequest) -> Figure:
    """Draw each head alone; those of top_heads.csv that certainly fall by more than `MARKED` are marked.

    Raises:
        CrossflowError: the summary lacks the model.
    """
    marked = [row for row in figure.rows("top_heads") if row["model"] == figure.models[0] and row["high"] < -MARKED]
    return draw_heads(
        figure,
        rows_of_heads(figure, "heads"),
        marked,
        heading="each head alone",
        scale="mean change in answer probability (%), one head knocked out",
        mark=f"chosen by half of the images; falls by more than {MARKED} % in the other half",
    )


def draw_heads(
    figure: FigureRequest,
    rows: Sequence[dict[str, Any]],
    marked: Sequence[dict[str, Any]],
    *,
    heading: str,
    scale: str,
    mark: str,
) -> Figure:
    """A panel per category and flow.

    Args:
        figure: The figure.
        rows: A mean for each head.
        marked: The rows of marked heads.
        heading: Stands beside the model's name.
        scale: What the colours show.
        mark: What a mark says.
    """
    flows = list(dict.fromkeys(row["flow"] for row in rows))
    layers, heads = (1 + max(row[name] for row in rows) for name in ("layer", "head"))
    images = {(category, flow): np.full((heads, layers), np.nan) for category in figure.categories for flow in flows}
    for row in rows:
        images[row["category"], row["flow"]][row["head"], row["layer"]] = row["mean"]
    down, across = len(figure.categories), len(flows)
    page = Figure(figsize=(PAGE_WIDTH, down * 1.25 + 1.1), layout="constrained")
    grid = page.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    most = max([SMALLEST_SPAN, *(float(np.nanmax(np.abs(image), initial=0)) for image in images.values())])
    norm = Normalize(-most, most)
    for category, line in zip(figure.categories, grid, strict=True):
        for flow, axes in zip(flows, line, strict=True):
            axes.set_facecolor("0.85")
            axes.imshow(images[category, flow], cmap=DIVERGING, norm=norm, aspect="auto", interpolation="nearest")
            for row in marked:
                if (row["category"], row["flow"]) == (category, flow):
                    axes.plot(row["layer"], row["head"], **_MARK)
            axes.set_xticks(ticks(layers))
            axes.set_yticks(ticks(heads))
            axes.tick_params(length=0)
        line[0].set_ylabel(f"{category}\nhead")
    for flow, axes in zip(flows, grid[0], strict=True):
        axes.set_title(arrow(flow), pad=3)
    for axes in grid[-1]:
        axes.set_xlabel("layer")
    bar = page.colorbar(ScalarMappable(norm, DIVERGING), ax=grid, location="bottom", aspect=60, shrink=0.6)
    bar.set_label(f"{scale}; grey: missing")
    page.suptitle(f"{figure.models[0]}, {heading}", x=0.01, ha="left", fontsize=SETTINGS["axes.labelsize"])
    page.legend(
        [Line2D([], [], linestyle="none", **_MARK)],
        [mark],
        loc="outside upper right",
        frameon=False,
        fontsize=SETTINGS["axes.labelsize"],
    )
    return page

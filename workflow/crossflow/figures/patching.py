"""Figures of activation patching: the share of each position set by layer, as curves and as a map."""

from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from crossflow.core.errors import CrossflowError
from crossflow.core.patching import DIRECTIONS
from crossflow.figures.curves import Row
from crossflow.figures.grids import DIVERGING
from crossflow.figures.panels import Line, Panel, draw_panels, ticks
from crossflow.figures.request import FigureRequest
from crossflow.figures.style import PAGE_WIDTH, SETTINGS

BOTH = "both"
_SHOWN = 100  # percent: colours of the map end there


def _rows(figure: FigureRequest) -> Sequence[Row]:
    """The rows of one model in patching.csv, of the sets that some pair has; of all sets if no pair was patched.

    Raises:
        CrossflowError: there are none.
    """
    rows = [row for row in figure.rows("patching") if row["model"] == figure.models[0]]
    if not rows:
        raise CrossflowError(f"patching.csv has no rows for {figure.models[0]}: make the summary again.")
    there = {row["set"] for row in rows if row["n"]}
    return [row for row in rows if row["set"] in there] if there else rows


def _line(name: str, rows: Sequence[Row]) -> Line:
    share, low, high = (np.array([100 * row[column] for row in rows]) for column in ("share", "low", "high"))
    return Line(name, rows[0]["n"], share, low, high, centres=[row["layer"] for row in rows])


def _curves(figure: FigureRequest) -> Figure:
    rows = [row for row in _rows(figure) if row["direction"] == BOTH]
    panels = []
    for category in figure.categories:
        found: dict[str, list[Row]] = {}
        for row in rows:
            if row["category"] == category:
                found.setdefault(row["set"], []).append(row)
        lines = [_line(name, curve) for name, curve in found.items()]
        missing = [line.flow for line in lines if not line.n]
        remarks = [f"missing in all: {', '.join(missing)}"] if missing else []
        panels.append(Panel(category, lines, max(line.n for line in lines), 0, 0, remarks=remarks))
    return draw_panels(
        panels,
        f"{figure.models[0]}: residual stream patched at one position set, mean of both directions",
        across="layers passed before the patch",
        up="share of the\ndifference (%)",
    )


def _map(figure: FigureRequest) -> Figure:
    rows = _rows(figure)
    sets = list(dict.fromkeys(row["set"] for row in rows))
    layers = sorted({row["layer"] for row in rows})
    values = {
        (category, direction): np.full((len(sets), len(layers)), np.nan)
        for category in figure.categories
        for direction in DIRECTIONS
    }
    for row in rows:
        if (row["category"], row["direction"]) in values:
            image = values[row["category"], row["direction"]]
            image[sets.index(row["set"]), layers.index(row["layer"])] = 100 * row["share"]
    height = len(figure.categories) * (0.15 * len(sets) + 0.3) + 1.1
    page = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    grid = page.subplots(len(figure.categories), len(DIRECTIONS), sharex=True, sharey=True, squeeze=False)
    # Orange is a share of the difference, blue moves the margin away from the other image's.
    norm = Normalize(-_SHOWN, _SHOWN)
    for category, line in zip(figure.categories, grid, strict=True):
        for direction, axes in zip(DIRECTIONS, line, strict=True):
            axes.set_facecolor("0.85")
            axes.imshow(values[category, direction], cmap=DIVERGING, norm=norm, aspect="auto", interpolation="nearest")
            axes.set_yticks(range(len(sets)), [name.replace("_", " ") for name in sets])
            places = ticks(len(layers))
            axes.set_xticks(places, [str(layers[place]) for place in places])
            axes.tick_params(length=0)
        line[0].set_ylabel(category)
    for (direction, words), axes in zip(DIRECTIONS.items(), grid[0], strict=True):
        axes.set_title(f"{direction}: {words.replace(', ', chr(10))}", pad=3)
    for axes in grid[-1]:
        axes.set_xlabel("layers passed before the patch")
    bar = page.colorbar(ScalarMappable(norm, DIVERGING), ax=grid, location="bottom", aspect=60, shrink=0.6)
    bar.set_label("share of the difference between the two images (%); grey: missing")
    page.suptitle(
        f"{figure.models[0]}: residual stream patched at one position set",
        x=0.01, ha="left", fontsize=SETTINGS["axes.labelsize"],
    )  # fmt: skip
    return page


def draw(figure: FigureRequest) -> Figure:
    """Draw the patches of one model.

    Raises:
        CrossflowError: the summary lacks the model.
    """
    return _map(figure) if figure.kind == "patching-map" else _curves(figure)

"""Figures of the fusion depth: what a cut leaves of the image, one panel per category and flow.

Lines of the window ``top`` rise with the layers below the cut, the only ones in which the image is read; lines of
``bottom`` fall with the layers in which it is hidden. Thin lines mark 20, 50 and 80 % of what the image gives; a bar at
half is the 95 % interval of the depth at which half of it is read or lost.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from crossflow.core.errors import CrossflowError
from crossflow.figures.curves import Row
from crossflow.figures.panels import Line, Panel, draw_panels
from crossflow.figures.request import FigureRequest
from crossflow.figures.style import arrow, look_of

_MARKED = (20, 50, 80)
_HALF = "50 %"
_LOWEST, _HIGHEST = -50, 150  # percent

Group = tuple[str, str]
"""A category and a flow."""


def _groups(rows: Sequence[Row], model: str) -> dict[Group, dict[str, list[Row]]]:
    """Category and flow -> window and measure -> rows."""
    found: dict[Group, dict[str, list[Row]]] = {}
    for row in rows:
        if row["model"] == model:
            lines = found.setdefault((row["category"], row["flow"]), {})
            lines.setdefault(f"{row['window']}, {row['measure']}", []).append(row)
    return found


def _line(name: str, rows: Sequence[Row]) -> Line:
    share, low, high = (np.array([100 * row[column] for row in rows]) for column in ("share", "low", "high"))
    return Line(name, rows[0]["n"], share, low, high, centres=[row["layer"] for row in rows])


def _without_share(lines: Sequence[Line]) -> list[str]:
    bare = [line.flow.replace(" ", "\N{NO-BREAK SPACE}") for line in lines if line.n and np.isnan(line.mean).all()]
    if len(bare) == len(lines):
        return ["the image gives nothing measurable"]
    return [f"no measurable share: {'; '.join(bare)}"] if bare else []


def fusion_panels(rows: Sequence[Row], *, model: str, categories: Sequence[str]) -> dict[Group, Panel]:
    """Pick a figure's panels out of fusion.csv, in percent: by flow, then category.

    Raises:
        CrossflowError: there is no row of the model and a category.
    """
    groups = _groups(rows, model)
    flows = list(dict.fromkeys(flow for _, flow in groups))
    if not flows or any((category, flow) not in groups for flow in flows for category in categories):
        raise CrossflowError(f"fusion.csv lacks rows of {model}: make the summary again.")
    panels = {}
    for flow in flows:
        for category in categories:
            lines = [_line(name, found) for name, found in groups[category, flow].items()]
            remarks = ([arrow(flow)] if len(flows) > 1 else []) + _without_share(lines)
            panels[category, flow] = Panel(category, lines, max(line.n for line in lines), 0, 0, remarks=remarks)
    return panels


def draw(figure: FigureRequest) -> Figure:
    """Draw the fusion depth of one model.

    Raises:
        CrossflowError: the summary lacks what the figure shows.
    """
    model = figure.models[0]
    panels = fusion_panels(figure.rows("fusion"), model=model, categories=figure.categories)
    drawn = draw_panels(
        list(panels.values()),
        f"{model}; top: image read only below the cut; bottom: only above it",
        across="layers below the cut",
        up="share of what\nthe image gives (%)",
    )
    # A share of little varies without limit.
    low, high = drawn.axes[0].get_ylim()
    drawn.axes[0].set_ylim(max(low, _LOWEST), min(high, _HIGHEST))
    halves = _groups([row for row in figure.rows("fusion_depth") if row["point"] == _HALF], model)
    for axes, (group, panel) in zip(drawn.axes, panels.items(), strict=False):
        axes.set_yticks([0, *_MARKED, 100])
        for share in _MARKED if panel.selected else ():
            axes.axhline(share, color="0.7", linewidth=0.5, linestyle=(0, (2, 2)), zorder=1)
        for number, (name, (half,)) in enumerate(halves.get(group, {}).items()):
            # Bars of several lines lie side by side.
            height = 50 + 3 * (number - (len(halves[group]) - 1) / 2)
            axes.hlines(height, half["low"], half["high"], color=look_of(name).colour, linewidth=2, zorder=4)
    return drawn

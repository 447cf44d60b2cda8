"""Figures of many small panels: overview, heat map, substitutions, window sweep and comparison of models.

All are drawn from rows of effects.csv, one row of panels per category.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import SUBSTITUTES, blocking_of, substitute_of
from crossflow.figures.curves import Row, by_panel, cut_layers, line_of
from crossflow.figures.panels import Panel, draw_legend, draw_panel, handle_of, legend_handles, limits, ticks
from crossflow.figures.request import FigureRequest
from crossflow.figures.style import (
    FALLS_AND_RISES,
    PAGE_WIDTH,
    SETTINGS,
    SMALLEST_SPAN,
    Look,
    arrow,
    series_looks,
    window_in_words,
)

_UP = "change in answer probability (%)"
DIVERGING = LinearSegmentedColormap.from_list("falls", FALLS_AND_RISES)


def _page(rows: int, columns: int, height: float) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(PAGE_WIDTH, rows * height + 0.9), layout="constrained")
    return figure, figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)


def _own(flows: Sequence[str]) -> list[str]:
    return [flow for flow in flows if "~" not in flow]


def _group(flow: str) -> str:
    plain = "+" not in flow and not flow.startswith("only:")
    targets = {"last": "to the last position", "question": "to the question"}
    return targets.get(flow.partition("->")[2], "other flows") if plain else "other flows"


def overview(rows: Sequence[Row], bands: Sequence[Row], model: str, window: str, categories: Sequence[str]) -> Figure:
    """All flows on one page, with the bands of bands.csv: a row of panels per category, a column per target."""
    curves, outer = by_panel(rows, model, window), by_panel(bands, model, window)
    flows = _own(list(curves[categories[0]]))
    groups: dict[str, list[str]] = {}
    for flow in flows:
        groups.setdefault(_group(flow), []).append(flow)
    layers = 1 + max(row["layer"] for row in rows if (row["model"], row["window"]) == (model, window))
    cut = cut_layers(window, layers)
    figure, grid = _page(len(categories), len(groups), 1.15)
    for across, (category, line_axes) in enumerate(zip(categories, grid, strict=True)):
        panels = [
            Panel(
                category, [line_of(flow, curves[category], outer.get(category, {})) for flow in group], 1, 0, 0, cut=cut
            )
            for group in groups.values()
        ]
        for axes, panel, name in zip(line_axes, panels, groups, strict=True):
            draw_panel(axes, panel)
            axes.set_title(name if across == 0 else "", pad=3)
        line_axes[0].set_ylabel(category)
        low, high = limits(panels)
        before = line_axes[0].get_ylim() if across else (0.0, 0.0)
        grid[0, 0].set_ylim(min(before[0], low), max(before[1], high))
    figure.supxlabel("centre layer", fontsize=SETTINGS["axes.labelsize"])
    figure.supylabel(_UP, fontsize=SETTINGS["axes.labelsize"])
    everything = [Panel("", [line_of(flow, curves[categories[0]], {}) for flow in flows], 1, 0, 0, cut=cut)]
    draw_legend(figure, legend_handles(everything), f"{model}, {window_in_words(window)}", spacing=1.4)
    return figure


def heat_map(rows: Sequence[Row], model: str, window: str, categories: Sequence[str]) -> Figure:
    """Mean change by layer (across) and flow (down), controls included, one panel per category."""
    curves = by_panel(rows, model, window)
    flows = list(curves[categories[0]])
    layers = 1 + max(row["layer"] for found in curves.values() for each in found.values() for row in each)
    columns = min(3, len(categories))
    down = -(-len(categories) // columns)
    figure, grid = _page(down, columns, 0.135 * len(flows) + 0.35)
    values = {category: _image(curves[category], flows, layers) for category in categories}
    most = max([SMALLEST_SPAN, *(float(np.nanmax(np.abs(image), initial=0)) for image in values.values())])
    norm = Normalize(-most, most)
    for axes, category in zip(grid.flat, categories, strict=False):
        axes.set_facecolor("0.85")
        axes.imshow(values[category], cmap=DIVERGING, norm=norm, aspect="auto", interpolation="nearest")
        axes.set_title(category, pad=3)
        axes.set_yticks(range(len(flows)), [arrow(flow) for flow in flows])
        axes.set_xticks(ticks(layers))
        axes.tick_params(length=0)
    for axes in grid.flat[len(categories) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("centre layer")
    bar = figure.colorbar(ScalarMappable(norm, DIVERGING), ax=grid, location="bottom", aspect=60, shrink=0.6)
    bar.set_label("mean change in answer probability (%); grey: missing, or not knocked out")
    figure.suptitle(f"{model}, {window_in_words(window)}", x=0.01, ha="left", fontsize=SETTINGS["axes.labelsize"])
    return figure


def _image(curves: dict[str, list[Row]], flows: Sequence[str], layers: int) -> Float[np.ndarray, "flows layers"]:
    image = np.full((len(flows), layers), np.nan)
    for number, flow in enumerate(flows):
        for row in curves.get(flow, []):
            image[number, row["layer"]] = row["mean"]
    return image


def _shared(curves: dict[str, dict[str, dict[str, list[Row]]]], categories: Sequence[str], heading: str) -> list[str]:
    """The flows that all lines have in all categories, controls left out."""
    shared = set.intersection(*(set(found[category]) for found in curves.values() for category in categories))
    flows = _own([flow for flow in next(iter(curves.values()))[categories[0]] if flow in shared])
    if not flows:
        raise CrossflowError(f"{heading}: {', '.join(curves)} have no flow in common.")
    return flows


def _lines(
    curves: dict[str, dict[str, dict[str, list[Row]]]],
    categories: Sequence[str],
    heading: str,
    flows: Sequence[str],
    relative: bool = False,
) -> Figure:
    """A row of panels per category, a column per flow (at most six), a line per window, model or substitute.

    Args:
        curves: Name of the line -> category -> flow -> rows; each line is drawn with its interval.
        flows: The columns.
        relative: Layers as a share of the model's depth.
    """
    columns = min(len(flows), 6)
    flows = flows[:columns]
    looks = series_looks(list(curves))
    figure, grid = _page(len(categories), columns, 1.1)
    for category, line_axes in zip(categories, grid, strict=True):
        for flow, axes in zip(flows, line_axes, strict=True):
            for name, found in curves.items():
                if flow in found[category]:
                    _line(axes, found[category][flow], looks[name], relative)
            axes.axhline(0, color="0.55", linewidth=0.6, zorder=1)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
        line_axes[0].set_ylabel(category)
    figure.supylabel(_UP, fontsize=SETTINGS["axes.labelsize"])
    for flow, axes in zip(flows, grid[0], strict=True):
        axes.set_title(arrow(flow), pad=3)
    handles = [handle_of(name, look) for name, look in looks.items()]
    figure.supxlabel("centre layer, as a share of the model's depth" if relative else "centre layer", fontsize=7.5)
    draw_legend(figure, handles, heading, spacing=1.4)
    return figure


def _line(axes: Axes, rows: Sequence[Row], look: Look, relative: bool) -> None:
    if not rows[0]["n"]:
        return
    layers = np.array([row["layer"] for row in rows], dtype=float)
    if relative:
        layers /= max(1.0, layers[-1])
    mean, low, high = (np.array([row[name] for row in rows]) for name in ("mean", "low", "high"))
    axes.fill_between(layers, low, high, color=look.colour, alpha=0.15, linewidth=0)
    step = max(1, len(rows) // 6)
    axes.plot(layers, mean, **look.line, markevery=step)


def substitution(rows: Sequence[Row], model: str, window: str, categories: Sequence[str]) -> Figure:
    """Substitutions beside the knockouts of the same edges: a column per knockout."""
    found = by_panel(rows, model, window)
    own = {name: _own(list(flows)) for name, flows in found.items()}
    curves = {
        words: {
            category: {blocking_of(flow): found[category][flow] for flow in flows if substitute_of(flow) == substitute}
            for category, flows in own.items()
        }
        for substitute, words in [(None, "nothing (knockout)"), *SUBSTITUTES.items()]
    }
    drawn = {words: flows for words, flows in curves.items() if any(flows.values())}
    flows = list(dict.fromkeys(blocking_of(flow) for flow in own[categories[0]] if substitute_of(flow)))
    return _lines(drawn, categories, f"{model}, {window_in_words(window)}; the target reads instead", flows)


def window_sweep(rows: Sequence[Row], model: str, windows: Sequence[str], categories: Sequence[str]) -> Figure:
    """Every flow's curve for each window of one model."""
    curves = {window_in_words(window): by_panel(rows, model, window) for window in windows}
    return _lines(curves, categories, model, _shared(curves, categories, model))


def model_comparison(
    rows: Sequence[Row], models: Sequence[str], windows: Sequence[str], categories: Sequence[str]
) -> Figure:
    """Every flow's curve for each model, over the share of its depth."""
    curves = {
        f"{model}, {window_in_words(window)}": by_panel(rows, model, window)
        for model, window in zip(models, windows, strict=True)
    }
    return _lines(curves, categories, "models", _shared(curves, categories, "models"), relative=True)


def draw(figure: FigureRequest) -> Figure:
    """Draw one of the figures of this module.

    Raises:
        CrossflowError: the summary lacks what it shows.
    """
    effects, categories = figure.rows("effects"), figure.categories
    (model, *_), (window, *_) = figure.models, figure.windows
    match figure.kind:
        case "overview":
            return overview(effects, figure.rows("bands"), model, window, categories)
        case "heat-map":
            return heat_map(effects, model, window, categories)
        case "substitution":
            return substitution(effects, model, window, categories)
        case "window-sweep":
            return window_sweep(effects, model, figure.windows, categories)
        case "model-comparison":
            return model_comparison(effects, figure.models, figure.windows, categories)
        case _:
            raise ValueError(f"{figure.kind} is no figure of this module")

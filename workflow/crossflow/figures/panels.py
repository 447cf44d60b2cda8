"""Curves: one panel per category, all centre layers of a model.

A line is the mean change over questions, the band around it the 95 % interval of each layer, and the lighter band that
of the whole curve. A thin dotted line in the colour of a flow is its control, as many random sources. A grey background
marks centre layers whose window is truncated at the model's ends, and a note gives the noise floor: the largest change
by a no-op knockout.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from crossflow.figures.style import (
    COLUMN_WIDTH,
    CONTROLS,
    LINE_HEIGHT,
    NOTE_WIDTH,
    PAGE_WIDTH,
    PANEL_HEIGHT,
    SETTINGS,
    SMALLEST_SPAN,
    Look,
    arrow,
    look_of,
)

_CUT = "0.94"  # background grey where windows are truncated


class Line(NamedTuple):
    """One flow in one panel, in percent; NaN if there is no number.

    Attributes:
        n: Questions that count.
        band: Ends of the band of the whole curve; None without one.
        centres: Centre layers; None: all.
        controls: Means of the flow's controls at ``control_centres``, by their names.
    """

    flow: str
    n: int
    mean: Float[np.ndarray, " layers"]
    low: Float[np.ndarray, " layers"]
    high: Float[np.ndarray, " layers"]
    band: tuple[Float[np.ndarray, " layers"], Float[np.ndarray, " layers"]] | None = None
    centres: Sequence[int] | None = None
    controls: Mapping[str, tuple[Sequence[int], Float[np.ndarray, " some"]]] = {}

    @property
    def at(self) -> Sequence[int]:
        """Centre layers."""
        return range(len(self.mean)) if self.centres is None else self.centres


class Panel(NamedTuple):
    """One category.

    Attributes:
        selected: Questions that were knocked out.
        excluded: Questions that were answered but not selected.
        skipped: Broken questions.
        noise: Largest change by a no-op knockout, in percent; NaN without one.
        cut: Centre layers whose window is truncated.
        remarks: Further sentences of its note.
    """

    category: str
    lines: Sequence[Line]
    selected: int
    excluded: int
    skipped: int
    noise: float = math.nan
    cut: Sequence[int] = ()
    remarks: Sequence[str] = ()

    @property
    def title(self) -> str:
        numbers = {line.n for line in self.lines if line.n} or {0}
        n = f"{min(numbers)}–{max(numbers)}" if len(numbers) > 1 else f"{max(numbers)}"
        return f"{self.category} (n = {n})"

    @property
    def note(self) -> str:
        """A note on what the lines do not show; may be empty."""
        if not self.selected:
            left_out = f"\n({self.excluded} excluded, {self.skipped} skipped)" if self.excluded + self.skipped else ""
            return f"no question selected{left_out}"
        sentences = list(self.remarks)
        missing = [arrow(line.flow) for line in self.lines if not line.n and "->" in line.flow]
        if missing:
            sentences.append(f"missing in all: {', '.join(missing)}")
        if any(line.n and np.isnan(line.low).all() and not np.isnan(line.mean).all() for line in self.lines):
            sentences.append("only one image: no interval")
        return "\n".join(textwrap.fill(sentence, NOTE_WIDTH) for sentence in sentences)


def draw_panels(
    panels: Sequence[Panel],
    heading: str,
    across: str = "centre layer",
    up: str = "change in answer\nprobability (%)",
) -> Figure:
    """Draw one figure; call and save it within `style.own_settings`.

    Args:
        panels: One per category, all with the same flows and layers.
        heading: Printed above the panels: which model, which window.
        across, up: Labels of the axes.
    """
    columns = len(panels) if len(panels) < 3 else 2 if len(panels) == 4 else 3
    rows = math.ceil(len(panels) / columns)
    width = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
    handles = legend_handles(panels)
    legend_rows = math.ceil(len(handles) / legend_columns_for(handles, width))
    note_rows = max(panel.note.count("\n") + 1 if panel.selected and panel.note else 0 for panel in panels)
    height = rows * (PANEL_HEIGHT + LINE_HEIGHT * note_rows) + LINE_HEIGHT * (legend_rows + 1) + 0.4
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        draw_panel(axes, panel)
    grid[0, 0].set_ylim(*limits(panels))
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for column in range(columns):
        lowest = max(row for row in range(rows) if row * columns + column < len(panels))
        grid[lowest, column].tick_params(labelbottom=True)
    figure.supxlabel(across, fontsize=SETTINGS["axes.labelsize"])
    for axes in grid[:, 0]:
        axes.set_ylabel(up)
    draw_legend(figure, handles, heading, spacing=1.6)
    return figure


def draw_legend(figure: Figure, handles: Sequence[Line2D | Patch], heading: str, spacing: float) -> None:
    """Draw a legend under a heading, above all panels; ``spacing`` separates its columns, in font sizes."""
    figure.legend(
        handles=handles,
        title=heading,
        title_fontsize=SETTINGS["axes.labelsize"],
        alignment="left",
        loc="outside upper left",
        ncols=legend_columns_for(handles, figure.get_figwidth()),
        frameon=False,
        borderpad=0.1,
        handlelength=3.2,
        columnspacing=spacing,
    )


def legend_columns_for(handles: Sequence[Line2D | Patch], width: float) -> int:
    """How many entries of a legend fit side by side into so many inches."""
    # An entry takes about 0.055 inches a character, and 0.55 for its line.
    return max(1, int(width / (0.55 + 0.055 * max(len(str(handle.get_label())) for handle in handles))))


def handle_of(name: str, look: Look) -> Line2D:
    """The entry of a line in a legend."""
    return Line2D([], [], **look.line, label=name)


def legend_handles(panels: Sequence[Panel]) -> list[Line2D | Patch]:
    """One entry per flow, and one for everything else that the panels show."""
    lines = [line for panel in panels for line in panel.lines]
    handles: list[Line2D | Patch] = [
        handle_of(arrow(flow), look_of(flow)) for flow in dict.fromkeys(line.flow for line in lines)
    ]
    for control, (dash, words) in CONTROLS.items():
        if any(control in line.controls for line in lines):
            handles.append(Line2D([], [], color="0.35", linewidth=0.9, linestyle=dash, label=words))
    if any(panel.cut for panel in panels):
        handles.append(Patch(facecolor=_CUT, edgecolor="0.8", linewidth=0.4, label="window truncated at the ends"))
    return handles


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw the lines, bands and marks of one panel."""
    centres = [layer for line in panel.lines for layer in line.at]
    layers = 1 + max(centres)
    step = max(1, round(layers / 8))
    for layer in panel.cut:
        axes.axvspan(layer - 0.5, layer + 0.5, color=_CUT, linewidth=0, zorder=0)
    if math.isfinite(panel.noise):
        axes.axhspan(-panel.noise, panel.noise, color="0.8", linewidth=0, zorder=1)
    for index, line in enumerate(panel.lines):
        if not line.n:
            continue
        look = look_of(line.flow)
        if line.band is not None:
            axes.fill_between(line.at, *line.band, color=look.colour, alpha=0.10, linewidth=0, zorder=2)
        axes.fill_between(line.at, line.low, line.high, color=look.colour, alpha=0.20, linewidth=0, zorder=2)
        for control, (places, mean) in line.controls.items():
            axes.plot(places, mean, color=look.colour, linewidth=0.9, linestyle=CONTROLS[control][0], zorder=3)
        # Markers of different lines stand at different layers where there is room.
        first = (index * step) // len(panel.lines)
        markers = 1 if len(line.mean) < layers else (first, step)
        axes.plot(line.at, line.mean, **look.line, markevery=markers, zorder=3)
    title = [panel.title, panel.note] if panel.selected and panel.note else [panel.title]
    axes.set_title("\n".join(title), pad=3)
    if panel.selected:
        axes.axhline(0, color="0.55", linewidth=0.6, zorder=1)
        if math.isfinite(panel.noise):
            digit, _, power = f"{panel.noise:.0e}".partition("e")
            text = rf"noise floor ${digit} \cdot 10^{{{int(power)}}}$ %"
            axes.text(0.98, 0.03, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=7, color="0.35")
    else:
        axes.text(0.5, 0.5, panel.note, transform=axes.transAxes, ha="center", va="center")
    axes.set_xlim(-0.02 * layers, layers - 1 + 0.02 * layers)
    axes.set_xticks(ticks(layers))
    plain = ScalarFormatter(useOffset=False)
    plain.set_scientific(False)
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def ticks(layers: int) -> list[int]:
    """At most nine layers, the first and the last among them."""
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50, layers) if layers <= 8 * step)
    last = layers - 1
    return sorted({0, last} | {layer for layer in range(0, layers, step) if last - layer > step / 2})


def limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Limits of the shared axis: every line, every band, every control, and zero."""
    drawn: list[np.ndarray] = []
    for line in (line for panel in panels for line in panel.lines):
        drawn += [line.mean, line.low, line.high, *(line.band or ()), *(mean for _, mean in line.controls.values())]
    numbers = np.concatenate([np.zeros(1), *drawn])
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    lacking = max(0.0, SMALLEST_SPAN - (high - low)) / 2
    margin = 0.04 * max(high - low, SMALLEST_SPAN)
    return low - lacking - margin, high + lacking + margin

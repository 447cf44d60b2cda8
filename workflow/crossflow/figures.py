"""The study's figures, drawn from the summary tables: one panel per category, all centre layers of a model.

A line is the mean change over questions, its band the 95 % interval. Flows differ in colour (Okabe and Ito's
palette, safe for the colour-blind), in dash and in marker, so that a grey print keeps them apart. Nothing
depends on the user's matplotlib settings, and the same summary gives the same bytes.
"""

import logging
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from matplotlib.typing import RcKeyType

from crossflow.errors import CrossflowError
from crossflow.figure_kinds import kinds_of
from crossflow.tables import replacing

# fontTools reports every step of embedding a font.
logging.getLogger("fontTools").setLevel(logging.WARNING)

PAGE_WIDTH = 7.0  # inches: two columns of a paper
COLUMN_WIDTH = 3.4  # inches: one column
PANEL_HEIGHT = 1.55  # inches
LINE_HEIGHT = 0.15  # inches, of a line of text
DPI = 300
NOTE_WIDTH = 38  # characters that fit above a panel
# Percent: a figure never magnifies less than this to its full height, or rounding would look like an effect.
SMALLEST_SPAN = 2.0

SETTINGS: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.2,
    "pdf.fonttype": 42,
    "axes.unicode_minus": True,
}


class Look(NamedTuple):
    """How a flow is drawn."""

    colour: str
    dash: tuple[float, Sequence[float]]
    marker: str


_SOLID: tuple[float, Sequence[float]] = (0, ())
_DASHED: tuple[float, Sequence[float]] = (0, (5.0, 1.6))
_DOTTED: tuple[float, Sequence[float]] = (0, (1.2, 1.2))
_DASH_DOT: tuple[float, Sequence[float]] = (0, (5.0, 1.4, 1.2, 1.4))
# Flows of one figure share neither colour nor dash nor marker; the colours with the best contrast go first.
LOOKS = {
    "question->last": Look("#0072B2", _SOLID, "o"),
    "image->last": Look("#D55E00", _DASHED, "s"),
    "last->last": Look("#000000", _DOTTED, "^"),
    "image->question": Look("#009E73", _SOLID, "D"),
    "related->question": Look("#D55E00", _SOLID, "o"),
    "other->question": Look("#0072B2", _DASHED, "s"),
    # Tokens of the answer tracking.
    "answer": Look("#0072B2", _SOLID, "o"),
    "answer_capitalized": Look("#D55E00", _SOLID, "s"),
    "false_option": Look("#56B4E9", _DASHED, "^"),
    "false_option_capitalized": Look("#E69F00", _DOTTED, "D"),
}
# Seven colours, four dashes, six markers: 84 flows before a look returns.
FURTHER_LOOKS = tuple(
    islice(
        map(
            Look,
            cycle(("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")),
            cycle((_SOLID, _DASHED, _DOTTED, _DASH_DOT)),
            cycle(("o", "s", "^", "D", "v", "P")),
        ),
        84,
    )
)


class Line(NamedTuple):
    """One flow in one panel, in percent; NaN where there is no number.

    Attributes:
        n: Questions that count.
    """

    flow: str
    n: int
    mean: Float[np.ndarray, " layers"]
    low: Float[np.ndarray, " layers"]
    high: Float[np.ndarray, " layers"]


class Panel(NamedTuple):
    """One category.

    Attributes:
        selected: Questions that were knocked out.
        excluded: Questions that were answered but not selected.
        skipped: Broken questions.
    """

    category: str
    lines: Sequence[Line]
    selected: int
    excluded: int
    skipped: int

    @property
    def title(self) -> str:
        numbers = {line.n for line in self.lines if line.n} or {0}
        n = f"{min(numbers)}–{max(numbers)}" if len(numbers) > 1 else f"{max(numbers)}"
        return f"{self.category} (n = {n})"

    @property
    def note(self) -> str:
        """What the lines can not show; empty if there is nothing to say."""
        if not self.selected:
            left_out = f"\n({self.excluded} excluded, {self.skipped} skipped)" if self.excluded + self.skipped else ""
            return f"no question selected{left_out}"
        sentences = []
        missing = [arrow(line.flow) for line in self.lines if not line.n and "->" in line.flow]
        if missing:
            sentences.append(f"missing in all: {', '.join(missing)}")
        if any(line.n and np.isnan(line.low).all() for line in self.lines):
            sentences.append("a single picture: no interval")
        return "\n".join(textwrap.fill(sentence, NOTE_WIDTH) for sentence in sentences)


def arrow(flow: str) -> str:
    """Write a flow as it is printed, with spaces at which no line is broken."""
    return flow.replace("->", " → ").replace("_", " ").replace(" ", "\N{NO-BREAK SPACE}")


def panels_of(
    effects: Sequence[Mapping[str, str]],
    counts: Sequence[Mapping[str, str]],
    *,
    kind: str,
    model: str,
    window: str,
    categories: Sequence[str],
) -> list[Panel]:
    """Pick one figure's panels out of effects.csv and counts.csv, in the order of ``categories``.

    Raises:
        CrossflowError: the tables have no row of this model and window, lack a category or a layer, or hold
            no flow of this kind.
    """
    of_curve = [row for row in effects if (row["model"], row["window"]) == (model, window)]
    if not of_curve:
        raise CrossflowError(f"effects.csv has no rows of {model} with window {window}; make the summary again.")
    flows = kinds_of([row["flow"] for row in of_curve]).get(kind)
    if not flows:
        raise CrossflowError(f"effects.csv has no flow for the figure {kind!r} of {model}, window {window}.")
    layers = 1 + max(int(row["layer"]) for row in of_curve)
    by_line: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in of_curve:
        by_line.setdefault((row["category"], row["flow"]), []).append(row)
    counted = {
        (row["category"], row["flow"]): row for row in counts if (row["model"], row["window"]) == (model, window)
    }

    panels = []
    for category in categories:
        lines = []
        for flow in flows:
            rows = sorted(by_line.get((category, flow), []), key=lambda row: int(row["layer"]))
            if [int(row["layer"]) for row in rows] != list(range(layers)) or (category, flow) not in counted:
                raise CrossflowError(
                    f"The summary lacks {flow} of {model}, window {window}, {category}, or some of its "
                    f"{layers} layers; make it again."
                )
            numbers = (np.array([float(row[name] or "nan") for row in rows]) for name in ("mean", "low", "high"))
            lines.append(Line(flow, int(rows[0]["n"]), *numbers))
        count = counted[category, flows[0]]
        selected = int(count["missing"]) + int(count["n"])
        panels.append(Panel(category, lines, selected, int(count["excluded"]), int(count["skipped"])))
    return panels


def looks_of(flows: Sequence[str]) -> dict[str, Look]:
    """Flow -> its look: the study's own flows look the same in every figure, others by their order."""
    further = iter(cycle(FURTHER_LOOKS))
    return {flow: LOOKS.get(flow) or next(further) for flow in flows}


@contextmanager
def own_settings() -> Iterator[None]:
    """Draw with this module's settings only."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        with matplotlib.rc_context(SETTINGS):
            yield


def draw(
    panels: Sequence[Panel],
    heading: str,
    across: str = "centre layer",
    up: str = "change in answer\nprobability (%)",
) -> Figure:
    """Draw one figure; call and save it within `own_settings`.

    Args:
        panels: One per category, all with the same flows and layers.
        heading: Printed above the panels: which model, which window.
        across, up: Labels of the axes.
    """
    looks = looks_of([line.flow for line in panels[0].lines])
    columns = len(panels) if len(panels) < 3 else 2 if len(panels) == 4 else 3
    rows = math.ceil(len(panels) / columns)
    width = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
    # A legend entry takes about 0.055 inches a character, and 0.55 for its line.
    legend_columns = max(1, int(width / (0.55 + 0.055 * max(len(flow) for flow in looks))))
    legend_rows = math.ceil(len(looks) / legend_columns)
    note_rows = max(panel.note.count("\n") + 1 if panel.selected and panel.note else 0 for panel in panels)
    height = rows * (PANEL_HEIGHT + LINE_HEIGHT * note_rows) + LINE_HEIGHT * (legend_rows + 1) + 0.4
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel, looks)
    grid[0, 0].set_ylim(*_limits(panels))
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for column in range(columns):
        lowest = max(row for row in range(rows) if row * columns + column < len(panels))
        grid[lowest, column].tick_params(labelbottom=True)
    label_size = SETTINGS["axes.labelsize"]
    figure.supxlabel(across, fontsize=label_size)
    for axes in grid[:, 0]:
        axes.set_ylabel(up)
    figure.legend(
        handles=[
            Line2D([], [], color=look.colour, linestyle=look.dash, marker=look.marker, label=arrow(flow))
            for flow, look in looks.items()
        ],
        title=heading,
        title_fontsize=label_size,
        alignment="left",
        loc="outside upper left",
        ncols=legend_columns,
        frameon=False,
        borderpad=0.1,
        handlelength=3.2,
        columnspacing=1.6,
    )
    return figure


def _draw_panel(axes: Axes, panel: Panel, looks: Mapping[str, Look]) -> None:
    layers = len(panel.lines[0].mean)
    step = max(1, round(layers / 8))
    for index, line in enumerate(panel.lines):
        if not line.n:
            continue
        look = looks[line.flow]
        centres = np.arange(layers)
        axes.fill_between(centres, line.low, line.high, color=look.colour, alpha=0.18, linewidth=0, zorder=2)
        # Markers of different lines stand at different layers where there is room.
        first = (index * step) // len(panel.lines)
        axes.plot(
            centres,
            line.mean,
            color=look.colour,
            linestyle=look.dash,
            marker=look.marker,
            markevery=(first, step),
            zorder=3,
        )
    title = [panel.title, panel.note] if panel.selected and panel.note else [panel.title]
    axes.set_title("\n".join(title), pad=3)
    if panel.selected:
        axes.axhline(0, color="0.55", linewidth=0.6, zorder=1)
    else:
        axes.text(0.5, 0.5, panel.note, transform=axes.transAxes, ha="center", va="center")
    axes.set_xlim(-0.02 * layers, layers - 1 + 0.02 * layers)
    axes.set_xticks(_ticks(layers))
    plain = ScalarFormatter(useOffset=False)
    plain.set_scientific(False)
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def _ticks(layers: int) -> list[int]:
    """At most nine layers, the first and the last among them."""
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50, layers) if layers <= 8 * step)
    last = layers - 1
    return sorted({0, last} | {layer for layer in range(0, layers, step) if last - layer > step / 2})


def _limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Limits of the shared axis: every line, every band, and zero."""
    drawn = [values for panel in panels for line in panel.lines for values in (line.mean, line.low, line.high)]
    numbers = np.concatenate([np.zeros(1), *drawn])
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    lacking = max(0.0, SMALLEST_SPAN - (high - low)) / 2
    margin = 0.04 * max(high - low, SMALLEST_SPAN)
    return low - lacking - margin, high + lacking + margin


def save(figure: Figure, paths: Sequence[Path]) -> None:
    """Write a figure in the format of each path's suffix (.pdf, .png), without a date.

    Raises:
        CrossflowError: another suffix, or a file that can not be written.
    """
    for path in paths:
        kind = path.suffix.lower().lstrip(".")
        if kind not in {"pdf", "png"}:
            raise CrossflowError(f"{path}: figures are written as .pdf or .png.")
        metadata = {"CreationDate": None} if kind == "pdf" else {}
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=DPI, metadata=metadata)

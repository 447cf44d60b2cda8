"""The figures of a trace: the flows' curves beside the image, and maps of effect, attention and words by layer."""

import math
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from crossflow.core.records import Box
from crossflow.experiments.attention_map import Density
from crossflow.experiments.lens_map import LensMap
from crossflow.figures.flows import draw_flows, mean_curves
from crossflow.figures.style import BOX, PAGE_WIDTH, SMALLEST_SPAN, arrow

_MOST_PANELS = 16
_ATTENTION = "Greens"
_WORDS = "Oranges"
_WORD_PANELS = 4
_LETTERS, _LETTER = 8, 0.62  # letters of a word that fit into a cell, and the width of one in font sizes


def _show(axes, image: Image.Image, boxes: Sequence[Box], grey: bool = False) -> None:  # type: ignore[no-untyped-def]
    axes.imshow(np.asarray(image.convert("L") if grey else image), cmap="gray", vmin=0, vmax=255)
    for box in boxes:
        axes.add_patch(Rectangle((box.x, box.y), box.w, box.h, fill=False, edgecolor=BOX, linewidth=1.0))
    axes.set_axis_off()


def draw_curves(table: pd.DataFrame, image: Image.Image, boxes: Sequence[Box], title: str, heading: str) -> Figure:
    """The image with its boxes, and the flows' curves; call it within `style.own_settings`.

    Args:
        table: The question's knockouts, with the columns of a knockout table.
        image: Its image.
        boxes: Of its objects.
        title: Stands above the image.
        heading: Stands above the curves.
    """
    figure = Figure(figsize=(PAGE_WIDTH, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.9))
    _show(left, image, boxes)
    left.set_title(title, wrap=True, parse_math=False)
    curves = dict(mean_curves(table, names="flow", numbers="change_percent"))
    draw_flows(right, curves)
    numbers = np.concatenate([np.zeros(1), *(changes for _, changes in curves.values())])
    low, high = float(numbers.min()), float(numbers.max())
    lacking = max(0.0, SMALLEST_SPAN - (high - low)) / 2
    right.set_ylim(low - lacking - 0.05 * (high - low), high + lacking + 0.05 * (high - low))
    right.set_xlabel("centre layer")
    right.set_ylabel("change in answer\nprobability (%)")
    missing = [arrow(flow) for flow in table["flow"].unique() if flow not in curves]
    note = f"\nmissing: {', '.join(missing)}" if missing else ""
    right.set_title(heading + note)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, handlelength=3.2)
    return figure


def _shown(layers: int) -> list[int]:
    """At most `_MOST_PANELS` of so many layers, evenly spread."""
    places = np.linspace(0, layers - 1, min(layers, _MOST_PANELS)).round()
    return [int(place) for place in np.unique(places)]


def _panels(
    image: Image.Image, boxes: Sequence[Box], centres: Sequence[int], heading: str, across: int | None = None
) -> tuple[Figure, dict[int, Axes]]:
    """A page with the grey image once per layer shown, and the axes by their place among ``centres``.

    ``across`` is the number of images side by side; by default it follows from their number.
    """
    shown = _shown(len(centres))
    columns = across or min(len(shown), 8 if len(shown) > 8 and image.width <= image.height else 4)
    rows = math.ceil(len(shown) / columns)
    width = PAGE_WIDTH / columns
    figure = Figure(figsize=(PAGE_WIDTH, rows * (width * image.height / image.width + 0.2) + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    found = dict(zip(shown, grid.flat, strict=False))
    for place, axes in found.items():
        _show(axes, image, boxes, grey=True)
        axes.set_title(f"layer {centres[place]}", pad=2)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    figure.suptitle(heading, x=0.01, ha="left", fontsize=7.5)
    return figure, found


def _scale(figure: Figure, colours: ScalarMappable, label: str) -> None:
    bar = figure.colorbar(colours, ax=figure.axes, location="bottom", aspect=50, shrink=0.6, pad=0.02)
    bar.set_label(label)


def draw_map(
    changes: Float[np.ndarray, "centres rows columns"],
    centres: Sequence[int],
    image: Image.Image,
    boxes: Sequence[Box],
    heading: str,
) -> Figure:
    """The image once per centre layer (at most 16 of them), its cells coloured by the effect of hiding them.

    Args:
        changes: From `crossflow.experiments.trace.knock_out_cells`.
        centres: Its centre layers.
        image: The image.
        boxes: Of the question's objects.
        heading: Stands above.
    """
    figure, panels = _panels(image, boxes, centres, heading)
    most = max(SMALLEST_SPAN, float(np.nanmax(np.abs(changes)))) if np.isfinite(changes).any() else SMALLEST_SPAN
    norm = TwoSlopeNorm(0, -most, most)
    for place, axes in panels.items():
        axes.imshow(
            changes[place],
            extent=(-0.5, image.width - 0.5, image.height - 0.5, -0.5),
            cmap="RdBu",
            norm=norm,
            alpha=0.65,
            interpolation="nearest",
        )
    _scale(figure, ScalarMappable(norm, "RdBu"), "change in answer probability (%)")
    return figure


def draw_attention(
    densities: Sequence[Density],
    correlations: Float[np.ndarray, " centres"],
    centres: Sequence[int],
    image: Image.Image,
    boxes: Sequence[Box],
    heading: str,
) -> Figure:
    """The image once per centre layer, as in `draw_map`, coloured by the clean run's attention.

    Args:
        densities: From `crossflow.experiments.attention_map.AttentionMap.density`, for each centre layer.
        correlations: Of attention and effect over the cells of the map, for each centre layer.
        centres: The centre layers.
        image: The image.
        boxes: Of the question's objects.
        heading: Stands above.
    """
    figure, panels = _panels(image, boxes, centres, heading)
    # A few tokens draw most of the attention: the square root shows the others too.
    norm = PowerNorm(0.5, 0, max(float(np.nanmax(density.values)) for density in densities))
    for place, axes in panels.items():
        density = densities[place]
        axes.pcolormesh(
            density.x - 0.5, density.y - 0.5, density.values, cmap=_ATTENTION, norm=norm, alpha=0.65, zorder=0.5
        )
        axes.set_xlim(-0.5, image.width - 0.5)
        axes.set_ylim(image.height - 0.5, -0.5)
        if np.isfinite(correlations[place]):
            axes.set_title(f"layer {centres[place]}: {correlations[place]:+.2f}", pad=2)
    _scale(figure, ScalarMappable(norm, _ATTENTION), "attention that a hundredth of the image draws (%)")
    return figure


def _written(word: str, letters: Collection[int]) -> str:
    """A word that fits into a cell, of letters that the font has; spaces around it are left out."""
    text = "".join(letter if letter.isprintable() and ord(letter) in letters else "□" for letter in word.strip())
    return text if 0 < len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…" if text else "␣"


def draw_words(lens: LensMap, image: Image.Image, boxes: Sequence[Box], heading: str) -> Figure:
    """The image after a few layers, with the most likely word of each visual token, coloured by its probability.

    Of a tiled image, the tokens that show the whole of it.

    Args:
        lens: The lens.
        image: The image.
        boxes: Of the question's objects.
        heading: Stands above.
    """
    states = len(lens.reading.theirs)
    layers = np.unique(np.linspace(0, states - 1, min(states, _WORD_PANELS)).round().astype(int)).tolist()
    figure, panels = _panels(image, boxes, layers, heading, across=2)
    view = lens.places.views[0]
    x, y = lens.places.grid(view, lens.size)
    cells = list(zip(lens.places.row[view], lens.places.column[view], strict=True))
    norm = Normalize(0, 1)
    cell = 72 * PAGE_WIDTH / 2 / (len(x) - 1)  # points
    letters = get_font(findfont(FontProperties())).get_charmap()
    for place, axes in panels.items():
        values = np.full((len(y) - 1, len(x) - 1), np.nan)
        likeliest, theirs = (each[layers[place], view, 0] for each in (lens.reading.likeliest, lens.reading.theirs))
        for (row, column), token, probability in zip(cells, likeliest.tolist(), theirs, strict=True):
            values[row, column] = probability
            axes.text(
                (x[column] + x[column + 1] - 1) / 2,
                (y[row] + y[row + 1] - 1) / 2,
                _written(lens.words.of(token), letters),
                ha="center",
                va="center",
                fontsize=min(6.0, cell / (_LETTERS * _LETTER)),
                parse_math=False,
                path_effects=[withStroke(linewidth=0.8, foreground="white")],
            )
        axes.pcolormesh(x - 0.5, y - 0.5, values, cmap=_WORDS, norm=norm, alpha=0.5, zorder=0.5)
        axes.set_xlim(-0.5, image.width - 0.5)
        axes.set_ylim(image.height - 0.5, -0.5)
    _scale(figure, ScalarMappable(norm, _WORDS), "probability of the most likely word")
    return figure

"""The two figures of a trace: the flows' curves beside the image, and the map, a small image per layer."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from crossflow.core.records import Box
from crossflow.experiments.trace import Trace
from crossflow.figures.style import BOX, PAGE_WIDTH, SMALLEST_SPAN, arrow, look_of

_MOST_PANELS = 16


def _show(axes, image: Image.Image, boxes: Sequence[Box], grey: bool = False) -> None:  # type: ignore[no-untyped-def]
    axes.imshow(np.asarray(image.convert("L") if grey else image), cmap="gray", vmin=0, vmax=255)
    for box in boxes:
        axes.add_patch(Rectangle((box.x, box.y), box.w, box.h, fill=False, edgecolor=BOX, linewidth=1.0))
    axes.set_axis_off()


def draw_curves(found: Trace, image: Image.Image, boxes: Sequence[Box], question: str, heading: str) -> Figure:
    """The image with its boxes, question and answer, and the flows' curves; see `style.own_settings`."""
    figure = Figure(figsize=(PAGE_WIDTH, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.9))
    _show(left, image, boxes)
    said = found.answer.text or "(nothing)"
    left.set_title(f"{question}\n{said} (p = {found.p_clean:.3f})", wrap=True, parse_math=False)
    for name, curve in found.curves.items():
        look = look_of(name)
        right.plot(curve, color=look.colour, linestyle=look.dash, marker=look.marker, label=arrow(name))
    numbers = np.concatenate([np.zeros(1), *found.curves.values()])
    low, high = float(numbers.min()), float(numbers.max())
    lacking = max(0.0, SMALLEST_SPAN - (high - low)) / 2
    right.set_ylim(low - lacking - 0.05 * (high - low), high + lacking + 0.05 * (high - low))
    right.axhline(0, color="0.55", linewidth=0.6)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_xlabel("centre layer")
    right.set_ylabel("change in answer\nprobability (%)")
    note = f"\nmissing: {', '.join(map(arrow, found.missing))}" if found.missing else ""
    right.set_title(heading + note)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, handlelength=3.2)
    return figure


def draw_map(found: Trace, image: Image.Image, boxes: Sequence[Box], heading: str) -> Figure:
    """The image once per centre layer (at most 16 of them), its cells coloured by the effect of hiding them."""
    layers = len(found.map)
    shown = np.unique(np.linspace(0, layers - 1, min(layers, _MOST_PANELS)).round().astype(int)).tolist()
    columns = min(len(shown), 8 if len(shown) > 8 and image.width <= image.height else 4)
    rows = math.ceil(len(shown) / columns)
    width = PAGE_WIDTH / columns
    figure = Figure(figsize=(PAGE_WIDTH, rows * (width * image.height / image.width + 0.2) + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    most = max(SMALLEST_SPAN, float(np.nanmax(np.abs(found.map)))) if np.isfinite(found.map).any() else SMALLEST_SPAN
    norm = TwoSlopeNorm(0, -most, most)
    for axes, layer in zip(grid.flat, shown, strict=False):
        _show(axes, image, boxes, grey=True)
        axes.imshow(
            found.map[layer],
            extent=(-0.5, image.width - 0.5, image.height - 0.5, -0.5),
            cmap="RdBu",
            norm=norm,
            alpha=0.65,
            interpolation="nearest",
        )
        axes.set_title(f"layer {layer}", pad=2)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    bar = figure.colorbar(ScalarMappable(norm, "RdBu"), ax=grid, location="bottom", aspect=50, shrink=0.6, pad=0.02)
    bar.set_label("change in answer probability (%)")
    figure.suptitle(heading, x=0.01, ha="left", fontsize=7.5)
    return figure

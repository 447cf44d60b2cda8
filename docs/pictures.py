"""Draw the two images of README.md: `make pictures`.

``docs/images/idea.png`` shows what a knockout is, ``docs/images/result.png`` what the study `mini` finds, from the
expected tables that are kept in the repository. Both are drawn for a page 830 pixels wide, with text that can still be
read where a phone shows them at 360.
"""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image

from crossflow.analysis.tables import COLUMNS
from crossflow.core.flows import RANDOM, window_at
from crossflow.core.tables import read_csv
from crossflow.figures.curves import by_panel, line_of
from crossflow.figures.panels import Panel, draw_panel, handle_of, limits
from crossflow.figures.style import BOX, CONTROLS, arrow, look_of, own_settings

REPO = Path(__file__).resolve().parent.parent
IMAGES = REPO / "docs/images"
EXPECTED = REPO / "resources/expected/mini"
SCENE = REPO / "resources/example/pictures/scene2.jpg"
QUESTION, ANSWER, OBJECT = "Does the heart look\nblue or red?", "Red", (19, 62, 26, 24)
PATCHES = 6  # along a side, as mini-llava cuts it
MODEL, WINDOW, LAYERS, CENTRE = "mini-llava", 3, 8, 3
CATEGORIES = {"ChooseAttr": "which colour?", "ChooseRel": "left or right?"}
COLUMNS_SHOWN = {
    "question reads image": ("image->question", "related->question"),
    "last position reads": ("question->last", "image->last"),
}
# At 166 pixels an inch, five inches are the page.
WIDTH, IDEA_HEIGHT, RESULT_HEIGHT, PIXELS_PER_INCH = 5.0, 4.1, 4.4, 332
SIZES: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 9.0,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.0,
    "axes.linewidth": 0.8,
}
GREY, RED = "0.35", "#C00000"


def _save(figure: Figure, name: str) -> None:
    """Write a PNG with few colours, which keeps it small."""
    FigureCanvasAgg(figure)
    path = IMAGES / name
    figure.savefig(path, dpi=PIXELS_PER_INCH, metadata={"Software": None})
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            path, optimize=True
        )


def result() -> Figure:
    """Two categories of `mini`: what hiding the image from the question does, and both from the last position."""
    rows = read_csv(EXPECTED / "effects.csv", COLUMNS["effects"])
    curves = by_panel(rows, MODEL, str(WINDOW))
    figure = Figure(figsize=(WIDTH, RESULT_HEIGHT), layout="constrained")
    grid = figure.subplots(len(CATEGORIES), len(COLUMNS_SHOWN), sharex=True, sharey=True)
    panels = []
    for axes_of_row, (category, words) in zip(grid, CATEGORIES.items(), strict=True):
        for axes, flows in zip(axes_of_row, COLUMNS_SHOWN.values(), strict=True):
            panel = Panel(category, [line_of(flow, curves[category], {}) for flow in flows], 1, 0, 0)
            panels.append(panel)
            draw_panel(axes, panel)
            axes.set_title("")
        axes_of_row[0].set_ylabel(f"“{words}”\nchange (%)")
    low, high = limits(panels)
    grid[0, 0].set_ylim(low, high)
    for axes, (title, flows) in zip(grid[0], COLUMNS_SHOWN.items(), strict=True):
        handles = [handle_of(arrow(flow), look_of(flow)) for flow in flows]
        handles.append(Line2D([], [], color=GREY, linewidth=0.9, linestyle=CONTROLS[RANDOM][0], label="random sources"))
        axes.legend(
            handles=handles, title=title, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, handlelength=2.6
        )
    for axes in grid[-1]:
        axes.set_xlabel("centre layer")
    return figure


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, **how: Any) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=colour, shrinkA=4, shrinkB=4, **how)
    )


def idea() -> Figure:
    """A prompt's position sets, the layers above them, and one flow blocked in a window of layers."""
    figure = Figure(figsize=(WIDTH, IDEA_HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    bottom, step = 1.5, 0.28
    places = {"system": 0.45, "image": 1.4, "question": 2.75, "last": 4.1}
    colours = {"system": "0.6", "image": "#009E73", "question": "#0072B2", "last": "#000000"}
    window = window_at(CENTRE, WINDOW, LAYERS)
    low, high = bottom + window.first * step, bottom + (window.last + 1) * step
    axes.add_patch(Rectangle((0.05, low), WIDTH - 0.1, high - low, color="#FBE3D6", zorder=0))
    aside = places["last"] + 0.12
    axes.text(aside, (low + high) / 2, f"window:\n{WINDOW} layers", va="center", color=RED)
    axes.text(aside, bottom + step / 2, "layer 0", va="center", color=GREY)
    axes.text(aside, bottom + (LAYERS - 0.5) * step, f"layer {LAYERS - 1}", va="center", color=GREY)
    for layer in range(LAYERS + 1):
        height = bottom + layer * step
        for name, place in places.items():
            axes.plot(place, height, "o", color=colours[name], markersize=5, zorder=4)
        if layer == LAYERS:
            continue
        for place in places.values():
            axes.plot([place, place], [height, height + step], color="0.8", linewidth=1, zorder=1)
        end = height + step
        if layer in window:
            _arrow(
                axes, (places["image"], height), (places["question"], end), RED, linestyle=(0, (3, 2)), linewidth=1.3
            )
            middle = (places["image"] + places["question"]) / 2
            axes.plot(middle, height + step / 2, "x", color=RED, markersize=8, markeredgewidth=2.2, zorder=5)
        else:
            _arrow(axes, (places["image"], height), (places["question"], end), colours["image"], linewidth=1.3)
        _arrow(axes, (places["question"], height), (places["last"], end), colours["question"], linewidth=1.3)
    top = bottom + LAYERS * step
    axes.text(places["last"], top + 0.13, f"p(“{ANSWER}”)", ha="center", va="bottom", weight="bold")
    axes.text(0.1, top + 0.13, "knockout of image → question", ha="left", va="bottom", color=RED)
    # The prompt.
    side = 0.9
    with Image.open(SCENE) as scene:
        left = places["image"] - side / 2
        axes.imshow(scene, extent=(left, left + side, 0.42, 0.42 + side), zorder=2)
        pixel = side / scene.width
    for cut in range(1, PATCHES):
        axes.plot([left, left + side], [0.42 + cut * side / PATCHES] * 2, color="white", linewidth=0.8, zorder=3)
        axes.plot([left + cut * side / PATCHES] * 2, [0.42, 0.42 + side], color="white", linewidth=0.8, zorder=3)
    x, y, w, h = (value * pixel for value in OBJECT)
    axes.add_patch(Rectangle((left + x, 0.42 + side - y - h), w, h, fill=False, edgecolor=BOX, linewidth=2, zorder=4))
    for name, text, width in (("system", "USER:", 0.72), ("question", QUESTION, 1.52), ("last", "ASSIS-\nTANT:", 0.78)):
        corner = (places[name] - width / 2, 0.62)
        axes.add_patch(
            FancyBboxPatch(
                corner,
                width,
                0.5,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor="white",
                edgecolor=colours[name],
            )
        )
        axes.text(places[name], 0.87, text, ha="center", va="center", linespacing=1.1)
    for name, place in places.items():
        axes.text(
            place, 0.2, name, ha="center", va="center", color=colours[name] if name != "system" else GREY, weight="bold"
        )
    axes.set_aspect("equal")
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, IDEA_HEIGHT)
    return figure


def main() -> None:
    """Draw both."""
    IMAGES.mkdir(exist_ok=True)
    with own_settings(), matplotlib.rc_context(SIZES):
        _save(idea(), "idea.png")
        _save(result(), "result.png")


if __name__ == "__main__":
    main()

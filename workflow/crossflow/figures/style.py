"""What all figures share: sizes, fonts, how a flow looks, and how a figure is written.

Flows differ in colour (Okabe and Ito's palette, safe for the colour-blind), in dash and in marker, so that a grey print
keeps them apart. Nothing depends on the user's matplotlib settings, and the same numbers give the same bytes.
"""

import logging
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.flows import MEAN, MOVED, RANDOM, SET_NAMES, SWAPPED, blocking_of, sets_of, substitute_of

# fontTools reports every step of embedding a font.
logging.getLogger("fontTools").setLevel(logging.WARNING)

PAGE_WIDTH = 7.0  # inches: two columns of a paper
COLUMN_WIDTH = 3.4  # inches: one column
PANEL_HEIGHT = 1.55  # inches
LINE_HEIGHT = 0.15  # inches, of a line of text
DPI = 300
NOTE_WIDTH = 38  # characters that fit above a panel
# Percent: smaller changes never fill a figure's height, or rounding would look like an effect.
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

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of a line in matplotlib."""
        return {"color": self.colour, "linestyle": self.dash, "marker": self.marker}


_BLUE, _VERMILLION, _GREEN, _BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
_PURPLE, _ORANGE, _SKY = "#CC79A7", "#E69F00", "#56B4E9"
_COLOURS = (_BLUE, _VERMILLION, _GREEN, _BLACK, _PURPLE, _ORANGE, _SKY)
_SOLID: tuple[float, Sequence[float]] = (0, ())
_DASHED: tuple[float, Sequence[float]] = (0, (5.0, 1.6))
_DOTTED: tuple[float, Sequence[float]] = (0, (1.2, 1.2))
_DASH_DOT: tuple[float, Sequence[float]] = (0, (5.0, 1.4, 1.2, 1.4))
_LONG: tuple[float, Sequence[float]] = (0, (9.0, 2.0))
_DASHES = (_SOLID, _DASHED, _DASH_DOT, _LONG)  # dots alone are for controls
LOOKS = {
    "question->last": Look(_BLUE, _SOLID, "o"),
    "image->last": Look(_SKY, _DASHED, "s"),
    "last->last": Look(_BLACK, _DASH_DOT, "^"),
    "image->question": Look(_GREEN, _SOLID, "D"),
    "related->question": Look(_VERMILLION, _SOLID, "v"),
    "other->question": Look(_ORANGE, _DASHED, "P"),
    "image->instruction": Look(_PURPLE, _SOLID, "s"),
    "instruction->last": Look(_PURPLE, _DASH_DOT, "v"),
    "system->last": Look(_ORANGE, _SOLID, "P"),
    "image->all": Look(_BLACK, _DASHED, "D"),
    "only:image->question": Look(_GREEN, _DASH_DOT, "^"),
    "only:image->question->last": Look(_BLUE, _DASH_DOT, "o"),
    # Tokens of the logit lens.
    "answer": Look(_BLUE, _SOLID, "o"),
    "answer_capitalized": Look(_VERMILLION, _SOLID, "s"),
    "false_option": Look(_SKY, _DASHED, "^"),
    "false_option_capitalized": Look(_ORANGE, _DOTTED, "D"),
    # Position sets, and what the lens over the image reads beside them.
    "image": Look(_GREEN, _SOLID, "D"),
    "related": Look(_VERMILLION, _SOLID, "v"),
    "other": Look(_ORANGE, _DASHED, "P"),
    "separator": Look(_SKY, _DASH_DOT, "^"),
    "question": Look(_BLUE, _SOLID, "o"),
    "instruction": Look(_PURPLE, _DASH_DOT, "s"),
    "last": Look(_BLACK, _DASHED, "X"),
    "random": Look(_BLACK, _DASH_DOT, "s"),
    # What a cut leaves of the image: window and measure.
    "top, probability": Look(_BLUE, _SOLID, "o"),
    "top, accuracy": Look(_SKY, _DASHED, "s"),
    "bottom, probability": Look(_VERMILLION, _SOLID, "v"),
    "bottom, accuracy": Look(_ORANGE, _DASHED, "P"),
}
"""Flow, token of a lens, place, or window and measure of a cut -> its look in every figure."""

BOX = "#009EFF"
"""Outline of an object's box, on every image."""
FALLS_AND_RISES = ["#08306b", "#2f7fbc", "#ffffff", "#fdae61", "#d9730b"]
"""Colours of maps, from the largest fall to the largest rise. In a grey print, falls are dark, no change is white and
rises are medium: the sign can be read without colour."""
SET_COLOURS = {"related": _VERMILLION, "padding": "#282828", "newline": "#BEBEBE"}
"""Position set -> its shade over an image."""

# Markers that no look of the table has, so that a flow outside the table never resembles one in it.
_FURTHER_MARKERS = ("X", "*", "p", "h", "<", ">")


# How a control is drawn in its flow's colour, and its name in the legend.
CONTROLS: dict[str, tuple[tuple[float, Sequence[float]], str]] = {
    RANDOM: ((0, (1, 1)), "the same, random sources"),
    MOVED: ((0, (4, 1, 1, 1, 1, 1)), "the same, boxes moved"),
}


SUBSTITUTIONS: dict[str, tuple[float, Sequence[float]]] = {SWAPPED: (0, (7, 1.5)), MEAN: (0, (3, 1.5, 1, 1.5, 1, 1.5))}
"""How a substitution is drawn in the colour of the knockout of its edges."""


def look_of(name: str) -> Look:
    """The look of a flow or token, which depends on its name alone.

    A control has the colour and marker of its flow, and its own dash (`CONTROLS`); a substitution likewise those of its
    knockout (`SUBSTITUTIONS`). An intersection has the colour and marker of its first set, and a dash of its own. For
    other flows outside the table, the source gives colour and marker, and the target gives the dash.
    """
    if control := re.search(rf"~({'|'.join(CONTROLS)})\d*(?=->)", name):
        return look_of(name.replace(control[0], ""))._replace(dash=CONTROLS[control[1]][0])
    if name in LOOKS:
        return LOOKS[name]
    if substitute := substitute_of(name):
        return look_of(blocking_of(name))._replace(dash=SUBSTITUTIONS[substitute])
    source, _, target = name.partition("->")
    first, *others = sets_of(source)
    if others and {first, *others} <= set(SET_NAMES):
        dash = sum(map(SET_NAMES.index, others))
        return look_of(f"{first}->{target}")._replace(dash=_DASHES[dash % len(_DASHES)])
    if source in SET_NAMES and target in SET_NAMES:
        number, dash = SET_NAMES.index(source), SET_NAMES.index(target)
    else:  # a sum of flows, or a path
        number, dash = zlib.crc32(name.encode()), zlib.crc32(target.encode())
    return Look(
        _COLOURS[number % len(_COLOURS)],
        _DASHES[dash % len(_DASHES)],
        _FURTHER_MARKERS[number % len(_FURTHER_MARKERS)],
    )


def series_looks(names: Sequence[str]) -> dict[str, Look]:
    """Windows or models of one figure -> looks, in order."""
    looks = map(Look, cycle(_COLOURS), cycle(_DASHES), cycle(("o", "s", "^", "D", "v", "P")))
    return dict(zip(names, looks, strict=False))


def arrow(flow: str) -> str:
    """Write a flow as it is printed, with spaces at which no line is broken."""
    flow = re.sub(r"(\w+)=(\w+)", r"\2 \1", flow)  # swapped image → question
    flow = re.sub(r"(\b(?:attn|mlp)):", r"\1 at ", flow)  # attn at question
    return flow.replace("->", " → ").replace("&", " ∩ ").replace("_", " ").replace(" ", "\N{NO-BREAK SPACE}")


def short(value: float) -> float | None:
    """A number with four significant digits, as pages hold it; None for NaN."""
    return None if math.isnan(value) else float(f"{value:.4g}")


def window_in_words(window: str) -> str:
    """What stands above a figure."""
    ends = {"bottom": "windows from the first layer to this one", "top": "windows from this layer to the last"}
    return ends.get(window, f"window {window}")


@contextmanager
def own_settings() -> Iterator[None]:
    """Draw with this module's settings only."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        with matplotlib.rc_context(SETTINGS):
            yield


def save(figure: Figure, paths: Sequence[Path]) -> None:
    """Write a figure in the format of each path's suffix (.pdf, .png), without a date.

    Raises:
        CrossflowError: another suffix, or a file that cannot be written.
    """
    for path in paths:
        kind = path.suffix.lower().lstrip(".")
        if kind not in {"pdf", "png"}:
            raise CrossflowError(f"{path}: figures can be written as .pdf or .png only.")
        metadata = {"CreationDate": None} if kind == "pdf" else {}
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=DPI, metadata=metadata)

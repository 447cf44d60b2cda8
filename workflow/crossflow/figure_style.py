"""What all figures share: sizes, fonts, how a flow looks, and how a figure is written.

Flows differ in colour (Okabe and Ito's palette, safe for the colour-blind), in dash and in marker, so that a grey print
keeps them apart. Nothing depends on the user's matplotlib settings, and the same numbers give the same bytes.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from crossflow.errors import CrossflowError
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


def arrow(flow: str) -> str:
    """Write a flow as it is printed, with spaces at which no line is broken."""
    return flow.replace("->", " → ").replace("_", " ").replace(" ", "\N{NO-BREAK SPACE}")


def window_in_words(window: str) -> str:
    """What stands above a figure."""
    ends = {"bottom": "windows from the first layer to this one", "top": "windows from this layer to the last"}
    return ends.get(window, f"window {window}")


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

"""Flows and windows: which edges a knockout forbids, and in which layers.

A flow ``source->target`` names two position sets. Its edges are all pairs (target, source) with the source at or
before the target: under causal attention nothing else could be blocked. A window is a run of layers around a
centre layer.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from crossflow.errors import CrossflowError

PUBLISHED_FLOWS = (
    "question->last",
    "image->last",
    "last->last",
    "image->question",
    "related->question",
    "other->question",
)
SET_NAMES = (
    # the basic sets, which cut a prompt in order
    "system",
    "image",
    "separator",
    "question",
    "instruction",
    "last",
    # views of visual tokens
    "related",
    "other",
    "padding",
    "newline",
    "base",
    "grid",
    # views of text
    "role",
    "true_option",
    "false_option",
    "options",
    "question_without_options",
    "object",
    # every position after the picture
    "all",
)
BASIC_SETS = SET_NAMES[:6]
_FLOW = re.compile(r"(?P<source>[a-z_]+)->(?P<target>[a-z_]+)")


class Flow(NamedTuple):
    """A flow by the names of its position sets."""

    source: str
    target: str

    @property
    def name(self) -> str:
        return f"{self.source}->{self.target}"


def parse_flow(name: str) -> Flow:
    """Read ``source->target``.

    Raises:
        CrossflowError: not of that form, or a set that does not exist.
    """
    match = _FLOW.fullmatch(name)
    if match is None:
        raise CrossflowError(f"Flow {name!r} is not of the form source->target.")
    for part in match.groups():
        if part not in SET_NAMES:
            raise CrossflowError(f"Flow {name!r} names the position set {part!r}; known are {', '.join(SET_NAMES)}.")
    return Flow(*match.groups())


class Window(NamedTuple):
    """Layers ``first .. last``, both included."""

    first: int
    last: int

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and self.first <= layer <= self.last


def window_at(centre: int, width: int, layers: int) -> Window:
    """The window of a centre layer, as published: an even width has one more layer below, and the ends truncate.

    Args:
        centre: Centre layer, ``0 .. layers - 1``.
        width: Number of layers of a window that is not cut.
        layers: Number of decoder layers of the model.

    Source: the published code, ``max(0, l - k // 2) .. min(L, l + ceil(k / 2)) - 1``.
    """
    return Window(max(0, centre - width // 2), min(layers, centre + (width + 1) // 2) - 1)


def count_edges(sources: Int[np.ndarray, " s"], targets: Int[np.ndarray, " t"]) -> int:
    """Number of blocked (target, source) pairs with source <= target, per layer and head."""
    return int(np.searchsorted(np.sort(sources), np.sort(targets), side="right").sum())


class Row(NamedTuple):
    """One knockout of one question: one number of a curve.

    Attributes:
        flow: Name of the flow.
        layer: Centre layer.
        window: The layers in which the edges are blocked.
        sources, targets: Positions of the prompt, ascending, none empty.
    """

    flow: str
    layer: int
    window: Window
    sources: Int[np.ndarray, " s"]
    targets: Int[np.ndarray, " t"]


def rows_of(
    flow: str, sources: Int[np.ndarray, " s"], targets: Int[np.ndarray, " t"], width: int, layers: int
) -> Iterator[Row]:
    """One row per centre layer of the model."""
    for centre in range(layers):
        yield Row(flow, centre, window_at(centre, width, layers), sources, targets)

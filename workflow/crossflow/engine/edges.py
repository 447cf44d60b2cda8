"""Edges: what a flow blocks in one prompt, and the rows of a question.

Edges are all pairs (target, source) with the source at or before the target: causal attention leaves nothing else to
block.

Controls ask whether it matters *which* sources are hidden, and not only how many. A random source set has as many
tokens as the flow's own, contains none of them, and is visible to every target, so that it blocks as many edges. The
random sets of `OF_THE_IMAGE` come from the rest of the un-padded image; if that is too small, and for all
other sets, from every position before the targets. If that is too small as well, as for the image of most prompts,
the control is missing. ``related~moved`` are the tokens of the objects' boxes moved to another place of the image
(`crossflow.data.boxes`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossflow.core.flows import MEAN, MOVED, Flow, Part, Window, sets_of, window_named
from crossflow.core.seeds import derived_seed
from crossflow.engine.modules import Silenced
from crossflow.engine.patches import Patch
from crossflow.models.positions import Positions

Indices = Int[np.ndarray, " _"]

OF_THE_IMAGE = ("related", "other", "image_sinks", "image_without_sinks")
"""Sets that divide the un-padded image: their random sets, and those of intersections with them, come from the rest of
it."""


class Edges(NamedTuple):
    """All pairs of some targets with some sources: positions of the prompt, ascending.

    Attributes:
        sources, targets: The positions.
        donor: Whose keys and values the targets read at the sources instead of the prompt's own, by its name among
            `crossflow.engine.forward.CleanRun.donors`; None = nobody's.
    """

    sources: Int[np.ndarray, " s"]
    targets: Int[np.ndarray, " t"]
    donor: str | None = None

    def extended_by(self, last: int, further: int) -> "Edges":
        """The edges if ``further`` positions follow the prompt's ``last``: they are blocked as ``last`` is."""

        def longer(positions: Indices) -> Indices:
            return np.append(positions, last + 1 + np.arange(further)) if last in positions else positions

        return Edges(longer(self.sources), longer(self.targets), self.donor)


class Row(NamedTuple):
    """One knockout of one question: one number of a curve.

    Attributes:
        flow: Name of the flow.
        layer: Centre layer.
        window: The layers in which the edges are blocked.
        edges: The blocked edges, and the outputs that are replaced; no set of targets is empty.
        heads: The query heads in which they are blocked, as pairs of a layer and a head; None = all.
        patch: What replaces the residual stream that enters the first layer of the window; None = nothing.
    """

    flow: str
    layer: int
    window: Window
    edges: tuple[Edges | Silenced, ...]
    heads: tuple[tuple[int, int], ...] | None = None
    patch: Patch | None = None

    @property
    def start(self) -> int:
        """The first position that the knockout changes."""
        return min(int(edges.targets[0]) for edges in self.edges)

    @property
    def silenced(self) -> list[Silenced]:
        """The outputs that are replaced."""
        return [each for each in self.edges if isinstance(each, Silenced)]

    @property
    def donors(self) -> tuple[str, ...]:
        """Names of the donors whose keys and values are read."""
        return tuple(sorted({edges.donor for edges in self.edges if edges.donor is not None}))


def rows_of(
    flow: str, edges: Sequence[Edges | Silenced], window: str, layers: int, centres: Iterable[int] | None = None
) -> Iterator[Row]:
    """One row per centre layer; all layers of the model unless ``centres`` are given."""
    for centre in range(layers) if centres is None else centres:
        yield Row(flow, centre, window_named(window, centre, layers), tuple(edges))


def patched_row(patch: Patch, start: int, layer: int) -> Row:
    """The row that patches what enters a layer.

    Args:
        patch: The patch.
        start: A position at or before the first patched one, such that none before it attends to it or to a later one.
        layer: The layer; the number of layers stands for what leaves the last.
    """
    # An empty window: the suffix begins at the layer, and no edge is blocked in any.
    return Row("", layer, Window(layer, layer - 1), (Edges(np.arange(0), np.array([start])),), patch=patch)


def blocked(edges: Iterable[Edges | Silenced], start: int, length: int) -> Bool[np.ndarray, "targets sources"]:
    """Blocked pairs, targets from ``start`` on; pairs with the source after the target may be set but are no edges."""
    pairs = np.zeros((length - start, length), dtype=bool)
    for each in edges:
        pairs[np.ix_(each.targets - start, each.sources)] = True
    return pairs


def count_edges(edges: Sequence[Edges | Silenced]) -> int:
    """Number of distinct blocked (target, source) pairs with source <= target, per layer and head.

    Of module knockouts, the number of outputs that are replaced in a layer.
    """
    silenced = {(each.module, int(target)) for each in edges if isinstance(each, Silenced) for target in each.targets}
    blocking = [each for each in edges if isinstance(each, Edges)]
    if len(blocking) == 1:
        return len(silenced) + int(np.searchsorted(blocking[0].sources, blocking[0].targets, side="right").sum())
    length = 1 + max((int(part.max()) for pair in blocking for part in pair[:2] if len(part)), default=0)
    return len(silenced) + int(np.tril(blocked(blocking, 0, length)).sum())


def _random_sources(positions: Positions, part: Part, targets: Indices, seed: int) -> Indices:
    """Random positions before every target, as many as the source has and none of its own; empty if too few."""
    own = positions[part.source]
    before = np.arange(targets[0] if len(targets) else 0)
    shown = np.intersect1d(before, positions.shown)
    if part.substitute == MEAN:
        pools = [shown]  # the mean exists at visual tokens only
    elif not set(OF_THE_IMAGE).isdisjoint(sets_of(part.source)):
        pools = [shown, before]
    else:
        pools = [before]
    for pool in (np.setdiff1d(pool, own) for pool in pools):
        if len(pool) >= len(own):
            return np.sort(np.random.default_rng(seed).choice(pool, len(own), replace=False))
    return own[:0]


def edges_of(
    flow: Flow,
    positions: Positions,
    seed: int,
    question_id: str,
    means: Mapping[tuple[str, str], Float[Tensor, "layers width"]] | None = None,
) -> tuple[Edges | Silenced, ...]:
    """The edges that a flow blocks in a prompt, and the outputs that it replaces; none if a source is empty, no edge is
    left, or a mean is not known.

    Args:
        flow: The flow.
        positions: Position sets of the prompt.
        seed: The study's seed. A random set depends on it, the question, the source and the draw, but not on the
            study's other flows.
        question_id: The question.
        means: Module and set -> its mean output in each layer.
    """
    found: list[Edges | Silenced] = []
    for part in flow.parts:
        if part.module is not None:
            value = None if means is None else means.get((part.module, part.target))
            if not len(positions[part.target]) or (part.substitute and value is None):
                return ()
            found.append(Silenced(part.module, positions[part.target], value if part.substitute else None))
            continue
        spared = [positions[name] for name in part.spared]
        targets = np.setdiff1d(positions[part.target], np.concatenate([np.arange(0), *spared]))
        if part.control is None:
            sources = positions[part.source]
        elif part.control == MOVED:
            sources = positions.moved
        else:
            draw = derived_seed(seed, question_id, part.source, part.control)
            sources = _random_sources(positions, part, targets, draw)
        if not len(sources) or not (len(targets) or part.spared):
            return ()
        if len(targets):
            found.append(Edges(sources, targets, part.substitute))
    return tuple(found) if count_edges(found) else ()

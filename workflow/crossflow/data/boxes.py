"""Edges: what a flow forbids in one prompt, and the rows of a question.

Edges are all pairs (target, source) with the source at or before the target: under causal attention nothing else could
be blocked.

Controls ask whether it matters *which* sources are hidden, and not only how many. A random source set has as many
tokens as the flow's own, holds none of them, and is seen by every target, so that it blocks as many edges. Those of
``related`` and ``other`` come from the rest of the un-padded image; where that holds too few, and for all other sets,
from every position before the targets. Where that is too small as well, as for the image of most prompts, there is no
such control, and it counts as missing. ``related~moved`` are the tokens of the objects' boxes in another place of the
image.
"""

from collections.abc import Sequence

import numpy as np

from crossflow.core.records import Box

MOVES = 100


def moved_boxes(boxes: Sequence[Box], size: tuple[int, int], seed: int) -> list[Box]:
    """The boxes in other places of the image, apart from where any of them was; empty if one finds no such place.

    Args:
        boxes: In pixels of the image; they may leave it.
        size: Width and height of the image.
        seed: Seed of the places; each box tries `MOVES` of them.
    """
    generator = np.random.default_rng(seed)
    moved = []
    for box in boxes:
        across, down = size[0] - box.w, size[1] - box.h
        if across < 0 or down < 0:
            return []
        places = np.stack(
            [generator.integers(across + 1, size=MOVES), generator.integers(down + 1, size=MOVES)], axis=1
        )
        free = (
            Box(x, y, box.w, box.h)
            for x, y in places.tolist()
            if all(x + box.w < old.x or old.x + old.w < x or y + box.h < old.y or old.y + old.h < y for old in boxes)
        )
        place = next(free, None)
        if place is None:
            return []
        moved.append(place)
    return moved

"""Boxes outside their image, and boxes moved within it, for the control ``related~moved->target``."""

from collections.abc import Sequence

import numpy as np

from crossflow.core.records import Box

MOVES = 100


def lies_outside(box: Box, size: tuple[int, int]) -> bool:
    """Whether a box shares no pixel with an image of ``size`` (width, height)."""
    return box.x >= size[0] or box.y >= size[1] or box.x + box.w <= 0 or box.y + box.h <= 0


def moved_boxes(boxes: Sequence[Box], size: tuple[int, int], seed: int) -> list[Box]:
    """Move each box to a place that touches none of the old boxes; empty if a box has no such place.

    Args:
        boxes: In pixels of the image; they may leave it.
        size: Width and height of the image.
        seed: Seed of the places; each box tries `MOVES` places.
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

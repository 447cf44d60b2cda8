"""Which visual tokens show an object: from boxes on the image to visual tokens.

Boxes are painted on an empty image of the same size, which passes through the model's own image processor without
rescaling and normalising; a patch's pixels then show whether it covers a box. The model's own packing (tiles,
un-padding, newline tokens) puts the labels of all patches into the order of the visual tokens, so no geometry is
implemented twice. A token made of several patches has the labels of all of them.

The vision tower sees *tiles* of one size. The *base* tiles show the whole image; other tiles, if any, show parts of it.

Two rules say when a patch is related to a box:

published
    Boxes are pure red on pure green; a patch is related if one of its pixels is exactly (255, 0, 0). A small box may
    have no related patch, because resampling mixes the colours. Source: the published code.
overlap
    A patch is related if the box covers at least half of one of its pixels. A smaller box is grown by at most one pixel
    of the tile to each side, so a visible box is never lost.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from crossflow.core.errors import CrossflowError, blaming_question
from crossflow.core.records import Box

_RED, _GREEN, _WHITE, _BLACK = (255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)
RULES = ("published", "overlap")

Colour = tuple[int, int, int]
Pack = Callable[[Float[torch.Tensor, "tiles patches labels"], tuple[int, int]], Float[torch.Tensor, "tokens labels"]]
LEAST_SHARE = 1e-6  # of a patch in a token: packing may average, in fp32


class Tiling(NamedTuple):
    """How an architecture turns an image into tiles for the vision tower.

    Attributes:
        tiles: From the image processor and its output (arrays by name) to ``(tiles, 3, height, width)``.
        base: The tiles that show the whole image.
        options: Arguments that the architecture's processor adds to its image processor's own.
    """

    tiles: Callable[[Any, Any], np.ndarray]
    base: slice = slice(1)
    options: Mapping[str, Any] = {}


def _one_image(image_processor: Any, processed: Any) -> np.ndarray:
    """The tiles of processors that return images, of one tile or several."""
    pixels = np.asarray(processed["pixel_values"][0])
    return pixels[None] if pixels.ndim == 3 else pixels


PLAIN = Tiling(_one_image)


@dataclass(frozen=True)
class VisualTokens:
    """What each visual token of one image shows, in the order of the prompt.

    Attributes:
        related: The patch shows an object the question is about.
        padding: The patch shows nothing of the image.
        newline: The token ends a row of the un-padded grid, or marks a tile, and shows nothing.
        base: The patch belongs to a base tile.
        moved: The patch shows a moved box.
    """

    related: Bool[np.ndarray, " tokens"]
    padding: Bool[np.ndarray, " tokens"]
    newline: Bool[np.ndarray, " tokens"]
    base: Bool[np.ndarray, " tokens"]
    moved: Bool[np.ndarray, " tokens"]

    def __len__(self) -> int:
        return len(self.related)

    def among(self, visual: Bool[np.ndarray, " run"]) -> "VisualTokens":
        """Spread the tokens over consecutive positions of which only some are visual; the others show nothing.

        Args:
            visual: Which of these positions are visual tokens; as many as there are tokens.
        """

        def spread(flags: Bool[np.ndarray, " tokens"], elsewhere: bool) -> Bool[np.ndarray, " run"]:
            run = np.full(len(visual), elsewhere)
            run[visual] = flags
            return run

        return VisualTokens(
            spread(self.related, False),
            spread(self.padding, False),
            spread(self.newline, True),
            spread(self.base, False),
            spread(self.moved, False),
        )


def paint(size: tuple[int, int], boxes: Sequence[Box], colour: Colour, ground: Colour) -> Image.Image:
    """An image of ``size`` (width, height) with filled boxes, their last row and column included.

    Only this function clips a box that extends beyond the image.
    """
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    for box in boxes:
        draw.rectangle((box.x, box.y, box.x + box.w, box.y + box.h), fill=colour)
    return image


@dataclass(frozen=True)
class ToTiles:
    """Turns an image into the tiles that the vision tower sees, before rescaling and normalising."""

    image_processor: Any
    tiling: Tiling

    def __call__(self, image: Image.Image) -> UInt8[np.ndarray, "tiles 3 height width"]:
        with blaming_question("the image processor"):
            processed = self.image_processor(
                image, do_rescale=False, do_normalize=False, return_tensors="np", **self.tiling.options
            )
        # Whole numbers, but some processors return them in fp32.
        return np.asarray(np.rint(self.tiling.tiles(self.image_processor, processed)), dtype=np.uint8)


def _base(tiling: Tiling, tiles: int) -> Bool[np.ndarray, " tiles"]:
    base = np.zeros(tiles, dtype=bool)
    base[tiling.base] = True
    return base


def _any_of_patch(pixels: Bool[np.ndarray, "tiles height width"], patch_size: int) -> Bool[np.ndarray, "tiles patches"]:
    tiles, height, width = pixels.shape
    rows, columns = height // patch_size, width // patch_size
    # A tower ignores pixels beyond the last whole patch, for example at 384 pixels with patches of 14.
    whole = pixels[:, : rows * patch_size, : columns * patch_size]
    cells = whole.reshape(tiles, rows, patch_size, columns, patch_size)
    return cells.any(axis=(2, 4)).reshape(tiles, -1)


def _empty(to_tiles: ToTiles, size: tuple[int, int]) -> UInt8[np.ndarray, "tiles 3 height width"]:
    """An image without a box, for comparison in `_covered`."""
    return to_tiles(paint(size, [], _WHITE, _BLACK))


def _covered(
    to_tiles: ToTiles,
    empty: UInt8[np.ndarray, "tiles 3 height width"],
    size: tuple[int, int],
    boxes: Sequence[Box],
) -> Float[np.ndarray, "tiles height width"]:
    """The share of each processed pixel that the boxes cover, 0 to 1; 0 for padding."""
    covered = to_tiles(paint(size, boxes, _WHITE, _BLACK))
    return np.asarray((covered.astype(np.float64) - empty)[:, 0] / 255)


def _related_published(
    to_tiles: ToTiles, size: tuple[int, int], boxes: Sequence[Box], patch_size: int
) -> Bool[np.ndarray, "tiles patches"]:
    painted = to_tiles(paint(size, boxes, _RED, _GREEN))
    red = (painted[:, 0] == _RED[0]) & (painted[:, 1] == _RED[1]) & (painted[:, 2] == _RED[2])
    return _any_of_patch(red, patch_size)


def _grown(box: Box, size: tuple[int, int], most: int) -> Iterator[Box]:
    """The box, and the box grown by 1 .. ``most`` pixels to each side; nothing for a box outside the image."""
    if box.x >= size[0] or box.y >= size[1] or box.x + box.w < 0 or box.y + box.h < 0:
        return
    for by in range(most + 1):
        yield Box(box.x - by, box.y - by, box.w + 2 * by, box.h + 2 * by)


def _related_overlap(
    to_tiles: ToTiles, size: tuple[int, int], boxes: Sequence[Box], patch_size: int
) -> Bool[np.ndarray, "tiles patches"]:
    empty = _empty(to_tiles, size)
    tiles, _, height, width = empty.shape
    base = _base(to_tiles.tiling, tiles)
    side = math.sqrt(base.sum() * height * width)
    related = np.zeros((tiles, (height // patch_size) * (width // patch_size)), dtype=bool)
    for box in boxes:
        shown = np.zeros_like(related)
        for grown in _grown(box, size, most=math.ceil(max(size) / side)):
            shown = _any_of_patch(_covered(to_tiles, empty, size, [grown]) >= 0.5, patch_size)
            if shown[base].any() and (base.all() or shown[~base].any()):
                break
        related |= shown
    return related


def visual_tokens(
    image_processor: Any,
    patch_size: int,
    pack: Pack,
    size: tuple[int, int],
    boxes: Sequence[Box],
    rule: str,
    tiling: Tiling = PLAIN,
    moved: Sequence[Box] = (),
) -> VisualTokens:
    """Label the visual tokens of an image.

    Args:
        image_processor: The model's image processor (PIL backend).
        patch_size: Side of a patch, in pixels of a tile.
        pack: The model's packing of patch features to visual tokens; newline tokens get the label 1 in the last
            column and 0 elsewhere.
        size: Width and height of the image.
        boxes: Boxes of the objects the question is about, in pixels of the image; they may extend beyond it.
        rule: ``published`` or ``overlap``.
        tiling: How the image is turned into tiles.
        moved: The objects' boxes in another place.
    """
    if rule not in RULES:
        raise CrossflowError(f"Unknown patches rule {rule!r}; choose from {', '.join(RULES)}.")
    select = _related_published if rule == "published" else _related_overlap
    to_tiles = ToTiles(image_processor, tiling)
    whole = _covered(to_tiles, _empty(to_tiles, size), size, [Box(0, 0, *size)])
    shown = _any_of_patch(whole >= 0.5, patch_size)
    related, elsewhere = (
        select(to_tiles, size, there, patch_size) if there else np.zeros_like(shown) for there in (boxes, moved)
    )
    base = np.zeros_like(shown)
    base[_base(tiling, len(base))] = True
    marks = [related, shown, base, elsewhere, np.zeros_like(shown)]
    labels = torch.from_numpy(np.stack(marks, axis=-1).astype(np.float32))
    related, shown, base, elsewhere, newline = pack(labels, size).numpy().T > LEAST_SHARE
    return VisualTokens(related, ~shown & ~newline, newline, base, elsewhere)

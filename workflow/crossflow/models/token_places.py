"""Where in its image each visual token lies.

Two ramps, one that brightens to the right and one that brightens downwards, pass through the model's own image
processor; so a processed pixel shows which place of the image it comes from. The model's own packing averages these
places over the patches of a token. As in `crossflow.models.visual_tokens`, no geometry is implemented twice.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image

from crossflow.core.records import Box
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.visual_tokens import LEAST_SHARE, ToTiles, paint

_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_LEVELS = 256  # of grey


def _edges(centres: Float[np.ndarray, " cells"], length: int) -> Float[np.ndarray, " edges"]:
    """The edges of cells with these centres within 0..length."""
    if len(centres) == 1:
        return np.array([0.0, length])
    between = (centres[1:] + centres[:-1]) / 2
    ends = (2 * centres[0] - between[0], 2 * centres[-1] - between[-1])
    return np.asarray(np.concatenate([ends[:1], between, ends[1:]]).clip(0, length))


class TokenPlaces(NamedTuple):
    """The places of the positions of an image in a prompt, in their order.

    Attributes:
        base: Whether a position is a token that shows the whole image with others, and not a part of it in detail.
        x, y: The centre of what it shows, in pixels of the image; NaN where it shows nothing: padding, newline tokens
            and marks between tiles.
        row, column: Its place in the grid of those that show the whole image, or of those that show it in parts; -1
            where it shows nothing.
    """

    base: Bool[np.ndarray, " positions"]
    x: Float[np.ndarray, " positions"]
    y: Float[np.ndarray, " positions"]
    row: Int[np.ndarray, " positions"]
    column: Int[np.ndarray, " positions"]

    @property
    def shown(self) -> Bool[np.ndarray, " positions"]:
        """Which positions show a part of the image."""
        return self.row >= 0

    @property
    def views(self) -> list[Bool[np.ndarray, " positions"]]:
        """The positions that show the whole image, and those that show it in parts; without views that show nothing."""
        return [members for part in (self.base, ~self.base) if (members := part & self.shown).any()]

    def grid(
        self, view: Bool[np.ndarray, " positions"], size: tuple[int, int]
    ) -> tuple[Float[np.ndarray, " edges_across"], Float[np.ndarray, " edges_down"]]:
        """Edges of the cells of one of `views`, in pixels of an image of ``size`` (width, height)."""
        across, down = (
            _edges(np.bincount(number[view], at[view]) / np.bincount(number[view]), length)
            for number, at, length in ((self.column, self.x, size[0]), (self.row, self.y, size[1]))
        )
        return across, down

    def boxes(self, size: tuple[int, int]) -> Float[np.ndarray, "positions 4"]:
        """Left, top, width and height of what each position shows of an image of ``size``; NaN if it shows nothing."""
        found = np.full((len(self.base), 4), np.nan)
        for view in self.views:
            (left, right), (top, bottom) = (
                (edges[number[view]], edges[number[view] + 1])
                for edges, number in zip(self.grid(view, size), (self.column, self.row), strict=True)
            )
            found[view] = np.stack([left, top, right - left, bottom - top], axis=1)
        return found


def _ranks(places: Float[np.ndarray, " tokens"], length: int) -> Int[np.ndarray, " tokens"]:
    """The number of each place among the different ones, ascending.

    Places less than half a grey level of a ramp apart are one.
    """
    order = np.argsort(places, kind="stable")
    steps = np.diff(places[order]) > length / (2 * _LEVELS)
    found = np.empty(len(places), dtype=int)
    found[order] = np.concatenate([[0], np.cumsum(steps)])[: len(places)]
    return found


def places_of(model: MultimodalModel, prepared: Prepared, size: tuple[int, int]) -> TokenPlaces:
    """The places of the visual tokens of a question.

    Args:
        model: The model that prepared the question.
        prepared: The question.
        size: Width and height of its image.
    """
    to_tiles = ToTiles(model.processor.image_processor, model.architecture.tiling)
    ramp = Image.linear_gradient("L")
    empty, whole, across, down = (
        to_tiles(image)[:, 0].astype(np.float64)
        for image in (
            paint(size, [], _WHITE, _BLACK),
            paint(size, [Box(0, 0, *size)], _WHITE, _BLACK),
            ramp.rotate(90).resize(size).convert("RGB"),
            ramp.resize(size).convert("RGB"),
        )
    )
    # The rest of each pixel is padding, which the empty image shows too.
    covered = (whole - empty) / 255
    shown = covered >= 0.5
    share = np.where(shown, covered, 1.0)
    tiles, height, width = shown.shape
    side = model.patch_size
    rows, columns = height // side, width // side

    def sums(pixels: np.ndarray) -> np.ndarray:
        """Sums over the shown pixels of each patch."""
        cut = np.where(shown, pixels, 0.0)[:, : rows * side, : columns * side]
        return np.asarray(cut.reshape(tiles, rows, side, columns, side).sum(axis=(2, 4)).reshape(tiles, -1))

    counts = sums(np.ones_like(share))
    means = [sums((pixels - empty) / 255 / share) / counts.clip(1) for pixels in (across, down)]
    seen = (counts > 0).astype(float)
    # From both sides, since some architectures average the labels of a token's patches and others take the largest. The
    # last label is that of newline tokens.
    labels = [mean * seen for mean in means] + [(1 - mean) * seen for mean in means] + [seen, 0 * seen]
    packed = model.pack(torch.from_numpy(np.stack(labels, axis=-1).astype(np.float32)), size).numpy().astype(float)

    ids = prepared.inputs["input_ids"][0].cpu().numpy()
    # In some architectures other tokens stand between the visual ones.
    visual = np.flatnonzero(ids[prepared.positions["image"]] == model.network.config.image_token_id)
    kept = packed[:, 4] > LEAST_SHARE
    base = np.zeros(len(prepared.positions["image"]), dtype=bool)
    base[visual] = prepared.visual.base[visual]
    x, y = np.full((2, len(base)), np.nan)
    row, column = np.full((2, len(base)), -1)
    centres = ((packed[kept, :2] - packed[kept, 2:4]) / packed[kept, 4:5] + 1) / 2 * size
    x[visual[kept]], y[visual[kept]] = centres.T
    for part in (base, ~base):
        members = part & np.isfinite(x)
        row[members], column[members] = _ranks(y[members], size[1]), _ranks(x[members], size[0])
    return TokenPlaces(base, x, y, row, column)

"""What the model is told that a picture shows: the picture as the vision tower sees it, its related patches shaded.

A *panel* shows visual tokens: those of the base tile (or of the only tile), or those of the un-padded grid. It is put
together token by token. The model's own packing, applied to the numbers of the patches, says which patch a token stands
for, and the patch is cut out of what the vision tower is given. The outlines of the boxes go through the model's image
processing too. So no tile, padding or box is placed by a formula of this module, and shading that misses its box
shows labels that are wrong.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

from crossflow.errors import CrossflowError
from crossflow.gqa import Box
from crossflow.models import MultimodalModel, Prepared
from crossflow.patches import Eye, VisualTokens

# Okabe and Ito's colours, which colour-blind readers tell apart.
_RELATED, _BOX, _PADDING, _NEWLINE, _INK = (230, 159, 0), (0, 158, 255), (40, 40, 40), (190, 190, 190), (30, 30, 30)
ZOOM = 2  # pixels of a panel per pixel of a tile
_FIT, _GAP, _LINE = (960, 640), 18, 26


class Panel(NamedTuple):
    """A picture of visual tokens.

    Attributes:
        title: What it shows.
        tokens: The visual token at each place; newline tokens are the last column of a grid.
        image: The picture: a patch, `ZOOM` times as large, at each place; newline tokens are narrower.
    """

    title: str
    tokens: Int[np.ndarray, "rows columns"]
    image: Image.Image


def _outlines(size: tuple[int, int], boxes: Sequence[Box]) -> Image.Image:
    """White outlines on black, inwards from the edges of the boxes."""
    picture = Image.new("RGB", size)
    for box in boxes:
        corners = (box.x, box.y, box.x + box.w, box.y + box.h)
        ImageDraw.Draw(picture).rectangle(corners, outline="white", width=max(2, max(size) // 200))
    return picture


def _patch_of(model: MultimodalModel, tiles: int, patches: int, size: tuple[int, int]) -> Int[np.ndarray, " tokens"]:
    """The patch of each visual token, counted through all tiles; -1 for newline tokens."""
    # Counted from 1: packing gives newline tokens 0 in every label but the last.
    numbers = 1 + torch.arange(tiles * patches, dtype=torch.float32).reshape(tiles, patches, 1)
    packed = model.pack(torch.cat([numbers, torch.zeros_like(numbers)], dim=-1), size)
    return np.asarray(packed[:, 0].round().to(torch.int64)) - 1


def _panel(
    title: str,
    tokens: Int[np.ndarray, "rows columns"],
    shown: UInt8[np.ndarray, "tokens side side 4"],
    visual: VisualTokens,
) -> Panel:
    (rows, columns), side = tokens.shape, shown.shape[1]
    mosaic = shown[tokens].transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 4)
    side *= ZOOM
    image, outlines = (
        Image.fromarray(part).resize((columns * side, rows * side), Image.Resampling.LANCZOS)
        for part in (mosaic[..., :3], mosaic[..., 3])
    )
    shade = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(shade)
    for (row, column), token in np.ndenumerate(tokens):
        left, top = column * side, row * side
        right, bottom = left + side - 1, top + side - 1
        if visual.newline[token]:
            draw.rectangle((left, top, right, bottom), fill=(*_NEWLINE, 255), outline=(255, 255, 255, 255))
        if visual.padding[token]:
            draw.rectangle((left, top, right, bottom), fill=(*_PADDING, 150))
            draw.line((left, bottom, right, top), fill=(150, 150, 150, 255))
        if visual.related[token]:
            draw.rectangle((left, top, right, bottom), fill=(*_RELATED, 110), outline=(*_RELATED, 255))
    image.paste(shade, mask=shade)
    image.paste(_BOX, mask=outlines)
    narrow = side - side // 3 if visual.newline[tokens[0, -1]] else 0
    return Panel(title, tokens, image.crop((0, 0, image.width - narrow, image.height)))


def panels(model: MultimodalModel, prepared: Prepared, picture: Image.Image) -> list[Panel]:
    """The visual tokens of a question: the base tile, and the un-padded grid where the model tiles.

    Args:
        model: The model that prepared the question.
        prepared: The question; what its visual tokens show is taken as it says.
        picture: The question's picture.

    Raises:
        CrossflowError: visual tokens are not the patches of one tile, or of one and a grid.
    """
    visual, side = prepared.visual, model.patch_size
    eye = Eye(model.processor.image_processor, model.architecture.sight)
    boxes = [chosen.box for chosen in prepared.question.objects]
    seen, drawn, empty = (
        eye(shown) for shown in (picture, _outlines(picture.size, boxes), _outlines(picture.size, []))
    )
    # Padding has a colour of its own, in the empty picture too.
    pixels = np.concatenate([seen, np.where(drawn > empty, drawn, 0)[:, :1]], axis=1)
    tiles, channels, height, width = pixels.shape
    cut = pixels.reshape(tiles, channels, height // side, side, width // side, side).transpose(0, 2, 4, 3, 5, 1)
    patches = cut.reshape(-1, side, side, channels)
    patch_of = _patch_of(model, tiles, len(patches) // tiles, picture.size)
    base, rest = np.flatnonzero(visual.base), np.flatnonzero(~visual.base)
    shape = (height // side, width // side)
    rows = int(visual.newline.sum())
    if len(base) != shape[0] * shape[1] or (len(rest) and (not rows or len(rest) % rows)):
        raise CrossflowError("a visual token is no single patch, or the grid has no rows that end: it is not drawn yet")
    title = f"{'base tile' if len(rest) else 'tile'}: {shape[0]} x {shape[1]} patches"
    made = [_panel(title, base.reshape(shape), patches[patch_of], visual)]
    if len(rest):
        grid = rest.reshape(rows, -1)
        title = f"un-padded grid: {grid.shape[0]} x {grid.shape[1] - 1} patches, newline tokens at the right"
        made.append(_panel(title, grid, patches[patch_of], visual))
    return made


def draw(model: MultimodalModel, prepared: Prepared, picture: Image.Image) -> Image.Image:
    """A question's picture with its boxes, and beside it its `panels`, with a legend; arguments as there."""
    boxed = picture.convert("RGB")
    boxes = [chosen.box for chosen in prepared.question.objects]
    boxed.paste(_BOX, mask=_outlines(picture.size, boxes).convert("L"))
    shown = [(f"picture: {picture.width} x {picture.height} pixels", boxed)]
    shown += [(panel.title, panel.image) for panel in panels(model, prepared, picture)]
    fitted = [(title, ImageOps.contain(image, _FIT, Image.Resampling.LANCZOS)) for title, image in shown]
    size = (sum(image.width + _GAP for _, image in fitted) + _GAP, max(image.height for _, image in fitted) + 5 * _LINE)
    whole = Image.new("RGB", size, "white")
    pen, font, left = ImageDraw.Draw(whole), ImageFont.load_default(16), _GAP
    pen.text((left, _LINE // 2), prepared.question.question, _INK, ImageFont.load_default(19))
    for title, image in fitted:
        pen.text((left, 2 * _LINE), title, _INK, font)
        whole.paste(image, (left, 3 * _LINE))
        left += image.width + _GAP
    left, top = _GAP, whole.height - 3 * _LINE // 2
    for name, colour in {"box": _BOX, "related": _RELATED, "padding": _PADDING, "newline": _NEWLINE}.items():
        label = name if name == "box" else f"{name}: {getattr(prepared.visual, name).sum()} tokens"
        pen.rectangle((left, top, left + 18, top + 18), "white" if name == "box" else colour, colour, width=3)
        pen.text((left + 26, top), label, _INK, font)
        left += 60 + round(pen.textlength(label, font))
    return whole

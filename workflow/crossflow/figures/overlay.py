"""Visual tokens drawn over the image as the vision tower sees it, related ones shaded.

A *panel* shows visual tokens: those of the base, or those that show the image in parts. It is assembled token by token.
The model's own packing, applied to one patch at a time, gives the patches of each token, which are cut out of the
vision tower's input. The outlines of the boxes pass through the model's image processing too, and so does a ramp that
shows where a row of tiles ends. So this module places no tile, padding or box by a formula of its own, and shading that
misses its box reveals wrong labels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps

from crossflow.core.records import Box
from crossflow.figures.style import BOX, SET_COLOURS
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.visual_tokens import LEAST_SHARE, ToTiles, VisualTokens

_RELATED, _PADDING, _NEWLINE = (ImageColor.getrgb(SET_COLOURS[name]) for name in ("related", "padding", "newline"))
_BOX, _INK = ImageColor.getrgb(BOX), (30, 30, 30)
ZOOM = 2  # pixels of a panel per pixel of a tile
_AT_ONCE = 256  # patches that are packed in one call, each on its own
_FIT, _GAP, _LINE = (960, 640), 18, 26


class TokenPanel(NamedTuple):
    """An image of visual tokens.

    Attributes:
        title: What it shows.
        tokens: The visual token at each place, counted from the image's first position; newline tokens are the last
            column of a grid.
        image: The image: the patches of a token, `ZOOM` times as large, at each place; newline tokens are narrower.
    """

    title: str
    tokens: Int[np.ndarray, "rows columns"]
    image: Image.Image


def _outlines(size: tuple[int, int], boxes: Sequence[Box]) -> Image.Image:
    """White outlines on black, inwards from the edges of the boxes."""
    image = Image.new("RGB", size)
    for box in boxes:
        corners = (box.x, box.y, box.x + box.w, box.y + box.h)
        ImageDraw.Draw(image).rectangle(corners, outline="white", width=max(2, max(size) // 200))
    return image


class _Looks(NamedTuple):
    """How visual tokens look.

    Attributes:
        pixels: Of each token; newline tokens are black.
        patches: Patches along one side of a token.
        mixed: Whether each token mixes its patches; otherwise they lie side by side.
    """

    pixels: UInt8[np.ndarray, "tokens side side channels"]
    patches: int
    mixed: bool


def _shares(
    model: MultimodalModel, tiles: int, patches: int, size: tuple[int, int]
) -> dict[int, list[tuple[float, int]]]:
    """For each visual token by its number, the shares of the patches that it is made of, and these patches.

    Patches are counted through all tiles. Newline tokens have no entry.
    """
    found: dict[int, list[tuple[float, int]]] = {}
    for some in torch.split(torch.arange(tiles * patches), _AT_ONCE):
        # Packing gives newline tokens 0 in every label but the last.
        labels = torch.zeros(tiles * patches, len(some) + 1)
        labels[some, torch.arange(len(some))] = 1
        packed = model.pack(labels.reshape(tiles, patches, -1), size)[:, :-1]
        for token, label in (packed > LEAST_SHARE).nonzero().tolist():
            found.setdefault(token, []).append((float(packed[token, label]), int(some[label])))
    return found


def _looks(
    shares: dict[int, list[tuple[float, int]]],
    tokens: Int[np.ndarray, " tokens"],
    patches: UInt8[np.ndarray, "patches side side channels"],
) -> _Looks:
    parts = [shares.get(token, []) for token in tokens.tolist()]
    most = max(len(part) for part in parts)
    along = math.isqrt(most)
    weights = [share for part in parts for share, _ in part]
    mixed = max(weights) > 2 * min(weights) or any(len(part) not in (0, along**2) for part in parts)
    pixels = np.zeros((len(tokens), *patches.shape[1:]), np.uint8).repeat(1 if mixed else along, 1)
    pixels = pixels.repeat(1 if mixed else along, 2)
    for number, part in enumerate(parts):
        found = patches[[patch for _, patch in part]]
        if mixed and part:
            share = np.array([share for share, _ in part])
            pixels[number] = np.tensordot(share / share.sum(), found, 1).round()
        elif part:
            # Patches are counted in reading order, in a tile as among those that an image processor puts side by side.
            rows = found.reshape(along, along, *found.shape[1:]).swapaxes(1, 2)
            pixels[number] = rows.reshape(pixels[number].shape)
    return _Looks(pixels, 1 if mixed else along, mixed)


def _panel(
    title: str,
    tokens: Int[np.ndarray, "rows columns"],
    shown: UInt8[np.ndarray, "rows columns side side 4"],
    visual: VisualTokens,
) -> TokenPanel:
    rows, columns, side = shown.shape[:3]
    mosaic = shown.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 4)
    side *= ZOOM
    image, outlines = (
        Image.fromarray(part).resize((columns * side, rows * side), Image.Resampling.LANCZOS)
        for part in (mosaic[..., :3], mosaic[..., 3])
    )
    shade = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(shade)
    for (row, column), token in np.ndenumerate(tokens):
        left, top = column * side, row * side
        right, bottom = left + side - 1, top + side - 1
        if visual.newline[token]:
            pen.rectangle((left, top, right, bottom), fill=(*_NEWLINE, 255), outline=(255, 255, 255, 255))
        if visual.padding[token]:
            pen.rectangle((left, top, right, bottom), fill=(*_PADDING, 150))
            pen.line((left, bottom, right, top), fill=(150, 150, 150, 255))
        if visual.related[token]:
            pen.rectangle((left, top, right, bottom), fill=(*_RELATED, 110), outline=(*_RELATED, 255))
    image.paste(shade, mask=shade)
    image.paste(_BOX, mask=outlines)
    narrow = side - side // 3 if visual.newline[tokens[0, -1]] else 0
    return TokenPanel(title, tokens, image.crop((0, 0, image.width - narrow, image.height)))


def _rows(
    tokens: Int[np.ndarray, " tokens"], block: tuple[int, int], left: Float[np.ndarray, " tokens"]
) -> Int[np.ndarray, "rows columns"]:
    """Tokens arranged in blocks of the given rows and columns, the blocks in rows from left to right.

    Args:
        tokens: In their order.
        block: Rows and columns of the tokens of a tile.
        left: How far to the right each token lies.
    """
    blocks = tokens.reshape(-1, *block)
    starts = left.reshape(len(blocks), -1)[:, 0]
    # A row of blocks ends where the next one begins at the left again.
    again = np.flatnonzero(starts <= starts[0] + 0.5)
    across = int(again[1]) if len(again) > 1 else len(blocks)
    grid = blocks.reshape(-1, across, *block).transpose(0, 2, 1, 3)
    return np.asarray(grid.reshape(-1, across * block[1]))


def panels(model: MultimodalModel, prepared: Prepared, image: Image.Image) -> list[TokenPanel]:
    """The visual tokens of a question: the base, and the image in parts if the model cuts it.

    Args:
        model: The model that prepared the question.
        prepared: The question, with the labels of its visual tokens.
        image: The question's image.
    """
    visual, side = prepared.visual, model.patch_size
    to_tiles = ToTiles(model.processor.image_processor, model.architecture.tiling)
    boxes = [chosen.box for chosen in prepared.question.objects]
    ramp = Image.linear_gradient("L").rotate(90).resize(image.size).convert("RGB")
    seen, drawn, empty, ramped = (
        to_tiles(shown) for shown in (image, _outlines(image.size, boxes), _outlines(image.size, []), ramp)
    )
    # Padding has its own colour, also in the empty image.
    pixels = np.concatenate([seen, np.where(drawn > empty, drawn, 0)[:, :1], ramped[:, :1]], axis=1)
    tiles, channels, height, width = pixels.shape
    high, wide = height // side, width // side
    # A tower ignores pixels beyond the last whole patch.
    cut = pixels[..., : high * side, : wide * side].reshape(tiles, channels, high, side, wide, side)
    patches = cut.transpose(0, 2, 4, 3, 5, 1).reshape(-1, side, side, channels)
    shares = _shares(model, tiles, high * wide, image.size)
    ids = prepared.inputs["input_ids"][0].cpu().numpy()
    # In some architectures other tokens stand between the visual ones.
    places = np.flatnonzero(ids[prepared.positions["image"]] == model.network.config.image_token_id)

    base, newline = visual.base[places], visual.newline[places]
    made = []
    for name, members in (("whole image", base), ("image in parts", ~base)):
        tokens = np.flatnonzero(members)
        if not len(tokens):
            continue
        looks = _looks(shares, tokens, patches)
        rows_end = newline[tokens].any()
        if rows_end:
            order = np.arange(len(tokens)).reshape(int(newline[tokens].sum()), -1)
        else:
            block = (max(1, high // looks.patches), max(1, wide // looks.patches))
            order = _rows(np.arange(len(tokens)), block, looks.pixels[:, 0, 0, 4].astype(float))
        kind = "patches" if looks.patches == 1 else f"tokens of {looks.patches} x {looks.patches} patches"
        kind = "tokens that mix several patches" if looks.mixed else kind
        ends = ", newline tokens at the right" if rows_end else ""
        title = f"{name}: {order.shape[0]} x {order.shape[1] - rows_end} {kind}{ends}"
        made.append(_panel(title, places[tokens][order], looks.pixels[order][..., :4], visual))
    return made


def draw_overlay(model: MultimodalModel, prepared: Prepared, image: Image.Image) -> Image.Image:
    """A question's image with its boxes, and beside it its `panels`, with a legend; arguments as there."""
    boxed = image.convert("RGB")
    boxes = [chosen.box for chosen in prepared.question.objects]
    boxed.paste(_BOX, mask=_outlines(image.size, boxes).convert("L"))
    shown = [(f"image: {image.width} x {image.height} pixels", boxed)]
    shown += [(panel.title, panel.image) for panel in panels(model, prepared, image)]
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

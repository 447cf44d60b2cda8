"""Boxes on the image and the patches that show them, for the three geometries."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaImageProcessorPil,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
)

from crossflow.core.errors import CrossflowError
from crossflow.core.records import Box
from crossflow.models.architectures import ARCHITECTURES
from crossflow.models.visual_tokens import Pack, VisualTokens, visual_tokens

TILE, PATCH = 56, 14
GRID = TILE // PATCH
PINPOINTS = [[TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE], [3 * TILE, TILE], [TILE, 3 * TILE]]
SIDES = {"size": {"shortest_edge": TILE}, "crop_size": {"height": TILE, "width": TILE}}
PROCESSORS = {
    "pad": LlavaImageProcessorPil(**SIDES, do_pad=True),
    "crop": LlavaImageProcessorPil(**SIDES, do_pad=False),
    "anyres": LlavaNextImageProcessorPil(**SIDES, image_grid_pinpoints=PINPOINTS),
}


def _anyres_network() -> LlavaNextForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=TILE,
        patch_size=PATCH,
    )
    text = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    config = LlavaNextConfig(
        text_config=text, vision_config=vision, image_grid_pinpoints=PINPOINTS, image_token_index=7
    )
    return LlavaNextForConditionalGeneration(config)


NETWORK = _anyres_network()


def _pack(geometry: str) -> Pack:
    entry = ARCHITECTURES["llava_next" if geometry == "anyres" else "llava"]
    return lambda labels, size: entry.pack(NETWORK, labels, size)


def _label(geometry: str, size: tuple[int, int], boxes: list[Box], rule: str) -> VisualTokens:
    return visual_tokens(PROCESSORS[geometry], PATCH, _pack(geometry), size, boxes, rule)


def _one_tile_map(geometry: str, size: tuple[int, int]) -> Callable[[float, float], tuple[float, float]]:
    """From pixels of the image to pixels of the tile, worked out from the geometry's definition."""
    width, height = size
    if geometry == "pad":
        side = max(size)
        return lambda x, y: (
            (x + (side - width) // 2) * TILE / side,
            (y + (side - height) // 2) * TILE / side,
        )
    scale = TILE / min(size)
    new_width, new_height = (
        (TILE, int(TILE * height / width)) if width <= height else (int(TILE * width / height), TILE)
    )
    assert scale > 0
    return lambda x, y: (
        x * new_width / width - (new_width - TILE) // 2,
        y * new_height / height - (new_height - TILE) // 2,
    )


def _touched(corners: tuple[float, float, float, float], margin: float) -> np.ndarray:
    """Patches of one tile that a rectangle touches, after growing it by ``margin`` pixels of the tile."""
    left, top, right, bottom = corners
    edges = np.arange(GRID) * PATCH
    columns = (edges < right + margin) & (edges + PATCH > left - margin)
    rows = (edges < bottom + margin) & (edges + PATCH > top - margin)
    return np.asarray(rows[:, None] & columns[None]).ravel()


sizes = st.tuples(st.integers(60, 640), st.integers(60, 640))


@st.composite
def images_with_box(draw: st.DrawFn) -> tuple[tuple[int, int], Box]:
    width, height = draw(sizes)
    x, y = draw(st.integers(0, width - 2)), draw(st.integers(0, height - 2))
    return (width, height), Box(x, y, draw(st.integers(1, width - 1 - x)), draw(st.integers(1, height - 1 - y)))


@pytest.mark.parametrize("geometry", ["pad", "crop"])
@settings(max_examples=60, deadline=None)
@given(case=images_with_box())
def test_related_patches_lie_where_the_geometry_puts_the_box(geometry: str, case: tuple[tuple[int, int], Box]) -> None:
    size, box = case
    place = _one_tile_map(geometry, size)
    # The last row and column of a box are painted, so it ends one pixel later.
    corners = (*place(box.x, box.y), *place(box.x + box.w + 1, box.y + box.h + 1))
    overlap = _label(geometry, size, [box], "overlap").related
    left, top, right, bottom = np.clip(corners, 0, TILE)
    if right - left > 2 and bottom - top > 2:
        assert not (overlap & ~_touched(corners, 1)).any()
        assert not (_touched((left, top, right, bottom), -1) & ~overlap).any()
    else:
        # Too little of the box is in the tile: it may be grown by one pixel of the image's longer side.
        grown = (max(size) // TILE + 1) * TILE / min(size)
        assert not (overlap & ~_touched(corners, 1 + grown)).any()


@pytest.mark.parametrize("geometry", PROCESSORS)
@settings(max_examples=40, deadline=None)
@given(case=images_with_box())
def test_every_published_patch_overlaps_the_box(geometry: str, case: tuple[tuple[int, int], Box]) -> None:
    size, box = case
    published = _label(geometry, size, [box], "published").related
    overlap = _label(geometry, size, [box], "overlap").related
    assert not (published & ~overlap).any()


@pytest.mark.parametrize("geometry", ["pad", "anyres"])
@settings(max_examples=40, deadline=None)
@given(size=sizes, data=st.data())
def test_overlap_never_loses_a_visible_box(geometry: str, size: tuple[int, int], data: st.DataObject) -> None:
    box = Box(data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1)), 0, 0)
    assert _label(geometry, size, [box], "overlap").related.any()


def test_a_small_box_can_be_empty_by_the_published_rule() -> None:
    assert not _label("pad", (640, 480), [Box(300, 200, 1, 1)], "published").related.any()


def test_the_padding_of_a_wide_image_is_above_and_below() -> None:
    padding = _label("pad", (560, 280), [], "published").padding.reshape(GRID, GRID)
    assert padding.tolist() == [[True] * GRID, [False] * GRID, [False] * GRID, [True] * GRID]


def test_a_box_in_the_cropped_part_is_related_to_nothing() -> None:
    for rule in ("published", "overlap"):
        assert not _label("crop", (560, 280), [Box(0, 0, 50, 279)], rule).related.any()


def test_a_box_that_leaves_the_image_is_clipped() -> None:
    inside = _label("pad", (200, 200), [Box(150, 150, 49, 49)], "overlap").related
    outside = _label("pad", (200, 200), [Box(150, 150, 500, 500)], "overlap").related
    assert inside.any()
    assert inside.tolist() == outside.tolist()


@settings(max_examples=40, deadline=None)
@given(size=sizes)
def test_anyres_tokens_are_a_base_tile_and_rows_that_end_in_newlines(size: tuple[int, int]) -> None:
    tokens = _label("anyres", size, [Box(0, 0, *size)], "published")
    assert tokens.base.sum() == GRID * GRID
    assert tokens.base[: GRID * GRID].all()
    grid = tokens.newline[GRID * GRID :]
    row = int(np.argmax(grid)) + 1
    assert len(grid) % row == 0
    assert grid.reshape(-1, row)[:, -1].all()
    assert grid.sum() == len(grid) // row
    assert not (tokens.newline & (tokens.related | tokens.padding | tokens.base)).any()


@settings(max_examples=20, deadline=None)
@given(size=sizes)
def test_anyres_labels_are_packed_as_the_model_packs_features(size: tuple[int, int]) -> None:
    inputs = PROCESSORS["anyres"](torch.zeros(3, size[1], size[0], dtype=torch.uint8), return_tensors="pt")
    with torch.inference_mode():
        features = NETWORK.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
    packed = features.pooler_output if hasattr(features, "pooler_output") else features
    assert len(_label("anyres", size, [], "published")) == len(packed[0])


def test_a_rule_that_does_not_exist_is_refused() -> None:
    with pytest.raises(CrossflowError, match="Unknown patches rule 'nearest'"):
        _label("pad", (100, 100), [], "nearest")

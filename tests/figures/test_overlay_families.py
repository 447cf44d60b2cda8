"""Boxes and shaded tokens coincide, for visual tokens that are merged, pooled or interpolated too."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from crossflow.figures.overlay import TokenPanel, draw_overlay, panels
from loaded_families import SIZES, Loaded, middle, noise, question_about
from tiny_families import FAMILIES

# Images are resampled with at most six pixels of theirs on each side.
REACH = 6


MERGED = "tokens of 2 x 2 patches"
TILED = (f"whole image: 3 x 3 {MERGED}", f"image in parts: 6 x 6 {MERGED}")
ENDS = "newline tokens at the right"
# Of the wide and of the tall image.
TITLES = {
    "gemma3": 2 * [(f"whole image: 4 x 4 {MERGED}",)],
    "idefics3": [TILED, TILED],
    "smolvlm": [TILED, TILED],
    "internvl": [(TILED[0], f"image in parts: 6 x {columns} {MERGED}") for columns in (9, 3)],
    "llava_onevision": [
        ("whole image: 6 x 6 patches", f"image in parts: {grid}, {ENDS}")
        for grid in ("6 x 10 tokens that mix several patches", "12 x 6 patches")
    ],
    "qwen2_vl": [(f"whole image: {grid} {MERGED}",) for grid in ("5 x 8", "7 x 4")],
    "qwen2_5_vl": [(f"whole image: {grid} {MERGED}",) for grid in ("5 x 8", "7 x 4")],
    "qwen3_vl": [(f"whole image: {grid} {MERGED}",) for grid in ("5 x 7", "6 x 3")],
}


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(request.param, tmp_path_factory.mktemp("family"))


def _cells(panel: TokenPanel) -> np.ndarray:
    """The pixels of a panel's tokens, ``(rows, columns, side, side, 3)``; a last column of newline tokens is cut."""
    shown = np.asarray(panel.image)
    rows = panel.tokens.shape[0]
    side = shown.shape[0] // rows
    columns = shown.shape[1] // side
    return shown[:, : columns * side].reshape(rows, side, columns, side, 3).swapaxes(1, 2)


@pytest.mark.parametrize("size", SIZES)
def test_every_token_is_drawn_once_with_the_part_of_the_image_that_it_shows(
    loaded: Loaded, size: tuple[int, int]
) -> None:
    # Red says how far right a pixel lies, green how far down, both from 0 to 255.
    across, down = (np.linspace(0, 255, length) for length in size)
    colours = np.stack(np.broadcast_arrays(across[None], down[:, None], 0 * across[None]), axis=-1)
    image = Image.fromarray(colours.round().astype(np.uint8))
    prepared = loaded.model.prepare(question_about(), image)
    places = loaded.family.places(prepared, size)
    drawn = np.concatenate([panel.tokens.ravel() for panel in panels(loaded.model, prepared, image)])
    visual = (
        prepared.inputs["input_ids"][0][prepared.positions["image"]]
        == prepared.inputs["input_ids"][0][prepared.positions["image"][0]]
    )
    assert sorted(drawn) == np.flatnonzero(visual).tolist()
    for panel in panels(loaded.model, prepared, image):
        cells = _cells(panel)
        tokens = panel.tokens[:, : cells.shape[1]]
        left, top, right, bottom = places[tokens].transpose(2, 0, 1)
        means = cells.mean(axis=(2, 3))
        # The tower leaves out the last 4 pixels of each of OneVision's tiles, 0.3 of a patch, and padding is cut off by
        # whole patches; `places` ignores both. Tokens that mix patches also mix across these, and with padding.
        allowed = 0.6 if "mix" in panel.title else 0.5 if "newline" in panel.title else 0.1
        inner = np.s_[1:-1, 1:-1] if "mix" in panel.title else np.s_[:, :]
        for channel, first, last, length in ((0, left, right, size[0]), (1, top, bottom, size[1])):
            apart = abs(means[..., channel] * length / 255 - (first + last) / 2) / (last - first)
            assert apart[inner].max() < allowed, panel.title


def test_related_tokens_are_shaded_and_the_outline_runs_where_the_box_ends(loaded: Loaded) -> None:
    for size in SIZES:
        box, grey = middle(size), Image.new("RGB", size, (128, 128, 128))
        prepared = loaded.model.prepare(question_about(box), grey)
        nothing = np.zeros(len(prepared.visual), dtype=bool)
        bare = dataclasses.replace(prepared, visual=dataclasses.replace(prepared.visual, related=nothing))
        for with_it, without in zip(
            panels(loaded.model, prepared, grey), panels(loaded.model, bare, grey), strict=True
        ):
            cells = _cells(without)
            tokens = with_it.tokens[:, : cells.shape[1]]
            shaded = (_cells(with_it) != cells).any(axis=(2, 3, 4))
            assert (shaded == prepared.visual.related[tokens]).all()
            outlined = (cells[..., 2].astype(int) - cells[..., 0] > 100).any(axis=(2, 3))
            left, top, right, bottom = loaded.family.places(prepared, size)[tokens].transpose(2, 0, 1)
            outside = (left > box.x + box.w + REACH) | (right < box.x - REACH)
            outside |= (top > box.y + box.h + REACH) | (bottom < box.y - REACH)
            assert outside.any() and not outlined[outside].any(), with_it.title
            edges = [
                (first < edge - 3) & (last > edge + 3) & (low < stop - 6) & (high > start + 6)
                for first, last, edge, low, high, start, stop in (
                    (left, right, box.x, top, bottom, box.y, box.y + box.h),
                    (left, right, box.x + box.w, top, bottom, box.y, box.y + box.h),
                    (top, bottom, box.y, left, right, box.x, box.x + box.w),
                    (top, bottom, box.y + box.h, left, right, box.x, box.x + box.w),
                )
            ]
            if "mix" not in with_it.title:
                assert any(edge.any() for edge in edges)
                assert outlined[np.logical_or.reduce(edges)].all(), with_it.title


def test_titles_say_of_what_the_tokens_are_made(loaded: Loaded) -> None:
    found = {
        size: [panel.title for panel in panels(loaded.model, loaded.prepared[size], noise(size))] for size in SIZES
    }
    assert found == {size: list(titles) for size, titles in zip(SIZES, TITLES[loaded.name], strict=True)}


def test_the_whole_drawing_is_the_same_each_time(loaded: Loaded) -> None:
    prepared, image = loaded.prepared[SIZES[1]], noise(SIZES[1])
    drawn = draw_overlay(loaded.model, prepared, image)
    assert drawn.width > sum(panel.image.width > 0 for panel in panels(loaded.model, prepared, image)) * 300
    assert draw_overlay(loaded.model, prepared, image).tobytes() == drawn.tobytes()

"""The published geometries have the published program's pixels, whatever the version of Pillow."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

from crossflow.models.architectures import ARCHITECTURES
from crossflow.models.processors import load_processor
from crossflow.models.visual_tokens import ToTiles
from ports import write

SIDE = 336
TILED = ("llava16-vicuna-7b", "llama3-llava-next-8b")
SIZES = [
    (375, 500), (500, 375), (333, 500), (640, 427), (427, 640), (480, 640), (500, 500), (300, 301), (120, 900), (37, 53),
]  # fmt: skip


def _weights(length: int, new: int) -> np.ndarray:
    """Bicubic weights in Pillow's fixed point, ``(new, length)`` (src/libImaging/Resample.c, from version 3.0 on)."""

    def bicubic(x: float) -> float:
        x = abs(x)
        if x < 1:
            return (1.5 * x - 2.5) * x * x + 1
        return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0

    scale = length / new
    stretch = max(scale, 1.0)
    found = np.zeros((new, length))
    for place in range(new):
        centre = (place + 0.5) * scale
        first, stop = max(0, int(centre - 2 * stretch + 0.5)), min(length, int(centre + 2 * stretch + 0.5))
        given = [bicubic((x - centre + 0.5) / stretch) for x in range(first, stop)]
        found[place, first:stop] = [math.floor(w / math.fsum(given) * (1 << 22) + 0.5) for w in given]
    return found


def _across(pixels: np.ndarray, width: int) -> np.ndarray:
    """One horizontal pass of ``(height, width, 3)``, rounded to whole grey levels."""
    # Whole numbers below 2^53: exact in fp64, whose products are fast.
    summed = np.tensordot(pixels.astype(np.float64), _weights(pixels.shape[1], width), (1, 1)).swapaxes(1, 2)
    return np.clip(np.floor((summed + (1 << 21)) / (1 << 22)), 0, 255).astype(np.uint8)


def _horizontal_first(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    wide = _across(pixels, width) if width != pixels.shape[1] else pixels
    turned = wide.transpose(1, 0, 2)
    return (_across(turned, height) if height != pixels.shape[0] else turned).transpose(1, 0, 2)


def _vertical_first(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return _horizontal_first(pixels.transpose(1, 0, 2), height, width).transpose(1, 0, 2)


def _noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)


def _tiles(pixels: np.ndarray, pinpoints: list[list[int]]) -> np.ndarray:
    """The published tiles of an image: the whole in one, then the parts of the padded grid by rows."""
    height, width = pixels.shape[:2]
    down, across = select_best_resolution((height, width), pinpoints)
    scale = min(across / width, down / height)
    new = min(math.ceil(width * scale), across), min(math.ceil(height * scale), down)
    grid = np.zeros((down, across, 3), dtype=np.uint8)
    left, top = (across - new[0]) // 2, (down - new[1]) // 2
    grid[top : top + new[1], left : left + new[0]] = _horizontal_first(pixels, *new)
    parts = [grid[y : y + SIDE, x : x + SIDE] for y in range(0, down, SIDE) for x in range(0, across, SIDE)]
    return np.stack([_horizontal_first(pixels, SIDE, SIDE), *parts]).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("ports")
    for slug in (*TILED, "llava15-7b"):
        write(root / slug, slug)
    return {slug: root / slug for slug in (*TILED, "llava15-7b")}


def _to_tiles(repo: Path, folder: Path) -> ToTiles:
    entry = yaml.safe_load((repo / "params.yaml").read_text())["models"][folder.name]
    architecture = ARCHITECTURES["llava" if entry["image"] == "pad" else "llava_next"]
    return ToTiles(load_processor(folder, entry["image"], architecture).image_processor, architecture.tiling)


def test_the_definition_here_is_pillows_where_the_order_is_the_same_in_all_versions() -> None:
    for size, new in (((500, 375), (336, 336)), ((64, 64), (336, 200)), ((500, 500), (336, 336))):
        pillow = np.asarray(Image.fromarray(_noise(size)).resize(new, Image.Resampling.BICUBIC))
        assert np.array_equal(pillow, _horizontal_first(_noise(size), *new))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("slug", TILED)
def test_tiles_are_resized_with_the_horizontal_pass_first(
    repo: Path, folders: dict[str, Path], slug: str, size: tuple[int, int]
) -> None:
    to_tiles = _to_tiles(repo, folders[slug])
    found = to_tiles(Image.fromarray(_noise(size)))
    expected = _tiles(_noise(size), to_tiles.image_processor.image_grid_pinpoints)
    assert np.array_equal(found, expected)
    if size == (375, 500):
        other = _vertical_first(_noise(size), SIDE, SIDE).transpose(2, 0, 1)
        assert (other != expected[0]).mean() > 0.2, "the order does not show"


@pytest.mark.parametrize("size", SIZES)
def test_a_padded_square_is_resized_with_the_horizontal_pass_first(
    repo: Path, folders: dict[str, Path], size: tuple[int, int]
) -> None:
    to_tiles = _to_tiles(repo, folders["llava15-7b"])
    (found,) = to_tiles(Image.fromarray(_noise(size)))
    side = max(size)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    inside = np.zeros((side, side), dtype=bool)
    inside[top : top + size[1], left : left + size[0]] = True
    mean = (255 * np.array(to_tiles.image_processor.image_mean)).astype(np.uint8)
    square = np.where(inside[..., None], np.zeros(3, dtype=np.uint8), mean)
    square[inside] = _noise(size).reshape(-1, 3)
    expected = _horizontal_first(square, SIDE, SIDE).transpose(2, 0, 1)
    assert np.array_equal(found, expected)

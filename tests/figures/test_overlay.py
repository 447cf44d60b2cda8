"""Boxes on the image and the shaded patches coincide, in every geometry of the published models."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.data.categories import Classified, attach_objects, classify
from crossflow.data.gqa import read_questions, read_scenes
from crossflow.data.images import Images
from crossflow.figures.overlay import ZOOM, TokenPanel, draw_overlay, panels
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings, MultimodalModel, Prepared
from ports import PATCH, TILE, write
from tiny import CPU, draw_world

GEOMETRIES = {
    "pad": ("llava15-7b", "pad"),
    "crop": ("llava15-7b", "processor"),
    "anyres": ("llava16-vicuna-7b", "anyres"),
}
SIZES = [(500, 333), (333, 500), (400, 400), (640, 480), (900, 300)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MultimodalModel]:
    root, made = tmp_path_factory.mktemp("overlay"), {}
    for name, (slug, image) in GEOMETRIES.items():
        if not (root / slug).exists():
            write(root / slug, slug)
        made[name] = load_model(ModelSettings(root / slug, "vicuna-v1", image=image), CPU)
    return made


def _question(*boxes: Box) -> ChosenQuestion:
    objects = tuple(ChosenObject("object", str(number), "ball", box) for number, box in enumerate(boxes))
    return ChosenQuestion("1", "1", "ChooseAttr", "", "Is the ball red or blue?", "red", "red", "blue", objects)


class Axis(NamedTuple):
    """Pixels of a panel, before it is enlarged, from pixels of the image: ``scale * x + start``."""

    scale: float
    start: float


def _axes(geometry: str, panel: TokenPanel, number: int, size: tuple[int, int]) -> tuple[Axis, Axis]:
    """Where a geometry puts an image, worked out from its definition."""
    width, height = size
    if geometry == "pad":
        side = max(size)
        return tuple(Axis(TILE / side, (side - length) // 2 * TILE / side) for length in size)
    if geometry == "crop":
        longer = int(TILE * max(size) / min(size))
        across, down = (longer if length == max(size) else TILE for length in size)
        return Axis(across / width, -((across - TILE) // 2)), Axis(down / height, -((down - TILE) // 2))
    if number == 0:
        return Axis(TILE / width, 0), Axis(TILE / height, 0)
    # Padding and un-padding are symmetric: the image lies in the middle, and fills the side that was not padded.
    rows, columns = panel.tokens.shape[0], panel.tokens.shape[1] - 1
    full = [
        scale for tiles, scale in ((columns, columns * PATCH / width), (rows, rows * PATCH / height)) if tiles % 24 == 0
    ]
    scale = min(full)
    return Axis(scale, (columns * PATCH - scale * width) / 2), Axis(scale, (rows * PATCH - scale * height) / 2)


def _covered(
    axes: tuple[Axis, Axis], panel: TokenPanel, box: tuple[float, float, float, float], margin: float
) -> np.ndarray:
    """Places of a panel that a box (left, top, right, bottom), grown by ``margin`` pixels of the panel, overlaps."""
    rows, columns = panel.tokens.shape
    overlaps = []
    for axis, first, last, places in ((axes[1], box[1], box[3], rows), (axes[0], box[0], box[2], columns)):
        begin, end = axis.scale * first + axis.start - margin, axis.scale * last + axis.start + margin
        edges = np.arange(places) * PATCH
        overlaps.append((edges < end) & (edges + PATCH > begin) & (begin < end))
    return np.asarray(overlaps[0][:, None] & overlaps[1][None])


def _changed(one: TokenPanel, other: TokenPanel) -> np.ndarray:
    """Places at which two panels look different."""
    rows, columns = one.tokens.shape
    apart = (np.asarray(one.image, dtype=int) != np.asarray(other.image, dtype=int)).any(axis=-1)
    wide = np.zeros((rows * PATCH * ZOOM, columns * PATCH * ZOOM), dtype=bool)
    wide[:, : apart.shape[1]] = apart
    return np.asarray(wide.reshape(rows, PATCH * ZOOM, columns, PATCH * ZOOM).any(axis=(1, 3)))


def _without(prepared: Prepared, label: str) -> Prepared:
    nothing = np.zeros(len(prepared.visual), dtype=bool)
    return dataclasses.replace(prepared, visual=dataclasses.replace(prepared.visual, **{label: nothing}))


def _shaded(
    model: MultimodalModel, prepared: Prepared, image: Image.Image, label: str
) -> Iterator[tuple[TokenPanel, np.ndarray]]:
    """Each panel, with the places that look different because of a label."""
    with_it, without = (panels(model, shown, image) for shown in (prepared, _without(prepared, label)))
    for one, other in zip(with_it, without, strict=True):
        yield one, _changed(one, other)


def _judge(models: dict[str, MultimodalModel], question: ChosenQuestion, image: Image.Image) -> int:
    """Compare shading and boxes in all geometries; how many patches had to be shaded."""
    certain = 0
    boxes = [chosen.box for chosen in question.objects]
    for geometry, model in models.items():
        prepared = model.prepare(question, image)
        for number, (panel, shaded) in enumerate(_shaded(model, prepared, image, "related")):
            axes = _axes(geometry, panel, number, image.size)
            inside, near = (np.zeros(panel.tokens.shape, dtype=bool) for _ in range(2))
            for box in boxes:
                # The last row and column of a box are its own; what leaves the image is not seen.
                corners = (
                    max(box.x, 0), max(box.y, 0), min(box.x + box.w + 1, image.width), min(box.y + box.h + 1, image.height),
                )  # fmt: skip
                # Resampling mixes the colours of the pixels within 3 of an edge, so that they count as neither.
                inside |= _covered(axes, panel, corners, -3)
                near |= _covered(axes, panel, corners, 1)
            ends = prepared.visual.newline[panel.tokens]
            assert not (inside & ~ends & ~shaded).any(), (question.question_id, geometry, panel.title)
            assert not (shaded & ~near).any(), (question.question_id, geometry, panel.title)
            assert not (shaded & ends).any()
            certain += int((inside & ~ends).sum())
    return certain


@pytest.mark.slow
def test_in_real_images_the_shaded_patches_are_those_that_the_boxes_cover(
    models: dict[str, MultimodalModel], shared: Path
) -> None:
    root = shared / "gqa" / "sample"
    found = [
        result
        for question in read_questions(root, "val_balanced")
        if isinstance(result := classify(question), Classified)
    ]
    scenes = read_scenes(root, "val_balanced", {entry.question.image_id for entry in found})
    certain, shapes = 0, set()
    with Images(root) as images:
        for entry in found:
            question = attach_objects(entry, scenes[entry.question.image_id])
            assert isinstance(question, ChosenQuestion)
            image = images.open(question.image_id)
            certain += _judge(models, question, image)
            shapes.add(image.width > image.height)
    assert len(found) == 37
    assert shapes == {True, False}, "landscape and portrait"
    assert certain > 5_000


def test_in_drawn_scenes_the_shaded_patches_are_those_that_the_boxes_cover(
    models: dict[str, MultimodalModel], tmp_path: Path
) -> None:
    questions = draw_world(tmp_path, 3)
    with Images(tmp_path) as images:
        for category, some in questions.items():
            assert _judge(models, some[0], images.open(some[0].image_id)) > 0, category


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", SIZES)
def test_a_panel_shows_at_each_place_the_part_of_the_image_that_the_geometry_puts_there(
    models: dict[str, MultimodalModel], geometry: str, size: tuple[int, int]
) -> None:
    # Red says how far right a pixel lies, green how far down, both from 0 to 255.
    across, down = (np.linspace(0, 255, length) for length in size)
    colours = np.stack(np.broadcast_arrays(across[None], down[:, None], 0 * across[None]), axis=-1)
    image = Image.fromarray(colours.round().astype(np.uint8))
    prepared = models[geometry].prepare(_question(), image)
    seen = np.zeros(len(prepared.visual), dtype=int)
    for number, panel in enumerate(panels(models[geometry], prepared, image)):
        rows, columns = panel.tokens.shape
        ends = int(prepared.visual.newline[panel.tokens[0, -1]])
        shown = np.asarray(panel.image, dtype=float)[:, : (columns - ends) * PATCH * ZOOM]
        means = shown.reshape(rows, PATCH * ZOOM, columns - ends, PATCH * ZOOM, 3).mean(axis=(1, 3))
        axes = _axes(geometry, panel, number, size)
        centres = np.meshgrid(*((np.arange(places) + 0.5) * PATCH for places in (columns - ends, rows)))
        compared = 0
        for axis, centre, length, channel in zip(axes, centres, size, range(2), strict=True):
            expected = 255 * (centre - axis.start) / axis.scale / length
            # Patches with padding are no place of the image.
            whole = np.logical_and.reduce(
                [
                    (abs(place - other.start - other.scale * extent / 2) < other.scale * extent / 2 - PATCH)
                    for place, other, extent in zip(centres, axes, size, strict=True)
                ]
            )
            # A patch's width is 3.5 to 14 levels.
            assert abs(means[..., channel] - expected)[whole].max() < 1.2
            compared += int(whole.sum())
        assert compared > 200
        np.add.at(seen, panel.tokens.ravel(), 1)
    assert (seen == 1).all(), "every visual token is shown once"


def test_padding_is_hatched_above_and_below_a_wide_image(models: dict[str, MultimodalModel]) -> None:
    image = Image.new("RGB", (600, 300), "red")
    prepared = models["pad"].prepare(_question(Box(0, 0, 10, 10)), image)
    ((_, hatched),) = _shaded(models["pad"], prepared, image, "padding")
    assert hatched[:6].all()
    assert hatched[18:].all()
    assert not hatched[6:18].any()


def test_the_whole_drawing_holds_the_image_and_all_panels(models: dict[str, MultimodalModel]) -> None:
    image = Image.new("L", (300, 200), 90)  # not every image of GQA has colours
    for geometry, model in models.items():
        prepared = model.prepare(_question(Box(250, 150, 500, 500)), image)
        drawn = draw_overlay(model, prepared, image)
        assert drawn.mode == "RGB"
        assert drawn.width > (2 + (geometry == "anyres")) * 600
        assert draw_overlay(model, prepared, image).tobytes() == drawn.tobytes()

"""What a model sees is what the boxes are about: orientation, scale, depth and shape of images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from crossflow.core.columns import LATER_QUESTIONS, QUESTIONS
from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.core.tables import write_csv
from crossflow.data.chosen import chosen_row, read_chosen, write_chosen
from crossflow.data.gqa import read_scenes
from crossflow.data.images import Images, fitted
from crossflow.data.question_table import read_question_table
from crossflow.models.loading import sketch_model
from crossflow.models.model import ModelSettings, MultimodalModel

# Orientation -> how an upright image is stored, so that a viewer who obeys the tag sees it upright (EXIF 2.3, 4.6.4A).
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
BOX = Box(4, 33, 19, 18)


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8))


def _save(image: Image.Image, path: Path, orientation: int) -> None:
    stored = STORED[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    (image if stored is None else image.transpose(stored)).save(path, exif=exif)


def _question(size: tuple[int, int] | None, box: Box = BOX) -> ChosenQuestion:
    return ChosenQuestion(
        "1", "1.png", "c", "d", "Is the ball red?", "yes", None, None, (ChosenObject("object", "1", "ball", box),), size
    )


@pytest.fixture(scope="module")
def sketch(repo: Path) -> MultimodalModel:
    settings = ModelSettings(repo / "resources" / "mini-llava", "vicuna-v1", patches="overlap")
    return sketch_model(settings, torch.device("cpu"))


@pytest.mark.parametrize("size", [(72, 72), (90, 60)])
@pytest.mark.parametrize("orientation", STORED)
def test_a_turned_image_is_read_upright_and_gives_the_inputs_of_the_upright_one(
    tmp_path: Path, sketch: MultimodalModel, orientation: int, size: tuple[int, int]
) -> None:
    upright = _noise(*size)
    _save(upright, tmp_path / "1.png", orientation)
    for known in (None, size):
        question, image = Images(tmp_path, by_file=True).open_for(_question(known))
        assert np.array_equal(image, upright)
        expected, found = sketch.prepare(_question(size), upright), sketch.prepare(question, image)
        assert expected.inputs["pixel_values"].equal(found.inputs["pixel_values"])
        assert expected.positions["related"].size
        assert np.array_equal(expected.positions["related"], found.positions["related"])


def test_an_orientation_that_contradicts_the_scene_graph_is_not_obeyed(tmp_path: Path) -> None:
    stored = _noise(90, 60)
    _save(stored.transpose(Image.Transpose.ROTATE_270), tmp_path / "1.png", 6)
    with Image.open(tmp_path / "1.png") as raw:
        assert raw.size == (90, 60)
    assert np.array_equal(Images(tmp_path, by_file=True).open("1.png", (90, 60)), stored)
    assert Images(tmp_path, by_file=True).open("1.png").size == (60, 90)


def test_exif_data_that_can_not_be_read_say_nothing(tmp_path: Path) -> None:
    image = _noise(20, 10)
    image.save(tmp_path / "1.png", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert np.array_equal(Images(tmp_path, by_file=True).open("1.png"), image)


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.7, 1.5, 2])
@pytest.mark.parametrize("given", [(500, 375), (333, 500), (640, 640)])
def test_boxes_are_scaled_with_their_image(given: tuple[int, int], scale: float) -> None:
    box = Box(given[0] // 5, given[1] // 3, given[0] // 2, given[1] // 7)
    size = (int(given[0] * scale), int(given[1] * scale))
    (chosen,) = fitted(_question(given, box), size).objects
    exact = np.array(box) * scale
    # Both edges are rounded to a whole pixel, and the size to a whole number of them.
    assert np.abs(np.array(chosen.box) - exact).max() <= 1.5
    assert fitted(fitted(_question(given, box), size), size) == fitted(_question(given, box), size)


def test_a_halved_image_shows_its_object_in_the_same_visual_tokens(tmp_path: Path, sketch: MultimodalModel) -> None:
    box = Box(40, 80, 120, 100)
    whole = sketch.prepare(_question((288, 288), box), _noise(288, 288)).positions["related"]
    _noise(144, 144).save(tmp_path / "1.png")
    question, image = Images(tmp_path, by_file=True).open_for(_question((288, 288), box))
    assert whole.size
    assert np.array_equal(sketch.prepare(question, image).positions["related"], whole)
    unscaled = sketch.prepare(_question(None, box), image).positions["related"]
    assert not np.array_equal(unscaled, whole), "the test cannot fail"


@pytest.mark.parametrize("size", [(100, 90), (60, 70), (50, 375)])
def test_an_image_of_another_shape_than_its_scene_graph_is_not_used(tmp_path: Path, size: tuple[int, int]) -> None:
    _noise(*size).save(tmp_path / "1.png")
    with pytest.raises(BrokenQuestion, match=f"has {size[0]} x {size[1]} pixels, but its boxes are given for"):
        Images(tmp_path, by_file=True).open_for(_question((500, 375)))


@pytest.mark.parametrize("name", ["1.png", "1.tif", "big.tif"])
def test_sixteen_bits_are_read_as_eight(tmp_path: Path, name: str) -> None:
    eight = np.random.default_rng(0).integers(256, size=(30, 40), dtype=np.uint8)
    sixteen = eight.astype(np.uint16) * 257
    mode = "I;16B" if name == "big.tif" else "I;16"
    data = sixteen.astype(">u2" if name == "big.tif" else "<u2").tobytes()
    Image.frombytes(mode, (40, 30), data).save(tmp_path / name)
    read = np.asarray(Images(tmp_path, by_file=True).open(name))
    assert np.array_equal(read, np.repeat(eight[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_an_image_whose_white_is_unknown_is_not_used(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.ones((4, 4), dtype=kind)).save(tmp_path / "1.tif")
    with pytest.raises(BrokenQuestion, match=r"1\.tif has 32-bit values without a known white point"):
        Images(tmp_path, by_file=True).open("1.tif")


def test_transparency_is_dropped_as_llava_does(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(256, size=(8, 8, 4), dtype=np.uint8)
    Image.fromarray(colours, "RGBA").save(tmp_path / "1.png")
    assert np.array_equal(Images(tmp_path, by_file=True).open("1.png"), colours[..., :3])


@pytest.mark.parametrize("box", [(72, 0, 5, 5), (0, -9, 5, 9), (-30, 80, 4, 4)])
def test_a_row_whose_box_lies_outside_its_image_is_named(tmp_path: Path, box: tuple[int, ...]) -> None:
    _noise(72, 72).save(tmp_path / "a.png")
    x, y, w, h = box
    objects = f'"[{{""name"": ""ball"", ""x"": {x}, ""y"": {y}, ""w"": {w}, ""h"": {h}}}]"'
    table = tmp_path / "questions.csv"
    table.write_text(f"question_id,image,question,answer,objects\n1,a.png,Is it?,yes,{objects}\n")
    with pytest.raises(CrossflowError, match=r"line 2: the box of 'ball' lies outside the image, which has 72 x 72"):
        read_question_table(table, tmp_path)


def test_a_tables_boxes_belong_to_the_image_as_it_is_seen(tmp_path: Path) -> None:
    _save(_noise(90, 60), tmp_path / "a.png", 6)
    table = tmp_path / "questions.csv"
    table.write_text("question_id,image,question,answer\n1,a.png,Is it?,yes\n")
    (question,) = read_question_table(table, tmp_path)
    assert question.image_size == (90, 60)


def test_the_size_of_a_scene_graph_reaches_the_table_of_questions(tmp_path: Path, shared: Path) -> None:
    scenes = read_scenes(shared / "gqa" / "sample", "val_balanced", {"1339"})
    assert scenes["1339"].size is not None
    questions = [_question(scenes["1339"].size), replace(_question(None), question_id="2")]
    write_chosen(tmp_path / "c.csv", questions)
    assert read_chosen(tmp_path / "c.csv") == questions


def test_a_table_of_version_0_1_is_read(tmp_path: Path) -> None:
    older = {name: kind for name, kind in QUESTIONS.items() if name not in LATER_QUESTIONS}
    write_csv(tmp_path / "c.csv", older, [chosen_row(_question((72, 72)))])
    assert read_chosen(tmp_path / "c.csv") == [_question(None)]


def test_every_image_of_gqas_sample_has_the_shape_that_its_scene_graph_gives(shared: Path) -> None:
    root = shared / "gqa" / "sample"
    names = {path.stem for path in (root / "images").glob("*.jpg")}
    scenes = read_scenes(root, "val_balanced", names)
    assert scenes
    with Images(root) as images:
        for name, scene in scenes.items():
            with Image.open(root / "images" / f"{name}.jpg") as raw:
                assert np.array_equal(images.open(name, scene.size), raw.convert("RGB")), name

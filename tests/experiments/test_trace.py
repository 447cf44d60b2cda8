"""One image and one question at once."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from crossflow.cli.main import main
from crossflow.core.records import Box
from crossflow.experiments.trace import cells_of, own_question, trace
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings
from tiny import CPU, load_tiny

FLOWS = ["question->last", "image->question", "related->question"]
QUESTION = "Is the box to the left or to the right of the star?"
STAR, BOX = Box(5, 3, 16, 15), Box(54, 56, 28, 27)


@pytest.fixture(scope="module")
def image(repo: Path) -> Image.Image:
    return Image.open(repo / "resources/example/pictures/scene6.jpg").convert("RGB")


@pytest.mark.parametrize(
    ("size", "shape"), [((500, 333), (4, 6)), ((333, 500), (6, 4)), ((72, 72), (6, 6)), ((600, 10), (1, 6))]
)
def test_cells_tile_the_image_without_gap_or_overlap(size: tuple[int, int], shape: tuple[int, int]) -> None:
    cells = cells_of(size, 6)
    assert (len(cells), len(cells[0])) == shape
    covered = np.zeros(size[::-1], dtype=int)
    for box in (box for row in cells for box in row):
        covered[box.y : box.y + box.h, box.x : box.x + box.w] += 1
    assert (covered == 1).all()


def test_mini_llava_looks_at_the_star_for_where_the_box_is(repo: Path, image: Image.Image) -> None:
    model = load_model(ModelSettings(repo / "resources/mini-llava", "vicuna-v1"), CPU)
    found = trace(model, image, own_question(QUESTION, [STAR, BOX]), FLOWS, 3, 6)
    assert found.answer.text == "Right"
    assert list(found.curves) == FLOWS
    assert found.map.shape == (8, 6, 6)
    assert np.isfinite(found.map).all()
    assert found.curves["related->question"].min() < -30
    layer, row, column = np.unravel_index(found.map.argmin(), found.map.shape)
    assert (row, column) == (0, 0), "the star's cell"
    assert layer == found.curves["related->question"].argmin()
    assert np.abs(found.map[4:]).max() < 1


def test_a_map_of_one_cell_is_the_whole_images_knockout(tmp_path: Path, image: Image.Image) -> None:
    model = load_tiny(tmp_path / "model", layers=3)
    found = trace(model, image, own_question(QUESTION, []), ["image->question", "related->question"], 1, 1)
    assert found.missing == ["related->question"]
    assert np.abs(found.map[:, 0, 0]).max() > 1
    np.testing.assert_allclose(found.map[:, 0, 0], found.curves["image->question"], atol=1e-4)


def test_the_verb_prints_the_answer_and_draws_curves_and_map(
    repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo)
    command = ["trace", "--question", QUESTION, "--device", "cpu", "--cells", "2", "--output", str(tmp_path)]
    image = ["--image", "resources/example/pictures/scene6.jpg"]
    assert main([*command, *image, "--box", "5,3,16,15"]) == 0
    said = capsys.readouterr().out
    assert "answer      'Right'" in said
    assert "related->question" in said
    for name in ("curves", "map"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert Image.open(tmp_path / "patches.png").width > 72
    assert main([*command, *image]) == 0
    assert "related" not in capsys.readouterr().out, "without a box nothing is related"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "resources/example/pictures/none.jpg"], "none.jpg is missing"),
        (["--image", "resources/example/questions.csv"], "does not decode"),
        (["--model", "gpt"], "params.yaml has no model 'gpt'; known are mini-llava"),
        (["--window", "16"], "A window of 16 layers does not fit mini-llava, which has 8"),
        (["--params", "nowhere.yaml"], "nowhere.yaml can not be read"),
        (["--question", "What is <image>?"], "the question holds the image's marker"),
    ],
)
def test_bad_input_is_one_sentence(
    repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    options: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(repo)
    given = ["--image", "resources/example/pictures/scene6.jpg", "--question", QUESTION, "--device", "cpu"]
    assert main(["trace", *given, "--output", str(tmp_path), *options]) == 1
    assert message in capsys.readouterr().err


def test_a_model_of_the_hub_is_taken_as_params_yaml_says(repo: Path) -> None:
    models = yaml.safe_load((repo / "params.yaml").read_text())["models"]
    from crossflow.study.inputs import SETTINGS

    for entry in models.values():
        assert set(entry) - {"path", "repo", "revision", "window"} <= set(SETTINGS)
        ModelSettings(Path("x"), **{key: entry[key] for key in SETTINGS if key in entry})

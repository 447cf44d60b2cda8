"""One image and one question at once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from crossflow.cli.main import main
from crossflow.core.flows import Window
from crossflow.core.image_lens import LENS_MAP
from crossflow.core.records import Box, ChosenQuestion
from crossflow.core.tables import read_parquet
from crossflow.engine.engines import ENGINES
from crossflow.experiments import trace
from crossflow.experiments.answers import answer
from crossflow.experiments.attention_map import ATTENTION, AttentionMap
from crossflow.experiments.knocked_out import Answered, knock_out
from crossflow.experiments.trace import CellEffects, cells_of, knock_out_cells, own_question
from crossflow.figures.trace import draw_attention
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings, MultimodalModel
from tiny import CPU, load_tiny

QUESTION = "Is the box to the left or to the right of the star?"
STAR, BOX = Box(5, 3, 16, 15), Box(54, 56, 28, 27)


@pytest.fixture(scope="module")
def image(repo: Path) -> Image.Image:
    return Image.open(repo / "resources/example/pictures/scene6.jpg").convert("RGB")


def _answered(model: MultimodalModel, image: Image.Image, boxes: list[Box]) -> Answered:
    prepared = model.prepare(own_question(QUESTION, boxes), image)
    said = answer(model, prepared)
    return Answered(prepared, said.text, said.tokens)


def _changes(model: MultimodalModel, answered: Answered, flow: str, centres: Sequence[int], window: str) -> np.ndarray:
    (found,) = knock_out(model, [answered], {flow: centres}, window, ENGINES["knockout"], 0)
    return np.array(found.columns()["change_percent"])


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
    answered = _answered(model, image, [STAR, BOX])
    assert answered.generated == "Right"
    found = knock_out_cells(model, image, answered, 6, "question", range(8), "3").change
    assert found.shape == (8, 6, 6)
    assert np.isfinite(found).all()
    related = _changes(model, answered, "related->question", range(8), "3")
    assert related.min() < -30
    layer, row, column = np.unravel_index(found.argmin(), found.shape)
    assert (row, column) == (0, 0), "the star's cell"
    assert layer == related.argmin()
    assert np.abs(found[4:]).max() < 1
    some = knock_out_cells(model, image, answered, 6, "question", [2, 5], "3").change
    np.testing.assert_allclose(some, found[[2, 5]], atol=1e-4)  # percent; other batches round in other ways


def test_a_map_of_one_cell_is_the_whole_images_knockout(tmp_path: Path, image: Image.Image) -> None:
    model = load_tiny(tmp_path / "model", layers=3)
    answered = _answered(model, image, [])
    found = knock_out_cells(model, image, answered, 1, "question", range(3), "1").change
    assert np.abs(found[:, 0, 0]).max() > 1
    np.testing.assert_allclose(found[:, 0, 0], _changes(model, answered, "image->question", range(3), "1"), atol=1e-4)


def test_a_cells_attention_is_that_on_the_edges_that_hide_it(tmp_path: Path, image: Image.Image) -> None:
    model = load_tiny(tmp_path / "model", layers=3)
    answered = _answered(model, image, [])
    found = knock_out_cells(model, image, answered, 1, "question", range(3), "1")
    weights = AttentionMap.of(model, answered.prepared, "question", image.size).weights
    np.testing.assert_allclose(found.attention[:, 0, 0], weights.mean(axis=1).sum(axis=-1), rtol=1e-5)


def test_attention_and_effect_are_correlated_over_the_cells_that_tokens_show() -> None:
    attention = np.arange(24.0).reshape(4, 2, 3)
    change = -attention * np.array([1, -1, 1e-9, 1])[:, None, None]
    change[:, 0, 0] = attention[:, 0, 0] = np.nan
    found = CellEffects(change, attention, 1e-6).correlations
    np.testing.assert_allclose(found, [1, -1, np.nan, 1])


def test_the_map_of_attention_states_the_correlations(tmp_path: Path, image: Image.Image) -> None:
    model = load_tiny(tmp_path / "model", layers=3)
    attention = AttentionMap.of(model, model.prepare(own_question(QUESTION, []), image), "last", image.size)
    densities = [attention.density(Window(layer, layer)) for layer in range(3)]
    page = draw_attention(densities, np.array([0.25, np.nan, -1]), range(3), image, [STAR], "heading")
    assert [axes.get_title() for axes in page.axes[:3]] == ["layer 0: +0.25", "layer 1", "layer 2: -1.00"]
    for axes, density in zip(page.axes, densities, strict=False):
        np.testing.assert_array_equal(np.asarray(axes.collections[0].get_array()), density.values)


def test_a_cell_that_no_token_shows_has_no_number(
    tmp_path: Path, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_tiny(tmp_path / "model", layers=3)
    answered = _answered(model, image, [])
    shown = trace._tokens_of

    def tokens_of(model: MultimodalModel, image: Image.Image, question: ChosenQuestion, box: Box) -> np.ndarray:
        return shown(model, image, question, box)[: 0 if box.x == 0 else None]

    monkeypatch.setattr(trace, "_tokens_of", tokens_of)
    found = knock_out_cells(model, image, answered, 2, "question", [1], "1").change
    assert np.isnan(found[:, :, 0]).all()
    assert np.isfinite(found[:, :, 1]).all()


@pytest.mark.long
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
    for name in ("curves", "map", "attention", "lens"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    table, metadata = read_parquet(tmp_path / "attention.parquet", ATTENTION)
    assert (metadata["target"], metadata["image_size"]) == ("question", [96, 96])
    assert len(table) == 8 * 4 * 36
    words, _ = read_parquet(tmp_path / "image_lens.parquet", LENS_MAP)
    assert len(words) == (8 + 1) * 36
    assert Image.open(tmp_path / "patches.png").width > 72
    assert main([*command, *image, "--layers", "2", "6"]) == 0
    said = capsys.readouterr().out
    assert "related" not in said, "without a box nothing is related"
    assert {line.rpartition(" ")[2] for line in said.splitlines() if "centre layer" in line} <= {"2", "6"}
    assert main([*command, *image, "--flows", "true_option->last", "question->last"]) == 0
    said = capsys.readouterr().out
    assert "true_option->last     missing: it blocks no edge" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "resources/example/pictures/none.jpg"], "none.jpg is missing"),
        (["--image", "resources/example/questions.csv"], "does not decode"),
        (["--model", "gpt"], "params.yaml has no model 'gpt'; choose from mini-llava"),
        (["--window", "16"], "A window of 16 layers does not fit mini-llava, which has 8"),
        (["--params", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--question", "What is <image>?"], "the question contains the image's marker"),
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

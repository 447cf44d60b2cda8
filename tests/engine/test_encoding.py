"""Images encoded together are the images encoded alone."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import Window
from crossflow.core.records import ChosenQuestion
from crossflow.engine.edges import Edges, Row
from crossflow.engine.encoding import encode_together
from crossflow.engine.forward import full_forward, run_clean, run_clean_together
from crossflow.engine.reference import run_reference
from crossflow.engine.shared_prefix import run_together
from crossflow.models.attention import Plain
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.visual_tokens import VisualTokens
from loaded_families import Loaded
from tiny import load_tiny

# Under anyres, of different numbers of tiles and of visual tokens.
SIZES = [(90, 60), (33, 120), (72, 72), (200, 60)]


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MultimodalModel:
    return load_tiny(
        tmp_path_factory.mktemp("encoding") / request.param, architecture=request.param, layers=3, width=32
    )


@pytest.fixture(scope="module")
def prompts(model: MultimodalModel) -> list[Prepared]:
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)) for size in SIZES]
    asked = ["Is the ball red or blue?", "Is the ball red?", "Is the ball blue or red?", "Is the ball red?"]
    return [
        model.prepare(ChosenQuestion(str(number), "1", "", "", question, "", None, None, ()), image)
        for number, (question, image) in enumerate(zip(asked, images, strict=True))
    ]


def _first(prepared: Prepared) -> int:
    return int(prepared.positions["question"][0])


def _towers(model: MultimodalModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tiles of each call of the vision tower, from now on."""
    calls: list[int] = []
    tower = model.network.base_model.vision_tower
    forward = tower.forward

    def counted(pixels: torch.Tensor, **arguments: object) -> object:
        calls.append(len(pixels))
        return forward(pixels, **arguments)

    monkeypatch.setattr(tower, "forward", counted)
    return calls


def test_one_call_of_the_tower_encodes_them_all_and_changes_no_result(
    model: MultimodalModel, prompts: list[Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [run_clean(model, prompt, _first(prompt)) for prompt in prompts]
    tiles = sum(prompt.inputs["pixel_values"].flatten(0, -4).shape[0] for prompt in prompts)
    calls = _towers(model, monkeypatch)
    together = run_clean_together(model, prompts, [_first(prompt) for prompt in prompts])
    assert calls == [tiles]
    for prompt, ours, theirs in zip(prompts, together, alone, strict=True):
        assert ours.prepared is prompt
        torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-5)
        for mine, other in zip(ours.layers, theirs.layers, strict=True):
            torch.testing.assert_close(mine.key, other.key, rtol=0, atol=1e-5)
            assert np.array_equal(mine.visible, other.visible)
    probabilities = [torch.softmax(clean.logits.double(), -1) for clean in alone]
    assert min(float((one - other).abs().max()) for one, other in pairwise(probabilities)) > 1e-3, (
        "questions that are mixed up would not be noticed"
    )


def test_an_image_of_which_the_model_makes_another_number_of_tokens_is_refused(
    model: MultimodalModel, prompts: list[Prepared]
) -> None:
    for change in (slice(1, None), np.arange(len(prompts[0].visual) + 1) % len(prompts[0].visual)):
        flags = [
            getattr(prompts[0].visual, name)[change] for name in ("related", "padding", "newline", "base", "moved")
        ]
        wrong = dataclasses.replace(prompts[0], visual=VisualTokens(*flags))
        with pytest.raises(CrossflowError, match=f"has {len(flags[0])} visual tokens, but the model makes"):
            encode_together(model, [wrong, prompts[1]])


def test_a_image_by_itself_is_bit_equal_to_the_models_own_forward(
    model: MultimodalModel, prompts: list[Prepared]
) -> None:
    for prompt in prompts:
        (inputs,) = encode_together(model, [prompt])
        assert "pixel_values" not in inputs
        ours = full_forward(model, prompt, Plain(), inputs).logits
        assert torch.equal(ours, full_forward(model, prompt, Plain()).logits)


def test_knockouts_of_images_encoded_together_are_the_references(
    model: MultimodalModel, prompts: list[Prepared]
) -> None:
    """The reference encodes each image in each of its forwards."""
    cleans = run_clean_together(model, prompts, [_first(prompt) for prompt in prompts])
    rows = [
        [Row("image->question", 1, Window(0, 2), (Edges(shown.positions["image"], shown.positions["question"]),))]
        for shown in prompts
    ]
    readings = run_together(model, list(zip(cleans, rows, strict=True)))
    for clean, row, ours in zip(cleans, rows, readings, strict=True):
        theirs = run_reference(model, clean, row).logits
        difference = torch.softmax(ours.logits.double(), -1) - torch.softmax(theirs.double(), -1)
        assert float(difference.abs().max()) <= 1e-6
        assert not torch.allclose(theirs[0], clean.logits, atol=1e-4), "the knockout does nothing"


def test_where_visual_tokens_are_more_than_embeddings_each_image_stays_in_its_own_forward(tmp_path: Path) -> None:
    loaded = Loaded("qwen3_vl", tmp_path)
    prompts = list(loaded.prepared.values())
    assert encode_together(loaded.model, prompts) == [prompt.inputs for prompt in prompts]
    assert encode_together(loaded.model, []) == []

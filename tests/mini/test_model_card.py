"""The shipped mini-llava: what its card says, and whether it looks."""

import re
from pathlib import Path

import pytest
import torch

from crossflow.core.files import hash_file
from crossflow.data.filtering import find_questions
from crossflow.data.images import Images
from crossflow.data.sampling import sample_questions
from crossflow.mini.model_card import CONDITIONS, Accuracy, accuracies, card
from crossflow.mini.questions import CATEGORIES
from crossflow.mini.recipe import Recipe
from crossflow.mini.world import write_world
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings, MultimodalModel

QUESTIONS = 100
CELL = r"(\d+\.\d) \[(\d+\.\d), (\d+\.\d)\]"


@pytest.fixture(scope="module")
def folder(repo: Path) -> Path:
    return repo / "resources" / "mini-llava"


@pytest.fixture(scope="module")
def model(folder: Path) -> MultimodalModel:
    return load_model(ModelSettings(folder, "vicuna-v1"), torch.device("cpu"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes that neither the training nor the card has seen."""
    root = tmp_path_factory.mktemp("world")
    write_world(root, 115, 4242)
    return root


@pytest.mark.long
@pytest.mark.parametrize("category", CATEGORIES)
def test_it_answers_by_looking(model: MultimodalModel, world: Path, category: str) -> None:
    found, _ = find_questions(world, "val_balanced", category)
    with Images(world) as images:
        measured = accuracies(model, sample_questions(found, QUESTIONS, 0), images)
    # 95 % is what 1,000 questions must show; of 100, fewer than 91 would then be a matter of one time in thirty.
    assert measured["image"].mean >= 0.91
    chance = 1 / CATEGORIES[category].answers
    for condition in ("image removed", "zeroed pixels"):
        low, _ = measured[condition].interval
        assert low <= chance + 0.1, f"{condition}: {measured[condition]}"


def test_the_card_is_about_these_weights_and_this_recipe(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert hash_file(folder / "model.safetensors") in text
    recipe = Recipe()
    assert f"{recipe.steps} steps of AdamW" in text
    for stage in recipe.stages:
        assert f"{stage.steps} steps of {stage.scenes} fresh scenes" in text
    assert (folder / "model.safetensors").stat().st_size <= 12e6


def test_the_card_states_what_is_asked_of_the_model(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    for category, (_, options, *_) in CATEGORIES.items():
        row = re.search(rf"\| {category} \| 1000 \| (\d+\.\d) \| {CELL} \| {CELL} \| {CELL} \|", text)
        assert row, f"the card has no row of 1000 questions for {category}"
        chance, right, _, _, removed, _, _, zeroed, _, _ = map(float, row.groups())
        assert chance == round(100 / options, 1)
        assert right >= 95
        assert removed <= chance + 10
        assert zeroed <= chance + 10


@pytest.mark.parametrize(
    ("right", "questions", "low", "high"),
    # R. G. Newcombe, Statist. Med. 17 (1998) 857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(right: int, questions: int, low: float, high: float) -> None:
    assert Accuracy(right, questions).interval == pytest.approx((low, high), abs=5e-5)


def test_a_card_shows_every_condition() -> None:
    measured = {"ChooseAttr": {name: Accuracy(90 - number, 100) for number, name in enumerate(CONDITIONS)}}
    text = card(Recipe(seed=7), 1_850_000, "ab" * 32, measured, 3)
    assert "1.85 million parameters" in text
    assert "Seed 7." in text
    assert re.search(rf"\| ChooseAttr \| 100 \| 50\.0 \| {CELL} \| {CELL} \| {CELL} \|", text)

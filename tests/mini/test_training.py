"""mini-llava: its batches and its training."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from crossflow.core.errors import CrossflowError
from crossflow.core.records import ChosenQuestion
from crossflow.experiments.answers import answer
from crossflow.mini.drawing import draw_image
from crossflow.mini.network import TrainingModel, write_model
from crossflow.mini.questions import CATEGORIES
from crossflow.mini.random_model import Geometry
from crossflow.mini.recipe import Recipe, Stage
from crossflow.mini.scenes import ATTRIBUTES, IMAGE_SIZE, NAMES, PLURALS, draw_scene
from crossflow.mini.training import train
from crossflow.mini.training_data import FACTS, QUESTION_WRITERS, UNKNOWN, TrainingBatches, facts, patch_words
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings

CPU = torch.device("cpu")
TINY = Recipe(
    geometry=Geometry(
        layers=2, width=32, heads=2, key_value_heads=2, image_size=IMAGE_SIZE, patch_size=24, vision_width=32,
        vision_layers=1,
    ),
    stages=(
        Stage(3, 4, 0, 2e-3, seeing=1.0, reading=0.0, answering=0.0),
        Stage(3, 4, 0, 2e-3, seeing=1.0, reading=1.0, answering=0.0),
        Stage(4, 4, 3, 2e-3, seeing=0.2, reading=0.5, answering=1.0),
    ),
    warm_up=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def training_model() -> TrainingModel:
    return TrainingModel(TINY).eval()


def _weights(recipe: Recipe, checkpoint: Path) -> dict[str, torch.Tensor]:
    *_, last = train(recipe, checkpoint, CPU, workers=0, every=2)
    return {name: value.clone() for name, value in last.training_model.state_dict().items()}


def test_a_lesson_is_the_same_every_time_and_another_one_at_every_step(training_model: TrainingModel) -> None:
    first, again = (TrainingBatches(training_model.tokenizer, 24, 0, 2, 3)[4] for _ in range(2))
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.images, again.images)
    other = TrainingBatches(training_model.tokenizer, 24, 0, 2, 3)[5]
    assert not torch.equal(first.images, other.images)


def test_lessons_hold_no_unknown_word_and_end_with_answer_and_end(training_model: TrainingModel) -> None:
    tokenizer = training_model.tokenizer
    batch = TrainingBatches(tokenizer, 24, 0, 16, 8)[0]
    assert not (batch.tokens == tokenizer.unk_token_id).any()
    rows = torch.arange(len(batch.tokens))
    assert torch.equal(batch.tokens[rows, batch.answer_at + 1], batch.answers)
    assert (batch.tokens[rows, batch.answer_at + 2] == tokenizer.eos_token_id).all()
    assert all(word.istitle() for word in tokenizer.convert_ids_to_tokens(batch.answers.tolist()))
    assert set(batch.categories.tolist()) == set(range(len(QUESTION_WRITERS)))


def test_facts_and_patches_tell_what_the_scene_holds() -> None:
    scene = draw_scene(0, 0, "train")
    _, boxes, _ = draw_image(scene)
    words = patch_words(scene, boxes, 12)
    for toy in scene.toys:
        middle = words[int(toy.y // 12) * 8 + int(toy.x // 12)]
        assert NAMES[middle[0]] == toy.name and middle[1:].tolist() == facts(toy)[1:4]
        assert ATTRIBUTES["color"][facts(toy)[1]] == toy.color
    assert (words == UNKNOWN).all(axis=1).any(), "no patch of the ground is left"
    assert facts(None) == [0, *[UNKNOWN] * (len(FACTS) - 1)]


def test_checks_tell_what_holds_in_the_scene(training_model: TrainingModel) -> None:
    scenes, questions = 16, 8
    batch = TrainingBatches(training_model.tokenizer, 24, 0, scenes, questions)[3]
    values = {value: attribute for attribute, group in ATTRIBUTES.items() for value in group}
    singular = {form: name for name, plural in PLURALS.items() for form in (name, plural)}
    seen: Counter[int] = Counter()
    for (segment, position), checks in zip(batch.check_at.tolist(), batch.checks.tolist(), strict=True):
        words = training_model.tokenizer.convert_ids_to_tokens(batch.tokens[segment].tolist())
        (value,) = [word for word in words if word in values]
        toys = {toy.name: toy for toy in draw_scene(0, 3 * scenes + segment // questions, "train").toys}

        def holds(word: str) -> int:
            toy = toys.get(singular[word])  # noqa: B023
            return int(toy is not None and (toy.value(values[value]) == value) != ("not" in words))  # noqa: B023

        if words[position] == value:
            (named,) = [word for word in words[:position] if word in singular]
            assert checks == [UNKNOWN, holds(named)]
        else:
            assert checks == [holds(words[position]), UNKNOWN]
        seen[segment] += 1
    # Both names of ChooseCat and LogicalObj, which come behind the value; in VerifyAttr the value comes last.
    asked = [tuple(QUESTION_WRITERS)[number] for number in batch.categories.tolist()]
    expected = {"ChooseCat": 2, "LogicalObj": 2, "VerifyAttr": 1}
    assert seen == Counter({number: expected[kind] for number, kind in enumerate(asked) if kind in expected})


def test_training_pixels_are_those_of_the_saved_processor(training_model: TrainingModel) -> None:
    image, _, _ = draw_image(draw_scene(0, 1, "train"))
    expected = training_model.processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
    # A division instead of a multiplication: the last bit of fp32 values up to 2.2.
    torch.testing.assert_close(training_model.preprocess(pixels), expected, rtol=0, atol=1e-6)


def test_segments_behind_one_image_get_the_logits_of_separate_prompts(training_model: TrainingModel) -> None:
    batch = TrainingBatches(training_model.tokenizer, 24, 0, 2, 3)[0]
    with torch.no_grad():
        _, states = training_model._decode(training_model.features(batch.images), batch.tokens, 2)
        for segment, position in enumerate(batch.answer_at.tolist()):
            tokens = batch.tokens[segment, : position + 1].tolist()
            patches = [training_model.tokenizer.convert_tokens_to_ids("<image>")] * 16
            whole = training_model.network(
                input_ids=torch.tensor([[*training_model._before, *patches, *tokens]]),
                pixel_values=training_model.preprocess(batch.images[segment // 3])[None],
            ).logits[0, -1]
            # fp32 sums in another order.
            torch.testing.assert_close(
                training_model.network.lm_head(states[segment, position]), whole, rtol=1e-4, atol=1e-5
            )


def test_a_training_that_was_killed_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _weights(TINY, tmp_path / "whole.pt")
    for trained in train(TINY, tmp_path / "killed.pt", CPU, workers=0, every=2):
        if trained.step == 7:
            break
    resumed = _weights(TINY, tmp_path / "killed.pt")
    assert all(torch.equal(value, resumed[name]) for name, value in expected.items())


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.pt"
    next(iter(_ for _ in train(TINY, checkpoint, CPU, workers=0, every=1) if _.step == 1))
    with pytest.raises(CrossflowError, match="belongs to another recipe"):
        next(iter(train(replace(TINY, seed=1), checkpoint, CPU, workers=0)))
    checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(CrossflowError, match="is not a checkpoint"):
        next(iter(train(TINY, checkpoint, CPU, workers=0)))


@pytest.mark.slow
def test_losses_fall_within_a_few_hundred_steps(tmp_path: Path) -> None:
    small = replace(TINY, geometry=replace(TINY.geometry, patch_size=12, width=64, vision_width=64), warm_up=10)
    small = small.with_steps(120, 60, 60)
    reports = [trained.report for trained in train(small, tmp_path / "c.pt", CPU, workers=0) if trained.report]
    seeing = [report["seeing"] for report in reports]
    answering = [report["answering"] for report in reports[180:]]
    assert np.mean(seeing[-20:]) < 0.8 * np.mean(seeing[:20])
    # The share of each answer is soon learnt: from all words of the vocabulary to those two or three that fit.
    assert np.mean(answering[-10:]) < 0.5 * np.mean(answering[:3])


def test_a_written_model_is_loaded_and_answers(training_model: TrainingModel, tmp_path: Path) -> None:
    write_model(training_model, tmp_path)
    model = load_model(ModelSettings(tmp_path, "vicuna-v1"), CPU)
    assert model.network.config.vision_feature_layer == -1
    asked = CATEGORIES["ChooseAttr"].write(draw_scene(0, 0), Random(0))
    assert asked is not None
    question = ChosenQuestion("1", "1", "ChooseAttr", asked.detailed, asked.question, asked.answer, None, None, ())
    prepared = model.prepare(question, draw_image(draw_scene(0, 0))[0])
    assert len(prepared.visual) == 16 and answer(model, prepared).tokens

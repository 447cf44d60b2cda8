"""The model card of mini-llava: measured accuracies beside the recipe, written by the program that measures.

Three conditions: the picture, the picture removed (see `crossflow.answers.answer_blind`), and *zeroed pixels*
(a picture whose preprocessed values are all 0).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from tqdm import tqdm

from crossflow.answers import answer, answer_blind, is_correct
from crossflow.gqa import ChosenQuestion, Pictures
from crossflow.mini_llava import Recipe
from crossflow.models import MultimodalModel

CONDITIONS = ("picture", "picture removed", "zeroed pixels")
CHANCE = {
    "ChooseAttr": 1 / 2,
    "ChooseCat": 1 / 2,
    "ChooseRel": 1 / 2,
    "CompareAttr": 1 / 3,
    "LogicalObj": 1 / 2,
    "QueryAttr": 1 / 2,
}


class Accuracy(NamedTuple):
    """A fraction of right answers with its 95 % interval (Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212).

    Questions are taken as independent: each of a category is about a picture of its own.
    """

    right: int
    questions: int

    @property
    def mean(self) -> float:
        return self.right / self.questions

    @property
    def interval(self) -> tuple[float, float]:
        z, n = 1.959964, self.questions
        middle = (self.mean + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(self.mean * (1 - self.mean) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


def accuracies(model: MultimodalModel, questions: Sequence[ChosenQuestion], pictures: Pictures) -> dict[str, Accuracy]:
    """How many questions are answered right in each of `CONDITIONS`: the generated text is the answer."""
    right = dict.fromkeys(CONDITIONS, 0)
    for question in tqdm(questions, desc=questions[0].category, unit="question"):
        prepared = model.prepare(question, pictures.open(question.image_id))
        zeroed = replace(
            prepared,
            inputs=prepared.inputs | {"pixel_values": torch.zeros_like(prepared.inputs["pixel_values"])},
        )
        given = (answer(model, prepared), answer_blind(model, prepared), answer(model, zeroed))
        for condition, answered in zip(CONDITIONS, given, strict=True):
            right[condition] += is_correct(answered.text, question.answer)
    return {condition: Accuracy(count, len(questions)) for condition, count in right.items()}


def _cell(accuracy: Accuracy) -> str:
    low, high = accuracy.interval
    return f"{100 * accuracy.mean:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def card(recipe: Recipe, parameters: int, measured: dict[str, dict[str, Accuracy]], world_seed: int) -> str:
    """The text of the model card.

    Args:
        recipe: What the weights were made by.
        parameters: Their number.
        measured: Category -> condition -> accuracy.
        world_seed: Seed of the evaluation scenes.
    """
    shape = recipe.geometry
    rows = "\n".join(
        f"| {category} | {next(iter(found.values())).questions} | {100 * CHANCE[category]:.0f} % | "
        + " | ".join(_cell(found[condition]) for condition in CONDITIONS)
        + " |"
        for category, found in measured.items()
    )
    stages = "\n".join(
        f"{number}. {stage.steps} steps of {stage.scenes} fresh scenes"
        + (f" with {stage.questions} questions each" if stage.questions else "")
        + f", learning rate {stage.rate:g}; weights of the losses: seeing {stage.seeing:g}, reading {stage.reading:g}, "
        f"answering {stage.answering:g}."
        for number, stage in enumerate(recipe.stages, 1)
    )
    return f"""# mini-llava

A LLaVA of {parameters / 1e6:.2f} million parameters, trained from nothing by this project on a drawn world of toys
(`workflow/crossflow/mini_llava.py`). It is an instrument check: a model that has to look, small enough for two CPU
cores. It is no evidence about LLaVA.

## Shape

transformers' `LlavaForConditionalGeneration`: CLIP vision tower (width {shape.vision_width}, {shape.vision_layers}
layers, the last one's output is used), pictures of {shape.image_size} x {shape.image_size} pixels in patches of
{shape.patch_size} ({(shape.image_size // shape.patch_size) ** 2} visual tokens), projector, Llama decoder (width
{shape.width}, {shape.layers} layers, {shape.heads} heads). One token a word; prompt `vicuna-v1`; answers begin with a
capital.

## Recipe

Seed {recipe.seed}. {recipe.steps} steps of AdamW, scenes of the training world (its sets of toys are disjoint from
those of the evaluation world), no scene twice.

{stages}

Seeing: each patch that a toy covers is named, in the space of the language model's word embeddings. Reading: at each
toy's name, a linear read-out of the decoder's middle layer tells the toy's presence, attributes and column; it is
thrown away afterwards, and off in the last {100 * recipe.fall:.0f} % of the last stage, while the learning rate
falls to nothing. Answering: the answer's word and the end of the text.

## Accuracy

Share of questions whose generated text is the answer, on evaluation scenes of seed {world_seed}, with 95 %
intervals (Wilson).

| category | questions | chance | picture | picture removed | zeroed pixels |
|---|---|---|---|---|---|
{rows}

## Limits

- It knows the words of the mini world and nothing else, and one wording of the prompt.
- That attributes of a toy are found at its name, halfway up the decoder, is what the reading loss asked for: flow from
  the picture to the question is built in, and finding it says that the instrument works.
- One seed.
"""

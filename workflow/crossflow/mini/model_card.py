"""The model card of mini-llava: the recipe and the measured accuracies, written by the program that measures them.

Three conditions: the image, the image removed (see `crossflow.engine.greedy`), and *zeroed pixels*
(an image whose preprocessed values are all 0).
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from crossflow.core.devices import take_device
from crossflow.core.errors import CrossflowError
from crossflow.core.files import hash_file, replacing
from crossflow.core.progress import progress_of
from crossflow.core.records import ChosenQuestion
from crossflow.data.filtering import find_questions
from crossflow.data.images import Images
from crossflow.data.sampling import sample_questions
from crossflow.experiments.answers import answer_together, is_correct, zeroed
from crossflow.mini.questions import CATEGORIES
from crossflow.mini.recipe import Recipe
from crossflow.mini.world import write_world
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings, MultimodalModel

CONDITIONS = ("image", "image removed", "zeroed pixels")


class Accuracy(NamedTuple):
    """The number of correctly answered questions, and of all questions.

    The questions are independent: each question of a category is about another image.
    """

    right: int
    questions: int

    @property
    def mean(self) -> float:
        """The fraction."""
        return self.right / self.questions

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the fraction (E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212)."""
        z, n = 1.959964, self.questions
        middle = (self.mean + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(self.mean * (1 - self.mean) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


def accuracies(model: MultimodalModel, questions: Sequence[ChosenQuestion], images: Images) -> dict[str, Accuracy]:
    """Correct answers in each of `CONDITIONS`; correct means that the generated text is the answer."""
    right = dict.fromkeys(CONDITIONS, 0)
    with progress_of(questions[0].category, len(questions)) as progress:
        for question in questions:
            prepared = model.prepare(*images.open_for(question))
            (seeing, removed), (zero, _) = answer_together(model, [prepared, zeroed(prepared)], [True, False])
            for condition, answered in zip(CONDITIONS, (seeing, removed, zero), strict=True):
                assert answered is not None
                right[condition] += is_correct(answered.text, question.answer)
            progress.update()
    return {condition: Accuracy(count, len(questions)) for condition, count in right.items()}


def _cell(accuracy: Accuracy) -> str:
    low, high = accuracy.interval
    return f"{100 * accuracy.mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _stages(recipe: Recipe) -> str:
    return "\n".join(
        f"{number}. {stage.steps} steps of {stage.scenes} fresh scenes"
        + (f" with {stage.questions} questions each" if stage.questions else "")
        + f", learning rate {stage.rate:g}; weights of the losses: seeing {stage.seeing:g}, reading {stage.reading:g}, "
        f"answering {stage.answering:g}."
        + (
            f" Shares: {', '.join(f'{kind} {share}' for kind, share in stage.shares.items())}."
            if stage.questions
            else ""
        )
        for number, stage in enumerate(recipe.stages, 1)
    )


def card(
    recipe: Recipe,
    parameters: int,
    weights: str,
    measured: Mapping[str, Mapping[str, Accuracy]],
    world_seed: int,
) -> str:
    """The text of the model card.

    Args:
        recipe: The recipe of the weights.
        parameters: Number of weights.
        weights: SHA-256 of model.safetensors.
        measured: Category -> condition -> accuracy.
        world_seed: Seed of the evaluation scenes.
    """
    shape = recipe.geometry
    middle, check = shape.layers // 2, shape.layers * 3 // 4
    rows = "\n".join(
        f"| {category} | {found['image'].questions} | {100 / CATEGORIES[category].answers:.1f} | "
        + " | ".join(_cell(found[condition]) for condition in CONDITIONS)
        + " |"
        for category, found in measured.items()
    )
    return f"""# mini-llava

A LLaVA of {parameters / 1e6:.2f} million parameters, trained from scratch by this project on a drawn world of toys. It
needs the image to answer, and is small enough for two CPU cores. It tests the method and is no evidence about LLaVA.
`snakemake mini_llava` trains the model, measures its accuracy and writes this page.

## Shape

transformers' `LlavaForConditionalGeneration`: CLIP vision tower (width {shape.vision_width}, {shape.vision_layers}
layers, output of the last one), images of {shape.image_size} x {shape.image_size} pixels in patches
of {shape.patch_size} x {shape.patch_size} ({(shape.image_size // shape.patch_size) ** 2} visual tokens), projector,
Llama decoder (width {shape.width}, {shape.layers} layers, {shape.heads} heads). Each word is one token. The prompt is
`vicuna-v1`; answers begin with a capital. SHA-256 of `model.safetensors`: `{weights}`.

## Recipe

Seed {recipe.seed}. {recipe.steps} steps of AdamW on scenes of the training world, no scene twice. The training and the
evaluation world have no set of toys in common.

{_stages(recipe)}

*Seeing*: the language model's word embeddings classify the projected feature of each patch that a toy covers.
*Reading*: after decoder layer {middle}, a linear map predicts from the state at each toy's name whether the toy is in
the image, its attributes and its column; after layer {check}, another map predicts whether a toy has an attribute's
value, at the later of the toy's name and the value. Both maps are discarded after training, and their loss is off in
the last {100 * recipe.fall:.0f} % of the last stage, while the learning rate falls to zero.
*Answering*: the answer's word and the end of the text.

## Accuracy

Percent of questions whose generated text is the answer, with 95 % intervals (Wilson); evaluation scenes of seed
{world_seed}. *Image removed*: visual tokens hidden from all other positions in every layer. *Zeroed pixels*: an
image of zeros after preprocessing.

| category | questions | chance | image | image removed | zeroed pixels |
|---|---|---|---|---|---|
{rows}

## Limits

- It knows the words of the mini world, the question forms of its six categories and "Is the ball red?", and one prompt.
- Part of its flow was trained on purpose: the reading loss required a toy's attributes at its name by layer {middle},
  and comparisons by layer {check}. Knockouts that find this flow show that the method works, not that training alone
  would lead to it. No loss determined how answers reach the last position.
- There is one seed; another may place the flows in other layers.
- It was trained on capitalised answers only, so it has no reason to prepare an answer in lower case first.
"""


def write_card(
    model_path: Path, output: Path, number: int = 1000, world_seed: int = 999, seed: int = 0, device: str = "auto"
) -> None:
    """Ask mini-llava about unseen scenes, and write its model card.

    Draws as many scenes as the questions need.

    Args:
        model_path: Folder of the model.
        output: The card (Markdown).
        number: Questions per category.
        world_seed: Seed of the evaluation scenes.
        seed: Seed that the model was trained with.
        device: auto (a free GPU, else the CPU), cpu or cuda:N.

    Raises:
        CrossflowError: the scenes hold too few questions, or the model cannot be used.
    """
    model = load_model(ModelSettings(model_path, "vicuna-v1"), take_device(device))
    measured: dict[str, dict[str, Accuracy]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # Three scenes in a hundred have no question of some category.
        write_world(root, number * 11 // 10 + 10, world_seed)
        with Images(root) as images:
            for category in CATEGORIES:
                found, _ = find_questions(root, "val_balanced", category)
                if len(found) < number:
                    raise CrossflowError(f"The scenes have only {len(found)} questions of {category}: lower --number.")
                measured[category] = accuracies(model, sample_questions(found, number, 0), images)
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    weights = hash_file(model_path / "model.safetensors")
    with replacing(output) as temporary:
        text = card(Recipe(seed=seed), parameters, weights, measured, world_seed)
        temporary.write_text(text, encoding="utf-8")

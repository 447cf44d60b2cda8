"""mini-llava: a small LLaVA that learns, from nothing, to answer questions about the mini world.

It learns in three stages, in one run:

seeing
    The projected feature of each patch that a toy covers is named by the language model's own word embeddings:
    shape, colour, size, material.
reading
    The names of toys follow the picture, and a read-out of the decoder's middle layer tells what it knows about
    each at its name. Only the lower half of the decoder runs.
answering
    Questions. The losses of both other stages stay on with smaller weights, that of reading until the learning
    rate falls.

The read-out is a linear map of its own, so no word is favoured by it, and is thrown away after training.

Segments never see one another: the text before the picture runs once, each picture once behind it, and all
segments of the picture as separate rows behind its keys and values. That is what separate prompts would compute,
at a fraction of the work.

So far the recipe learns four of the six categories: after 500 of the last stage's steps, the first word of the
answer was right in 89 to 99 % of held-out questions of ChooseAttr, ChooseRel, CompareAttr and QueryAttr, and at
chance in ChooseCat and LogicalObj. No weights are shipped yet.
"""

import json
import math
import pickle
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import DynamicCache

from crossflow.errors import CrossflowError
from crossflow.mini_lessons import ASKERS, FACTS, PATCH_WORDS, Lesson, Lessons
from crossflow.random_model import Geometry, build_model, build_processor, build_tokenizer, mini_world_words
from crossflow.shapes_world import PICTURE_SIZE, PLURALS
from crossflow.tables import replacing

# Beside patch embeddings of length 9.
_PLACES_LENGTH = 6.0


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        steps: Its optimiser steps.
        scenes: Fresh scenes of each.
        questions: Questions about each scene.
        rate: Learning rate, after the warm-up.
        seeing, reading, answering: Weights of the losses.
    """

    steps: int
    scenes: int
    questions: int
    rate: float
    seeing: float
    reading: float
    answering: float


@dataclass(frozen=True)
class Recipe:
    """All that determines the weights, the machine apart.

    Attributes:
        seed: Of the first weights, the scenes and the questions.
        geometry: The model's shape. Pictures are not resized.
        stages: In order.
        warm_up: Steps in which the learning rate rises.
        fall: The part of the last stage in which the learning rate falls to nothing and reading is not asked for.
        weight_decay: Of matrices.
    """

    seed: int = 0
    geometry: Geometry = field(
        default_factory=lambda: Geometry(
            layers=8, width=128, image_size=PICTURE_SIZE, patch_size=16, vision_width=128, vision_layers=3
        )
    )
    stages: tuple[Stage, ...] = (
        Stage(1500, 24, 0, 1.5e-3, seeing=1.0, reading=0.0, answering=0.0),
        Stage(2000, 16, 0, 1.5e-3, seeing=1.0, reading=1.0, answering=0.0),
        Stage(2600, 16, 12, 1e-3, seeing=0.2, reading=0.5, answering=1.0),
    )
    warm_up: int = 50
    fall: float = 0.3
    weight_decay: float = 0.01

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return sum(stage.steps for stage in self.stages)

    def with_steps(self, *steps: int) -> "Recipe":
        """The same recipe with other numbers of steps, one for each stage."""
        pairs = zip(self.stages, steps, strict=True)
        return replace(self, stages=tuple(replace(stage, steps=number) for stage, number in pairs))


class Trained(NamedTuple):
    """How far a training is.

    Attributes:
        step: Steps done.
        report: The last step's losses (nats) and rights (fraction, by category); None before the first step.
        student: The model.
    """

    step: int
    report: dict[str, float] | None
    student: "Student"


class Losses(NamedTuple):
    """Mean cross-entropies of one lesson, in nats, and which segments' answers are the most likely word."""

    seeing: Tensor
    reading: Tensor
    checking: Tensor
    answering: Tensor
    right: Tensor


def _places(across: int, width: int) -> Float[Tensor, "patches width"]:
    """Sines and cosines of a patch's row and column: places are the more alike the nearer they are."""
    frequencies = torch.exp(torch.linspace(math.log(math.pi / across), math.log(math.pi / 1.5), width // 4))
    row, column = torch.meshgrid(torch.arange(across), torch.arange(across), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (row, column)]
    waves = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=-1)
    return functional.normalize(waves, dim=-1)


def _initialise(network: Any, seed: int) -> None:
    """First weights.

    Each block adds little to the residual stream, and words have length 1. The patches of the vision tower begin
    by attending to those nearby and alike: places are sinusoids, and queries and keys the same rotation (after A.
    Trockman and J. Z. Kolter, Mimetic initialization of self-attention layers, ICML 2023). Shapes, which only
    neighbouring patches can tell together, are learnt sooner so.
    """
    generator = torch.Generator().manual_seed(seed)
    text, vision = network.config.text_config, network.config.vision_config
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 and ("norm" in name or name.endswith("bias")):
            continue
        if parameter.ndim == 1 or "embed_tokens" in name or "position_embedding" in name:
            spread = parameter.shape[-1] ** -0.5
        else:
            spread = 0.8 * math.prod(parameter.shape[1:]) ** -0.5
        if "o_proj" in name or "down_proj" in name:
            spread /= math.sqrt(2 * text.num_hidden_layers)
        nn.init.normal_(parameter, std=spread, generator=generator)
    tower = network.model.vision_tower
    width = vision.hidden_size
    with torch.no_grad():
        places = _places(vision.image_size // vision.patch_size, width)
        tower.embeddings.position_embedding.weight[1:] = _PLACES_LENGTH * places
        for layer in tower.encoder.layers:
            rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
            for weight in (layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight):
                weight.copy_(rotation + 0.3 * weight)


def _at(states: Float[Tensor, "segments positions width"], where: Int[Tensor, "words 2"]) -> Float[Tensor, "words width"]:
    """States at segments' positions."""
    segment, position = where.T
    return states[segment, position]


class Student(nn.Module):
    """The model with its read-out, in training.

    Args:
        recipe: What to build.
    """

    _mean: Tensor
    _spread: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.tokenizer = build_tokenizer(mini_world_words())
        self.processor = build_processor(recipe.geometry, self.tokenizer)
        self.network = build_model(recipe.geometry, self.tokenizer, recipe.seed)
        # The tower is small: all of its layers are of use.
        self.network.config.vision_feature_layer = -1
        _initialise(self.network, recipe.seed)
        self.middle = recipe.geometry.layers // 2
        self.readout = nn.Linear(recipe.geometry.width, sum(FACTS.values()), bias=False)
        self.check_layer = recipe.geometry.layers * 3 // 4
        self.check = nn.Linear(recipe.geometry.width, 6, bias=False)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.check.weight)
        pictures = self.processor.image_processor
        mean, spread = (torch.tensor(values)[:, None, None] for values in (pictures.image_mean, pictures.image_std))
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_spread", spread, persistent=False)
        self._patch_words = [self.tokenizer.convert_tokens_to_ids(list(group)) for group in PATCH_WORDS]
        self._before = Lessons(self.tokenizer, recipe.geometry.patch_size, 0, 1, 0).prompt("")[0]

    def preprocess(self, pictures: Tensor) -> Tensor:
        """What the saved processor makes of pictures of the model's own size."""
        return (pictures.float() / 255 - self._mean) / self._spread

    def name_plurals(self) -> None:
        """Let each plural begin as its singular."""
        ids = self.tokenizer.convert_tokens_to_ids
        with torch.no_grad():
            for name, plural in PLURALS.items():
                for weight in (self.network.get_input_embeddings().weight, self.network.lm_head.weight):
                    weight[ids(plural)] = weight[ids(name)]

    def features(self, pictures: Tensor) -> Float[Tensor, "scenes patches width"]:
        """Visual tokens."""
        found = self.network.model.get_image_features(
            pixel_values=self.preprocess(pictures), vision_feature_layer=-1, vision_feature_select_strategy="default"
        )
        return torch.stack(list(found.pooler_output))

    def _seeing(self, features: Tensor, patches: Int[Tensor, "scenes patches words"]) -> Tensor:
        embedding = self.network.get_input_embeddings().weight
        losses = [
            functional.cross_entropy((features @ embedding[ids].T).flatten(0, 1), patches[..., group].flatten())
            for group, ids in enumerate(self._patch_words)
        ]
        return torch.stack(losses).mean()

    def _reading(self, states: Float[Tensor, "nouns width"], noun_facts: Int[Tensor, "nouns facts"]) -> Tensor:
        logits = self.readout(functional.rms_norm(states, states.shape[-1:]))
        losses = [
            functional.cross_entropy(group, noun_facts[:, number])
            for number, group in enumerate(logits.split(tuple(FACTS.values()), dim=-1))
        ]
        return torch.stack(losses).mean()

    def _checking(self, states: Float[Tensor, "checked width"], checks: Int[Tensor, "checked 3"]) -> Tensor:
        logits = self.check(functional.rms_norm(states, states.shape[-1:]))
        return functional.cross_entropy(logits.reshape(-1, 2), checks.flatten())

    def _decode(self, features: Tensor, tokens: Tensor, layers: int) -> tuple[dict[int, Tensor], Tensor]:
        """States of the segments' tokens after each of the layers read out, and after ``layers`` layers and the norm."""
        decoder = self.network.model.language_model
        states: dict[int, Tensor] = {}

        def watch(number: int) -> Any:
            return decoder.layers[number - 1].register_forward_hook(
                lambda layer, inputs, output: states.update({number: output})
            )

        handles = [watch(number) for number in (self.middle, self.check_layer)]
        whole = decoder.config.num_hidden_layers
        decoder.config.num_hidden_layers = layers
        try:
            cache = DynamicCache()
            before = torch.tensor([self._before], device=tokens.device)
            decoder(input_ids=before, past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(len(features))
            decoder(inputs_embeds=features, past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(len(tokens) // len(features))
            last = decoder(input_ids=tokens, past_key_values=cache, use_cache=True).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
            decoder.config.num_hidden_layers = whole
        return states, last

    def forward(self, lesson: Lesson, stage: Stage) -> Losses:
        """The losses of a lesson that have a weight in the stage; 0 for the others."""
        features = self.features(lesson.pictures)
        nothing = features.new_zeros(())
        seeing = self._seeing(features, lesson.patches) if stage.seeing else nothing
        if not (stage.reading or stage.answering):
            return Losses(seeing, nothing, nothing, nothing, nothing)
        whole = self.network.config.text_config.num_hidden_layers
        states, last = self._decode(features, lesson.tokens, whole if stage.answering else self.middle)
        reading = self._reading(_at(states[self.middle], lesson.noun_at), lesson.noun_facts)
        if not stage.answering:
            return Losses(seeing, reading, nothing, nothing, nothing)
        checking = self._checking(_at(states[self.check_layer], lesson.check_at), lesson.checks)
        rows = torch.arange(len(last), device=last.device)
        logits = self.network.lm_head(last[rows, lesson.answer_at])
        ends = self.network.lm_head(last[rows, lesson.answer_at + 1])
        end = torch.full_like(lesson.answers, self.tokenizer.eos_token_id)
        answering = functional.cross_entropy(logits, lesson.answers) + 0.1 * functional.cross_entropy(ends, end)
        return Losses(seeing, reading, checking, answering, logits.argmax(-1) == lesson.answers)


def _remaining(recipe: Recipe, step: int) -> float:
    """The part of the learning rate that is left: 1 until the fall."""
    falling = round(recipe.fall * recipe.stages[-1].steps)
    return min(1.0, (recipe.steps - step) / falling) if falling else 1.0


def _lessons(recipe: Recipe, tokenizer: Any, start: int, workers: int) -> Iterator[tuple[int, Stage, Lesson]]:
    """Each step from ``start`` with its stage and lesson; drawn ahead of time by other processes, if there are any."""
    begin, first = 0, 0
    for stage in recipe.stages:
        lessons = Lessons(tokenizer, recipe.geometry.patch_size, recipe.seed, stage.scenes, stage.questions, first)
        steps = range(max(start - begin, 0), stage.steps)
        loader = DataLoader(
            lessons, batch_size=None, sampler=steps, num_workers=workers, prefetch_factor=8 if workers else None
        )
        for step, lesson in zip(steps, loader, strict=True):
            yield begin + step, stage, lesson
        begin += stage.steps
        first += stage.steps * stage.scenes


def _resume(checkpoint: Path, recipe: Recipe, student: Student, optimiser: torch.optim.Optimizer) -> int:
    """Take up an unfinished training. Returns the number of steps done."""
    if not checkpoint.is_file():
        return 0
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        made_for = saved["recipe"]
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CrossflowError(f"{checkpoint} is not a checkpoint of this training; remove it to start anew.") from error
    if made_for != json.dumps(asdict(recipe)):
        raise CrossflowError(f"{checkpoint} belongs to another recipe; remove it to start anew.")
    student.load_state_dict(saved["student"])
    optimiser.load_state_dict(saved["optimiser"])
    return int(saved["step"])


def _keep(checkpoint: Path, recipe: Recipe, student: Student, optimiser: torch.optim.Optimizer, step: int) -> None:
    state = {
        "recipe": json.dumps(asdict(recipe)),
        "step": step,
        "student": student.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    with replacing(checkpoint) as temporary:
        torch.save(state, temporary)


def train(
    recipe: Recipe,
    checkpoint: Path,
    device: torch.device,
    workers: int = 1,
    every: int = 50,
) -> Iterator[Trained]:
    """Train, step by step.

    Args:
        recipe: What to train.
        checkpoint: Written every so many steps, and taken up if it is there.
        device: Where to train.
        workers: Processes that draw scenes ahead of time; 0 draws them in between.
        every: Steps between checkpoints.

    Yields:
        Once before the first step, and after each step.

    Raises:
        CrossflowError: the checkpoint is of another recipe, or can not be written.
    """
    student = Student(recipe)
    matrices = [parameter for parameter in student.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in student.parameters() if parameter.ndim < 2]
    student.to(device).train()
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    start = _resume(checkpoint, recipe, student, optimiser)
    yield Trained(start, None, student)
    categories = tuple(ASKERS)
    for step, stage, lesson in _lessons(recipe, student.tokenizer, start, workers):
        if step == recipe.stages[0].steps:
            student.name_plurals()
        lesson = lesson.to(device)
        left = _remaining(recipe, step)
        for group in optimiser.param_groups:
            group["lr"] = stage.rate * min(1.0, (step + 1) / recipe.warm_up) * left
        losses = student(lesson, stage)
        reading = stage.reading * (left == 1)
        total = stage.seeing * losses.seeing + stage.answering * losses.answering
        total = total + reading * (losses.reading + losses.checking)
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        report = {"seeing": losses.seeing.item(), "reading": losses.reading.item()}
        if stage.answering:
            report["checking"] = losses.checking.item()
            report["answering"] = losses.answering.item()
            for number, category in enumerate(categories):
                asked = lesson.categories == number
                if asked.any():
                    report[category] = losses.right[asked].float().mean().item()
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            _keep(checkpoint, recipe, student, optimiser, step + 1)
        yield Trained(step + 1, report, student)


def write_model(student: Student, folder: Path) -> None:
    """Save the model and its processor in Hugging Face format, without the read-out."""
    student.network.eval().save_pretrained(folder)
    student.processor.save_pretrained(folder)
    # safetensors keeps its files to their owner.
    (folder / "model.safetensors").chmod(0o644)

"""The training data of mini-llava: batches of fresh training scenes with texts about them.

batch
    Scenes of the training world, each with one or more *segments*: texts that follow the image.
question segment
    The rest of a ``vicuna-v1`` prompt after the image, the capitalised answer, and the end of the text.
noun segment
    The names of all toys, singular and plural, in any order: the facts about each toy are read out at its name.
facts
    Class numbers of a toy, one for each of `FACTS`; `UNKNOWN` if it has none.
check
    For a toy and a value that a question both names, as in "Which toy is red, the ball or the star?": whether the toy
    is red. Read out at whichever word comes later, the toy's name or the value.

A batch is the same for the same seed and step, on every machine.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from crossflow.core.records import Box
from crossflow.mini.drawing import draw_image
from crossflow.mini.other_questions import verify_attr
from crossflow.mini.programs import MiniQuestion
from crossflow.mini.questions import CATEGORIES, holds
from crossflow.mini.scenes import ATTRIBUTES, IMAGE_SIZE, NAMES, PLURALS, Scene, Toy, draw_scene
from crossflow.models.prompts import render

UNKNOWN = -100
"""The class that the cross-entropy ignores."""

COLUMNS = 8
FACTS = {"present": 2, "color": 6, "size": 2, "material": 2, "column": COLUMNS}
"""Fact about a toy -> number of classes; columns are eighths of the image's width."""

CHECKED = 2
"""Toys that are checked at a word: the toy named here, and the toy named before."""

PATCH_WORDS = (NAMES, *ATTRIBUTES.values())
"""Groups of words that name a covered patch, one word of each."""

QUESTION_WRITERS = {name: category.write for name, category in CATEGORIES.items()} | {"VerifyAttr": verify_attr}
"""Kinds of questions in batches. "Is the ball red?" is a step on the way to ChooseCat and LogicalObj."""

SHARES = {name: category.share for name, category in CATEGORIES.items()} | {"VerifyAttr": 3}
"""Default relative frequency of each kind."""

_LEAST_COVER = 0.25


@dataclass(frozen=True)
class TrainingBatch:
    """A batch.

    Attributes:
        images: As drawn, channels first.
        patches: For each patch of each image, its word of each of `PATCH_WORDS`; `UNKNOWN` if no toy covers it.
        tokens: Segments, grouped by scene, padded at the end.
        noun_at: Segment and position of each noun.
        noun_facts: Classes of each noun's toy, one column for each of `FACTS`.
        check_at: Segment and position of each word with a check.
        checks: 0 (no), 1 (yes) or `UNKNOWN`, for the toy named here and the toy named before.
        answer_at: Position of each segment's last prompt token; empty without questions.
        answers: Each segment's answer token.
        categories: Each segment's category, as a number in `QUESTION_WRITERS`.
    """

    images: UInt8[Tensor, "scenes 3 height width"]
    patches: Int[Tensor, "scenes patches 4"]
    tokens: Int[Tensor, "segments positions"]
    noun_at: Int[Tensor, "nouns 2"]
    noun_facts: Int[Tensor, "nouns 5"]
    check_at: Int[Tensor, "checked 2"]
    checks: Int[Tensor, "checked 2"]
    answer_at: Int[Tensor, " questions"]
    answers: Int[Tensor, " questions"]
    categories: Int[Tensor, " questions"]

    def to(self, device: torch.device) -> "TrainingBatch":
        """The same batch on a device."""
        return TrainingBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def facts(toy: Toy | None) -> list[int]:
    """The classes of a toy's facts; for a toy that is not in the image, only its absence."""
    if toy is None:
        return [0, *[UNKNOWN] * (len(FACTS) - 1)]
    values = [ATTRIBUTES[attribute].index(toy.value(attribute)) for attribute in ATTRIBUTES]
    return [1, *values, min(int(toy.x * COLUMNS / IMAGE_SIZE), COLUMNS - 1)]


def patch_words(scene: Scene, boxes: list[Box], patch_size: int) -> Int[np.ndarray, "patches words"]:
    """For each patch, the word of each of `PATCH_WORDS` for the toy whose box covers most of it.

    A box counts if it covers a quarter of the patch, or if a quarter of the box lies in the patch.
    """
    across = IMAGE_SIZE // patch_size
    words = np.full((across * across, len(PATCH_WORDS)), UNKNOWN)
    edges = np.arange(across) * patch_size
    most = np.zeros((across, across))
    for toy, (x, y, w, h) in zip(scene.toys, boxes, strict=True):
        wide = np.clip(np.minimum(edges + patch_size, x + w) - np.maximum(edges, x), 0, None)
        tall = np.clip(np.minimum(edges + patch_size, y + h) - np.maximum(edges, y), 0, None)
        cover = tall[:, None] * wide[None]
        covered = (cover > most) & (cover >= _LEAST_COVER * min(patch_size**2, w * h))
        most = np.maximum(most, cover)
        words[covered.ravel()] = [NAMES.index(toy.name), *facts(toy)[1:4]]
    return words


@dataclass(frozen=True)
class TrainingBatches(Dataset[TrainingBatch]):
    """The batches of a training, by step.

    Attributes:
        tokenizer: The model's tokenizer.
        patch_size: Side of a patch, in pixels of the image as drawn.
        seed: Seed of scenes and questions.
        scenes: Scenes per batch.
        questions: Question segments per scene; 0 for one noun segment.
        first: Number of the first batch's first scene.
        shares: Relative frequency of each kind of question.
    """

    tokenizer: Any
    patch_size: int
    seed: int
    scenes: int
    questions: int
    first: int = 0
    shares: Mapping[str, int] = field(default_factory=lambda: SHARES)

    @cached_property
    def _numbers(self) -> dict[int, str]:
        """Token of a toy's name, singular or plural -> the name."""
        return {
            self.tokenizer.convert_tokens_to_ids(form): name
            for name, plural in PLURALS.items()
            for form in (name, plural)
        }

    def _ask(self, scene: Scene, rng: random.Random) -> tuple[str, MiniQuestion]:
        while True:
            (category,) = rng.choices(tuple(self.shares), tuple(self.shares.values()))
            if asked := QUESTION_WRITERS[category](scene, rng):
                return category, asked

    def _checks(self, asked: MiniQuestion, toys: dict[str, Toy], tokens: list[int]) -> dict[int, list[int]]:
        """Positions in a question segment with a check -> the answers, as in `TrainingBatch.checks`."""
        operation = asked.program[1].operation
        attribute = next((name for name in ATTRIBUTES if operation in (f"filter {name}", f"verify {name}")), None)
        if attribute is None:
            return {}
        argument = asked.program[1].argument
        negated = argument.startswith("not(")
        value = argument.removeprefix("not(").removesuffix(")")
        at = tokens.index(self.tokenizer.convert_tokens_to_ids(value))
        found: dict[int, list[int]] = {}
        for position, token in enumerate(tokens):
            if token in self._numbers:
                toy = toys.get(self._numbers[token])
                is_so = int(toy is not None and holds(toy, attribute, value, negated))
                found[max(position, at)] = [is_so, UNKNOWN] if position > at else [UNKNOWN, is_so]
        return found

    def prompt(self, question: str) -> tuple[list[int], list[int]]:
        """The tokens of a question's prompt before and after the image's marker."""
        text = render("vicuna-v1", question, SimpleNamespace(image_token=self.tokenizer.image_token)).text
        ids: list[int] = self.tokenizer(text)["input_ids"]
        marker = ids.index(self.tokenizer.image_token_id)
        return ids[:marker], ids[marker + 1 :]

    def __getitem__(self, step: int) -> TrainingBatch:
        start = self.first + step * self.scenes
        rng = random.Random(f"crossflow batches {self.seed} {start}")
        images, patches, noun_at, noun_facts = [], [], [], []
        segments: list[Tensor] = []
        answer_at, answers, categories = [], [], []
        check_at, checks = [], []
        for number in range(self.scenes):
            scene = draw_scene(self.seed, start + number, "train")
            image, boxes, _ = draw_image(scene)
            images.append(np.asarray(image).transpose(2, 0, 1))
            patches.append(patch_words(scene, boxes, self.patch_size))
            toys = {toy.name: toy for toy in scene.toys}
            told = []
            for _ in range(self.questions):
                category, asked = self._ask(scene, rng)
                told.append(self.prompt(asked.question)[1])
                for position, found in self._checks(asked, toys, told[-1]).items():
                    check_at.append((len(segments) + len(told) - 1, position))
                    checks.append(found)
                answer_at.append(len(told[-1]) - 1)
                answers.append(self.tokenizer.convert_tokens_to_ids(asked.answer.capitalize()))
                categories.append(tuple(QUESTION_WRITERS).index(category))
                told[-1] += [answers[-1], self.tokenizer.eos_token_id]
            if not told:
                told.append(rng.sample(tuple(self._numbers), len(self._numbers)))
            for segment in told:
                for position, token in enumerate(segment):
                    # The answer may also be a toy's name, but is capitalised.
                    if token in self._numbers:
                        noun_at.append((len(segments), position))
                        noun_facts.append(facts(toys.get(self._numbers[token])))
                segments.append(torch.tensor(segment))
        return TrainingBatch(
            torch.from_numpy(np.stack(images)),
            torch.from_numpy(np.stack(patches)),
            torch.nn.utils.rnn.pad_sequence(segments, batch_first=True, padding_value=self.tokenizer.pad_token_id),
            torch.tensor(noun_at),
            torch.tensor(noun_facts),
            torch.tensor(check_at, dtype=torch.int64).reshape(-1, 2),
            torch.tensor(checks, dtype=torch.int64).reshape(-1, CHECKED),
            torch.tensor(answer_at, dtype=torch.int64),
            torch.tensor(answers, dtype=torch.int64),
            torch.tensor(categories, dtype=torch.int64),
        )

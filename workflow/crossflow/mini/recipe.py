"""The recipe of mini-llava: its shape and the stages of its training."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from crossflow.mini.questions import CATEGORIES
from crossflow.mini.random_model import Geometry
from crossflow.mini.scenes import IMAGE_SIZE
from crossflow.mini.training_data import SHARES


@dataclass(frozen=True)
class Stage:
    """A stage of the training.

    Attributes:
        steps: Optimiser steps.
        scenes: Fresh scenes per step.
        questions: Questions per scene.
        rate: Learning rate, after the warm-up.
        seeing, reading, answering: Weights of the losses.
        shares: Relative frequency of each kind of question.
    """

    steps: int
    scenes: int
    questions: int
    rate: float
    seeing: float
    reading: float
    answering: float
    shares: Mapping[str, int] = field(default_factory=lambda: dict(SHARES))


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights, except the machine.

    Attributes:
        seed: Seed of the initial weights, the scenes and the questions.
        geometry: The model's shape. Images are not resized.
        stages: In order.
        warm_up: Steps in which the learning rate rises.
        fall: Share of the last stage in which the learning rate falls to zero and the reading loss is off.
        weight_decay: Weight decay of matrices.
    """

    seed: int = 0
    geometry: Geometry = field(
        default_factory=lambda: Geometry(
            layers=8, width=128, image_size=IMAGE_SIZE, patch_size=16, vision_width=128, vision_layers=3
        )
    )
    stages: tuple[Stage, ...] = (
        Stage(1500, 24, 0, 1.5e-3, seeing=1.0, reading=0.0, answering=0.0),
        Stage(2000, 16, 0, 1.5e-3, seeing=1.0, reading=1.0, answering=0.0),
        Stage(1750, 16, 12, 1e-3, seeing=0.2, reading=0.5, answering=1.0),
        Stage(
            1950,
            16,
            12,
            1e-3,
            seeing=0.2,
            reading=0.5,
            answering=1.0,
            shares={name: category.late_share for name, category in CATEGORIES.items()},
        ),
    )
    warm_up: int = 50
    fall: float = 0.4
    weight_decay: float = 0.01

    @property
    def steps(self) -> int:
        """Total optimiser steps."""
        return sum(stage.steps for stage in self.stages)

    def with_steps(self, *steps: int) -> "Recipe":
        """The same recipe with other numbers of steps, one per stage."""
        pairs = zip(self.stages, steps, strict=True)
        return replace(self, stages=tuple(replace(stage, steps=number) for stage, number in pairs))

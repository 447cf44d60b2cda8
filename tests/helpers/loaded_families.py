"""A family's tiny model, with the same question about a wide and about a tall image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import Idefics3ImageProcessorPil

from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.models.model import MultimodalModel
from tiny_families import FAMILIES, Family, load, write

SIZES = [(230, 150), (110, 190)]


def question_about(*boxes: Box) -> ChosenQuestion:
    objects = tuple(ChosenObject("object", str(number), "ball", box) for number, box in enumerate(boxes))
    return ChosenQuestion(
        "7", "1", "ChooseAttr", "chooseAttr", "Is the ball red or blue?", "red", "red", "blue", objects
    )


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Coarse noise: fine noise would all be the same grey after resampling."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


def middle(size: tuple[int, int]) -> Box:
    """A box right of the middle of an image."""
    return Box(size[0] * 2 // 5, size[1] // 3, size[0] * 2 // 5, size[1] * 2 // 5)


def require_processor(name: str) -> None:
    """Skip a family whose processor is not installed."""
    if name in ("idefics3", "smolvlm") and getattr(Idefics3ImageProcessorPil, "is_dummy", False):
        pytest.skip("this transformers gives the family's image processor only with torchvision (5.17 does)")
    if name == "smolvlm":
        pytest.importorskip("num2words", reason="SmolVLM's processor asks for num2words")


class Loaded:
    """One family's model."""

    def __init__(self, name: str, root: Path) -> None:
        require_processor(name)
        self.name = name
        self.family: Family = FAMILIES[name]
        write(root / name, self.family)
        self.model: MultimodalModel = load(root / name)
        self.prepared = {size: self.model.prepare(question_about(middle(size)), noise(size)) for size in SIZES}

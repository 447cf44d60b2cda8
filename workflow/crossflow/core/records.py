"""Records shared by the packages: boxes, scene graphs, questions with their programs, chosen questions.

Boxes are not clipped: in GQA they may extend beyond their image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Box(NamedTuple):
    """A box in pixels of its image: left, top, width and height."""

    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene graph."""

    id: str
    name: str
    box: Box


@dataclass(frozen=True)
class SceneGraph:
    """The scene graph of one image; ``size`` (width, height) is that of the image in which its boxes are given."""

    image_id: str
    objects: Mapping[str, SceneObject]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Step:
    """One step of a question's program."""

    operation: str
    dependencies: tuple[int, ...]
    argument: str


@dataclass(frozen=True)
class Question:
    """A question with its program; ``detailed`` is GQA's ``types.detailed``."""

    question_id: str
    image_id: str
    question: str
    answer: str
    detailed: str
    program: tuple[Step, ...]


@dataclass(frozen=True)
class ChosenObject:
    """An object that a question is about; ``role`` is ``object``, or ``object1`` and ``object2``."""

    role: str
    id: str
    name: str
    box: Box


@dataclass(frozen=True)
class ChosenQuestion:
    """A question with its objects.

    The options are None if it offers none; ``image_size`` (width, height) is that of the image in which the boxes are
    given, None if the data do not give it.
    """

    question_id: str
    image_id: str
    category: str
    detailed: str
    question: str
    answer: str
    true_option: str | None
    false_option: str | None
    objects: tuple[ChosenObject, ...]
    image_size: tuple[int, int] | None = None

"""The mini world: scenes of toys on a ground, and their scene graphs.

toy
    One of the things that questions are about: a shape with a colour, a size and a material.
ground
    What the whole image shows behind the toys.
clutter
    Pebbles, twigs and leaves: small, dull, never asked about.
twins
    Two toys of a scene that have exactly one attribute in common.

Every value of an attribute is equally likely. Toys are drawn first and places are found for them, never the reverse:
otherwise small toys, which are easier to place, would be more frequent, and questions would favour an answer. The
training and the evaluation world are disjoint: a scene's set of toys (shapes and attributes, without places) belongs
to one of them only.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any, Literal

from crossflow.core.errors import CrossflowError
from crossflow.core.records import Box

Split = Literal["train", "val"]
Attribute = Literal["color", "size", "material"]
Limits = tuple[float, float]

IMAGE_SIZE = 96
"""Width and height of every image, in pixels."""

PLURALS = {
    "ball": "balls",
    "box": "boxes",
    "cone": "cones",
    "cross": "crosses",
    "heart": "hearts",
    "star": "stars",
}
NAMES = tuple(PLURALS)
ATTRIBUTES: dict[Attribute, tuple[str, ...]] = {
    "color": ("red", "orange", "yellow", "green", "blue", "purple"),
    "size": ("small", "large"),
    "material": ("metal", "wood"),
}
GROUNDS = ("carpet", "floor", "pavement", "sand", "snow", "wall")

RADII = {"small": (7.0, 8.5), "large": (12.0, 14.0)}
"""Half the side of a toy's box, in pixels. The ranges are far apart, so that size shows without a comparison."""
# With two toys there are so few sets of toys that a split's share of them would not be balanced.
_FEWEST_TOYS, _MOST_TOYS = 3, 5
_GAP = 2.0
ANYWHERE: Limits = (0.0, float(IMAGE_SIZE))
"""No limits for where a toy's centre lies."""
CLEARLY_APART = 14.0
"""Least distance in pixels between two centres for one toy to count as left of, or above, the other."""
CLEARLY_ASIDE = 9.0
"""Least distance in pixels of a toy's centre from the image's middle for the toy to count as on one side."""

_SPLITS: dict[Split, str] = {"val": "0", "train": "1"}
_IMAGE_ID = re.compile(r"(?P<split>[01])(?P<seed>[0-9]{3,})(?P<index>[0-9]{6})")
# One in this many sets of toys belongs to the evaluation world.
_VAL_SHARE = 5


@dataclass(frozen=True)
class Toy:
    """A toy of a scene.

    Attributes:
        name: A key of `PLURALS`; at most one toy of a scene has it.
        color, size, material: Values of `ATTRIBUTES`.
        x, y: Centre of its box, in pixels.
        radius: Half the longer side of its box, in pixels.
        angle: Rotation, in degrees.
        tint: Factors of its three colour channels.
    """

    name: str
    color: str
    size: str
    material: str
    x: float
    y: float
    radius: float
    angle: float
    tint: tuple[float, float, float]

    def value(self, attribute: Attribute) -> str:
        """The toy's value of an attribute."""
        return {"color": self.color, "size": self.size, "material": self.material}[attribute]


@dataclass(frozen=True)
class Clutter:
    """A small thing that no question is about.

    Attributes:
        name: ``pebble``, ``twig`` or ``leaf``.
        x, y: Its centre, in pixels.
        length: Its longest extent, in pixels.
        angle: Rotation, in degrees.
    """

    name: str
    x: float
    y: float
    length: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """The content of an image.

    Attributes:
        image_id: Digits; the first tells the split (0: evaluation, 1: training), then seed and index.
        ground: One of `GROUNDS`.
        shade: Brightness of the ground, around 1.
        texture: Seed of the ground's grain.
        toys: 3 to 5 toys with different names and disjoint boxes.
        clutter: Behind the toys.
        twins: Indices of two toys that have exactly one attribute in common, each attribute equally often.
    """

    image_id: str
    ground: str
    shade: float
    texture: int
    toys: tuple[Toy, ...]
    clutter: tuple[Clutter, ...]
    twins: tuple[int, int]

    def toy_id(self, index: int) -> str:
        """The id of a toy in the scene graph."""
        return f"{self.image_id}{index:02d}"

    @property
    def toy_ids(self) -> dict[str, str]:
        """Name of each toy -> its id in the scene graph."""
        return {toy.name: self.toy_id(index) for index, toy in enumerate(self.toys)}


def shared(first: Toy, second: Toy) -> list[Attribute]:
    """The attributes in which two toys agree."""
    return [attribute for attribute in ATTRIBUTES if first.value(attribute) == second.value(attribute)]


def _draw_values(rng: random.Random) -> list[tuple[str, dict[Attribute, str]]]:
    """Names and attribute values of a scene's toys; the first two are the twins."""
    names = rng.sample(NAMES, rng.randint(_FEWEST_TOYS, _MOST_TOYS))
    toys = [(name, {attribute: rng.choice(values) for attribute, values in ATTRIBUTES.items()}) for name in names]
    common = rng.choice(tuple(ATTRIBUTES))
    (_, first), (_, second) = toys[:2]
    for attribute, values in ATTRIBUTES.items():
        others = [value for value in values if value != first[attribute]]
        second[attribute] = first[attribute] if attribute == common else rng.choice(others)
    return toys


def _split_of(toys: list[tuple[str, dict[Attribute, str]]]) -> Split:
    described = sorted(" ".join((name, *values.values())) for name, values in toys)
    digest = hashlib.sha256("; ".join(described).encode()).digest()
    return "train" if digest[0] % _VAL_SHARE else "val"


def _apart(x: float, y: float, radius: float, placed: list[tuple[float, float, float]]) -> bool:
    return all(max(abs(x - a), abs(y - b)) >= radius + other + _GAP for a, b, other in placed)


def with_toys(scene: Scene, toys: Mapping[int, Toy]) -> Scene:
    """The scene with some of its toys, given by their indices, replaced."""
    return replace(scene, toys=tuple(toys.get(index, toy) for index, toy in enumerate(scene.toys)))


def _things_beside(scene: Scene, index: int) -> list[tuple[float, float, float]]:
    """Centres and half sides of all things from which a toy stays apart: the other toys and the clutter."""
    placed = [(thing.x, thing.y, thing.length / 2) for thing in scene.clutter]
    return placed + [(toy.x, toy.y, toy.radius) for other, toy in enumerate(scene.toys) if other != index]


def has_room(scene: Scene) -> bool:
    """Whether every toy lies inside the image, and apart from the other toys and from the clutter."""
    return all(
        all(toy.radius + 1 <= place <= IMAGE_SIZE - toy.radius - 1 for place in (toy.x, toy.y))
        and _apart(toy.x, toy.y, toy.radius, _things_beside(scene, index))
        for index, toy in enumerate(scene.toys)
    )


def nearest_room(scene: Scene, index: int, limits: Limits = ANYWHERE) -> Scene | None:
    """The scene with one toy moved, in steps of a pixel, to the nearest place that has room; None if none has.

    Args:
        scene: The scene; the other toys stay.
        index: The toy.
        limits: The lowest and the highest x of its centre.
    """
    toy, things = scene.toys[index], _things_beside(scene, index)
    low, high = toy.radius + 1, IMAGE_SIZE - toy.radius - 1
    steps = range(-IMAGE_SIZE, IMAGE_SIZE + 1)
    across = [step for step in steps if max(low, limits[0]) <= toy.x + step <= min(high, limits[1])]
    down = [step for step in steps if low <= toy.y + step <= high]
    for right_by, down_by in sorted(product(across, down), key=lambda step: (step[0] ** 2 + step[1] ** 2, step)):
        moved = replace(toy, x=toy.x + right_by, y=toy.y + down_by)
        if _apart(moved.x, moved.y, moved.radius, things):
            return with_toys(scene, {index: moved})
    return None


def _draw_places(rng: random.Random, radii: list[float]) -> list[tuple[float, float]]:
    """Centres of disjoint boxes inside the image, for any radii that a scene can have."""
    largest_first = sorted(range(len(radii)), key=lambda index: -radii[index])
    while True:
        places: dict[int, tuple[float, float]] = {}
        placed: list[tuple[float, float, float]] = []
        for index in largest_first:
            radius = radii[index]
            for _ in range(30):
                x, y = (rng.uniform(radius + 1, IMAGE_SIZE - radius - 1) for _ in "xy")
                if _apart(x, y, radius, placed):
                    places[index] = (x, y)
                    placed.append((x, y, radius))
                    break
            else:
                break
        if len(places) == len(radii):
            return [places[index] for index in range(len(radii))]


def _draw_clutter(rng: random.Random, toys: tuple[Toy, ...]) -> tuple[Clutter, ...]:
    placed = [(toy.x, toy.y, toy.radius) for toy in toys]
    clutter = []
    for _ in range(rng.randint(2, 8)):
        name, (low, high) = rng.choice((("pebble", (2.0, 4.0)), ("twig", (4.0, 8.0)), ("leaf", (3.0, 5.5))))
        length = rng.uniform(low, high)
        x, y = (rng.uniform(length, IMAGE_SIZE - length) for _ in "xy")
        if _apart(x, y, length / 2, placed):
            placed.append((x, y, length / 2))
            clutter.append(Clutter(name, x, y, length, rng.uniform(0, 180)))
    return tuple(clutter)


def draw_scene(seed: int, index: int, split: Split = "val") -> Scene:
    """Draw a scene: the same for the same arguments, on every machine.

    Args:
        seed: Seed of the world.
        index: Number of the scene, from 0; scenes are independent of one another.
        split: ``val`` for the evaluation world, ``train`` for the training world.
    """
    rng = random.Random(f"crossflow shapes {split} {seed} {index}")
    values = _draw_values(rng)
    while _split_of(values) != split:
        values = _draw_values(rng)
    radii = [rng.uniform(*RADII[given["size"]]) for _, given in values]
    places = _draw_places(rng, radii)
    toys = [
        Toy(
            name,
            given["color"],
            given["size"],
            given["material"],
            x,
            y,
            radius,
            angle=rng.uniform(-9, 9),
            tint=(rng.uniform(0.96, 1.04), rng.uniform(0.96, 1.04), rng.uniform(0.96, 1.04)),
        )
        for (name, given), (x, y), radius in zip(values, places, radii, strict=True)
    ]
    order = rng.sample(range(len(toys)), len(toys))
    shuffled = tuple(toys[old] for old in order)
    return Scene(
        image_id=f"{_SPLITS[split]}{seed:03d}{index:06d}",
        ground=rng.choice(GROUNDS),
        shade=rng.uniform(0.85, 1.08),
        texture=rng.getrandbits(32),
        toys=shuffled,
        clutter=_draw_clutter(rng, shuffled),
        twins=(order.index(0), order.index(1)),
    )


def scene_of(image_id: str) -> Scene:
    """The scene of an image of the mini world, drawn again.

    Raises:
        CrossflowError: no image of the mini world has this id.
    """
    parts = _IMAGE_ID.fullmatch(image_id)
    if parts is None:
        raise CrossflowError(f"The image {image_id!r} is not one of the mini world, whose ids are ten digits or more.")
    (split,) = (split for split, digit in _SPLITS.items() if digit == parts["split"])
    return draw_scene(int(parts["seed"]), int(parts["index"]), split)


def _relations(scene: Scene, toy: Toy) -> Iterator[dict[str, str]]:
    """What a toy is beside: all toys that are clearly apart from it, along either axis."""
    for index, other in enumerate(scene.toys):
        right, down = toy.x - other.x, toy.y - other.y
        if abs(right) >= CLEARLY_APART:
            yield {"object": scene.toy_id(index), "name": "to the right of" if right > 0 else "to the left of"}
        if abs(down) >= CLEARLY_APART:
            yield {"object": scene.toy_id(index), "name": "below" if down > 0 else "above"}


def scene_graph(scene: Scene, toy_boxes: list[Box], clutter_boxes: list[Box]) -> dict[str, Any]:
    """The scene graph of a scene, in GQA's form: everything that the image shows, with its boxes as drawn."""
    on_ground = {"object": scene.toy_id(len(scene.toys)), "name": "on"}
    things: list[tuple[str, Box, list[str], list[dict[str, str]]]] = [
        (toy.name, box, [toy.color, toy.size, toy.material], [on_ground, *_relations(scene, toy)])
        for toy, box in zip(scene.toys, toy_boxes, strict=True)
    ]
    things.append((scene.ground, Box(0, 0, IMAGE_SIZE, IMAGE_SIZE), [], []))
    things += [
        (thing.name, box, ["small"], [on_ground]) for thing, box in zip(scene.clutter, clutter_boxes, strict=True)
    ]
    objects = {
        scene.toy_id(index): {"name": name, **box._asdict(), "attributes": attributes, "relations": relations}
        for index, (name, box, attributes, relations) in enumerate(things)
    }
    return {"width": IMAGE_SIZE, "height": IMAGE_SIZE, "objects": objects}


def aside(toy: Toy) -> str | None:
    """``left`` or ``right``, or None for a toy near the image's middle."""
    offset = toy.x - IMAGE_SIZE / 2
    if abs(offset) < CLEARLY_ASIDE:
        return None
    return "right" if offset > 0 else "left"


def clear_pairs(scene: Scene, axis: Literal["x", "y"]) -> list[tuple[Toy, Toy]]:
    """Ordered pairs of toys whose centres are clearly apart along an axis."""
    return [
        (first, second)
        for first, second in permutations(scene.toys, 2)
        if abs(getattr(first, axis) - getattr(second, axis)) >= CLEARLY_APART
    ]

"""Minimal pairs in the mini world: the same question about the same scene, changed where another answer needs it.

The scene of a question is drawn again from its image's id, and one or two toys of it change:

    ChooseAttr    the toy gets the false option's colour, size or material
    ChooseCat     the toys of the two options exchange the value that is asked about
    ChooseRel     the two toys exchange their places from left to right
    CompareAttr   one twin changes, so that the two share another attribute, and only this one
    LogicalObj    as few toys as possible change their value, so that the truth does
    QueryAttr     the toy moves to the mirrored place

Everything else stays: ground and grain, clutter, the other toys, tint and angle. Toys stay apart, from one another and
from the clutter. If a change has no room, the next possibility is tried, and if none has, the question has no pair.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from crossflow.core.errors import CrossflowError
from crossflow.core.records import ChosenQuestion, Step
from crossflow.mini.questions import SIDES, YES_NO, holds
from crossflow.mini.scenes import (
    ANYWHERE,
    ATTRIBUTES,
    CLEARLY_APART,
    CLEARLY_ASIDE,
    IMAGE_SIZE,
    RADII,
    Attribute,
    Limits,
    Scene,
    Toy,
    has_room,
    nearest_room,
    scene_of,
    shared,
    with_toys,
)


@dataclass(frozen=True)
class _Asked:
    """A question about a scene.

    Attributes:
        scene: The scene.
        question: The question.
        program: Its program.
        toys: The toys that the question names as its objects, as indices.
        rng: Draws what is free in a change.
    """

    scene: Scene
    question: ChosenQuestion
    program: tuple[Step, ...]
    toys: tuple[int, ...]
    rng: random.Random


class Change(NamedTuple):
    """A changed scene in which another answer is true.

    Attributes:
        scene: The changed scene; a toy may lack room in it.
        answer: The other answer.
        objects: The toys that the question is then about, as indices.
    """

    scene: Scene
    answer: str
    objects: tuple[int, ...]


def _with(toy: Toy, **values: Any) -> Toy:
    """A toy with other values; with another size it has another radius, at the same place of the size's range."""
    changed = replace(toy, **values)
    if changed.size == toy.size:
        return changed
    (low, high), (new_low, new_high) = RADII[toy.size], RADII[changed.size]
    return replace(changed, radius=new_low + (toy.radius - low) / (high - low) * (new_high - new_low))


def _exchanged(first: Toy, second: Toy, *names: str) -> tuple[Toy, Toy]:
    """Two toys, each with some values of the other."""
    return (
        replace(first, **{name: getattr(second, name) for name in names}),
        replace(second, **{name: getattr(first, name) for name in names}),
    )


def _with_places_exchanged(scene: Scene, one: int, other: int) -> Scene:
    """The scene with two toys in each other's place; toys of one size take over the radius too, so they have room."""
    first, second = scene.toys[one], scene.toys[other]
    place = ("x", "y", "radius") if first.size == second.size else ("x", "y")
    return with_toys(scene, dict(zip((one, other), _exchanged(first, second, *place), strict=True)))


def _moved(scene: Scene, indices: Sequence[int], limits: Limits = ANYWHERE) -> Iterator[Scene]:
    """The scene with toys moved, one after the other, to the nearest places with room; nothing if one finds none."""
    for index in indices:
        found = nearest_room(scene, index, limits)
        if found is None:
            return
        scene = found
    yield scene


def _standing(scene: Scene, limits: Limits, y: float) -> list[int]:
    """The toys whose x lies within limits, those nearest in height first."""
    found = [index for index, toy in enumerate(scene.toys) if limits[0] <= toy.x <= limits[1]]
    return sorted(found, key=lambda index: abs(scene.toys[index].y - y))


def _other(asked: _Asked, attribute: Attribute, value: str) -> str:
    return asked.rng.choice([other for other in ATTRIBUTES[attribute] if other != value])


def _attribute(step: Step) -> Attribute:
    """The attribute that a step reads, as in ``filter color``."""
    (found,) = (attribute for attribute in ATTRIBUTES if attribute in step.operation.split())
    return found


def _choose_attr(asked: _Asked) -> Iterator[Change]:
    (index,), value = asked.toys, asked.question.false_option or ""
    toy = _with(asked.scene.toys[index], **{_attribute(asked.program[-1]): value})
    changed = with_toys(asked.scene, {index: toy})
    yield Change(changed, value, asked.toys)
    for moved in _moved(changed, [index]):
        yield Change(moved, value, asked.toys)


def _choose_cat(asked: _Asked) -> Iterator[Change]:
    toys = asked.scene.toys
    pair = asked.toys[0], next(index for index, toy in enumerate(toys) if toy.name == asked.question.false_option)
    first, second = (toys[index] for index in pair)
    attribute = _attribute(asked.program[1])
    values = (attribute, "radius") if attribute == "size" else (attribute,)
    for exchanged in (values, (*values, "x", "y")):
        changed = dict(zip(pair, _exchanged(first, second, *exchanged), strict=True))
        yield Change(with_toys(asked.scene, changed), second.name, pair[1:])


def _choose_rel(asked: _Asked) -> Iterator[Change]:
    (one, other), scene, answer = asked.toys, asked.scene, asked.question.false_option or ""
    first, second = scene.toys[one], scene.toys[other]
    across = with_toys(scene, dict(zip(asked.toys, _exchanged(first, second, "x"), strict=True)))
    yield Change(across, answer, asked.toys)
    yield Change(_with_places_exchanged(scene, one, other), answer, asked.toys)
    left, right = ANYWHERE
    beyond: dict[int, Limits] = {
        index: (fixed.x + CLEARLY_APART, right) if toy.x < fixed.x else (left, fixed.x - CLEARLY_APART)
        for index, toy, fixed in ((one, first, second), (other, second, first))
    }
    for index, limits in beyond.items():
        for moved in _moved(scene, [index], limits):
            yield Change(moved, answer, asked.toys)
    for index, limits in beyond.items():
        for third in _standing(scene, limits, scene.toys[index].y):
            yield Change(_with_places_exchanged(scene, index, third), answer, asked.toys)


def _compare_attr(asked: _Asked) -> Iterator[Change]:
    toys = [asked.scene.toys[index] for index in asked.toys]
    (common,) = shared(*toys)
    others = [attribute for attribute in ATTRIBUTES if attribute != common]
    changes = [
        (index, with_toys(asked.scene, {index: _with(toy, **new)}), attribute)
        for attribute in asked.rng.sample(others, len(others))
        for index, toy, twin in asked.rng.sample(list(zip(asked.toys, toys, toys[::-1], strict=True)), 2)
        for new in [{attribute: twin.value(attribute), common: _other(asked, common, toy.value(common))}]
    ]
    for _, changed, attribute in changes:
        yield Change(changed, attribute, asked.toys)
    for index, changed, attribute in changes:
        for moved in _moved(changed, [index]):
            yield Change(moved, attribute, asked.toys)


def _logical_obj(asked: _Asked) -> Iterator[Change]:
    attribute, argument = _attribute(asked.program[1]), asked.program[1].argument
    unless = re.fullmatch(r"not\((.*)\)", argument)
    value, negated = (unless[1] if unless else argument), unless is not None
    toys = {index: asked.scene.toys[index] for index in asked.toys}
    holding = [index for index, toy in toys.items() if holds(toy, attribute, value, negated)]
    (answer,) = (answer for answer in YES_NO if answer != asked.question.answer)
    gets_it = (answer == "yes") != negated

    def changed(indices: Sequence[int]) -> Scene:
        new = {index: value if gets_it else _other(asked, attribute, value) for index in indices}
        return with_toys(asked.scene, {index: _with(toys[index], **{attribute: new[index]}) for index in indices})

    # All that make it true stop doing so, or one begins to.
    choices = [holding] if holding else [[index] for index in asked.rng.sample(list(toys), len(toys))]
    scenes = [changed(indices) for indices in choices]
    for scene in scenes:
        yield Change(scene, answer, asked.toys)
    for indices, scene in zip(choices, scenes, strict=True):
        for moved in _moved(scene, indices):
            yield Change(moved, answer, asked.toys)


def _query_attr(asked: _Asked) -> Iterator[Change]:
    (index,), scene = asked.toys, asked.scene
    toy, middle, (left, right) = scene.toys[index], IMAGE_SIZE / 2, ANYWHERE
    (answer,) = (side for side in SIDES if side != asked.question.answer)
    limits = (left, middle - CLEARLY_ASIDE) if answer == "left" else (middle + CLEARLY_ASIDE, right)
    mirrored = with_toys(scene, {index: replace(toy, x=IMAGE_SIZE - toy.x)})
    yield Change(mirrored, answer, asked.toys)
    for moved in _moved(mirrored, [index], limits):
        yield Change(moved, answer, asked.toys)
    for third in _standing(scene, limits, toy.y):
        yield Change(_with_places_exchanged(scene, index, third), answer, asked.toys)


CHANGES: dict[str, Callable[[_Asked], Iterator[Change]]] = {
    "ChooseAttr": _choose_attr,
    "ChooseCat": _choose_cat,
    "ChooseRel": _choose_rel,
    "CompareAttr": _compare_attr,
    "LogicalObj": _logical_obj,
    "QueryAttr": _query_attr,
}
"""Category -> the changes that make another answer true, the best first."""


def change_of(question: ChosenQuestion, program: tuple[Step, ...]) -> Change | None:
    """The first change of a question's scene that has room; None if none has.

    Raises:
        CrossflowError: the question is not about a scene of the mini world.
    """
    scene = scene_of(question.image_id)
    ids = list(scene.toy_ids.values())
    if unknown := [each.id for each in question.objects if each.id not in ids]:
        raise CrossflowError(f"Question {question.question_id} names {unknown[0]}, which is not a toy of its image.")
    toys = tuple(ids.index(each.id) for each in question.objects)
    rng = random.Random(f"crossflow pairs {question.question_id}")
    changes = CHANGES[question.category](_Asked(scene, question, program, toys, rng))
    return next((change for change in changes if has_room(change.scene)), None)

"""Scenes of the mini world: splits, balance of what is drawn, relations."""

from collections import Counter

import pytest

from balance import imbalance
from crossflow.mini.drawing import draw_image
from crossflow.mini.scenes import ATTRIBUTES, Attribute, Scene, draw_scene, scene_graph, shared


def _toys(scene: Scene) -> frozenset[tuple[str, str, str, str]]:
    return frozenset((toy.name, toy.color, toy.size, toy.material) for toy in scene.toys)


@pytest.mark.long
def test_no_set_of_toys_is_in_both_the_training_and_the_evaluation_world(scenes: list[Scene]) -> None:
    training = [draw_scene(seed, index, "train") for seed in (0, 1) for index in range(4000)]
    assert not {_toys(scene) for scene in training} & {_toys(scene) for scene in scenes}
    assert not {scene.image_id for scene in training} & {scene.image_id for scene in scenes}
    # With so many scenes, worlds drawn without regard to one another would meet.
    assert len({_toys(scene) for scene in training}) < len(training)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_value_of_an_attribute_is_equally_likely_whatever_can_be_placed(
    scenes: list[Scene], attribute: Attribute
) -> None:
    counts = Counter(toy.value(attribute) for scene in scenes for toy in scene.toys)
    assert imbalance(counts, ATTRIBUTES[attribute]) < 1


def test_twins_share_exactly_one_attribute_each_equally_often(scenes: list[Scene]) -> None:
    counts: Counter[str] = Counter()
    for scene in scenes:
        first, second = (scene.toys[index] for index in scene.twins)
        (attribute,) = shared(first, second)
        counts[attribute] += 1
    assert imbalance(counts, tuple(ATTRIBUTES)) < 1


def test_relations_are_stated_both_ways() -> None:
    opposite = {
        "to the left of": "to the right of",
        "to the right of": "to the left of",
        "above": "below",
        "below": "above",
    }
    scene = draw_scene(seed=2, index=1)
    _, toy_boxes, clutter_boxes = draw_image(scene)
    objects = scene_graph(scene, toy_boxes, clutter_boxes)["objects"]
    stated = {(key, r["name"], r["object"]) for key, thing in objects.items() for r in thing["relations"]}
    between_toys = {relation for relation in stated if relation[1] in opposite}
    assert between_toys
    assert between_toys == {(other, opposite[name], key) for key, name, other in between_toys}

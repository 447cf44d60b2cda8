"""Images of the mini world show what their scenes say, where the boxes are."""

from collections import Counter
from colorsys import rgb_to_hsv
from dataclasses import replace
from itertools import combinations

import numpy as np
from PIL import Image, ImageChops

from crossflow.core.records import Box
from crossflow.mini.drawing import draw_image
from crossflow.mini.scenes import ATTRIBUTES, IMAGE_SIZE, Scene, draw_scene, scene_graph


def _changed(image: Image.Image, without: Image.Image) -> tuple[int, int, int, int]:
    bounds = ImageChops.difference(image, without).getbbox()
    assert bounds is not None
    return bounds


def test_a_toy_changes_the_pixels_of_its_box_up_to_each_edge_and_no_others(scenes: list[Scene]) -> None:
    for scene in scenes[:60]:
        image, toy_boxes, _ = draw_image(scene)
        for index, (x, y, w, h) in enumerate(toy_boxes):
            others = scene.toys[:index] + scene.toys[index + 1 :]
            left, top, right, bottom = _changed(image, draw_image(replace(scene, toys=others))[0])
            assert x <= left <= x + 1 and y <= top <= y + 1
            # The outermost row can be so thinly covered that rounding hides it, no more than that.
            assert x + w - 1 <= right <= x + w and y + h - 1 <= bottom <= y + h


def test_clutter_stays_in_its_boxes_too(scenes: list[Scene]) -> None:
    for scene in scenes[:40]:
        image, _, clutter_boxes = draw_image(scene)
        for index, (x, y, w, h) in enumerate(clutter_boxes):
            others = scene.clutter[:index] + scene.clutter[index + 1 :]
            left, top, right, bottom = _changed(image, draw_image(replace(scene, clutter=others))[0])
            assert x <= left and y <= top and right <= x + w and bottom <= y + h


def test_boxes_lie_inside_the_image_and_apart_from_one_another(scenes: list[Scene]) -> None:
    for scene in scenes[:300]:
        _, toy_boxes, clutter_boxes = draw_image(scene)
        boxes = toy_boxes + clutter_boxes
        for box in boxes:
            assert box.x >= 0 and box.y >= 0
            assert box.x + box.w <= IMAGE_SIZE and box.y + box.h <= IMAGE_SIZE
        for a, b in combinations(boxes, 2):
            beside = a.x + a.w <= b.x or b.x + b.w <= a.x
            assert beside or a.y + a.h <= b.y or b.y + b.h <= a.y


def test_the_pixels_of_a_toy_have_the_hue_of_its_colour_and_the_extent_of_its_size(
    scenes: list[Scene],
) -> None:
    # Degrees of the colour circle; mixing in white, as a highlight does, or black does not change them.
    hues = {"red": 358, "orange": 28, "yellow": 51, "green": 130, "blue": 223, "purple": 283}
    for scene in scenes[:200]:
        image, toy_boxes, _ = draw_image(scene)
        for toy, (x, y, w, h) in zip(scene.toys, toy_boxes, strict=True):
            # Every shape covers the middle of its box, over more than one period of the grain.
            middle = image.crop((x + w // 2 - 2, y + h // 2 - 3, x + w // 2 + 3, y + h // 2 + 3))
            pixels = np.asarray(middle, dtype=float).reshape(-1, 3)
            vivid = pixels[np.argmax(pixels.max(axis=1) - pixels.min(axis=1))] / 255
            hue = 360 * rgb_to_hsv(*vivid)[0]
            apart = {color: abs((hue - of + 180) % 360 - 180) for color, of in hues.items()}
            assert min(apart, key=lambda color: apart[color]) == toy.color
            assert (max(w, h) > 20) == (toy.size == "large")


def test_wood_has_dark_grain_and_metal_a_highlight() -> None:
    scene = draw_scene(seed=1, index=0)
    for toy in scene.toys:
        plain = replace(toy, name="box", size="large", x=48.0, y=48.0, radius=13.0, angle=0.0)
        (x, y, w, h) = draw_image(replace(scene, toys=(plain,), clutter=()))[1][0]
        brightness = {}
        for material in ATTRIBUTES["material"]:
            made = replace(scene, toys=(replace(plain, material=material),), clutter=())
            brightness[material] = np.asarray(
                draw_image(made)[0].crop((x + 2, y + 2, x + w - 2, y + h - 2)).convert("L")
            )
        assert brightness["metal"].max() > 200 > brightness["wood"].max() or toy.color == "yellow"
        assert brightness["wood"].min() < 0.75 * brightness["metal"].min()


def test_the_scene_graph_names_all_that_is_painted() -> None:
    scene = draw_scene(seed=2, index=0)
    _, toy_boxes, clutter_boxes = draw_image(scene)
    objects = scene_graph(scene, toy_boxes, clutter_boxes)["objects"]
    names = Counter(thing["name"] for thing in objects.values())
    assert names == Counter([toy.name for toy in scene.toys] + [thing.name for thing in scene.clutter] + [scene.ground])
    for index, toy in enumerate(scene.toys):
        entry = objects[scene.toy_id(index)]
        assert Box(*(entry[side] for side in ("x", "y", "w", "h"))) == toy_boxes[index]
        assert entry["attributes"] == [toy.color, toy.size, toy.material]

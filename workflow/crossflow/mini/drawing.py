"""Drawing the images of the mini world.

Toys and clutter are painted at four times the size and scaled down, so that edges are smooth. A toy's box is read off
its pixels, so it encloses exactly the pixels that the toy changes.
"""

import math
import random
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from crossflow.core.records import Box
from crossflow.mini.scenes import IMAGE_SIZE, Clutter, Scene, Toy

_SCALE = 4

_COLORS = {
    "red": (212, 40, 44),
    "orange": (238, 120, 20),
    "yellow": (246, 216, 52),
    "green": (48, 158, 66),
    "blue": (44, 92, 214),
    "purple": (150, 62, 186),
}
_GROUNDS = {
    "carpet": (134, 124, 132),
    "floor": (176, 166, 154),
    "pavement": (98, 100, 106),
    "sand": (206, 198, 176),
    "snow": (226, 230, 234),
    "wall": (178, 184, 190),
}
_ROUGHNESS = {"carpet": 0.06, "floor": 0.03, "pavement": 0.06, "sand": 0.06, "snow": 0.02, "wall": 0.015}
_CLUTTER = {"pebble": (120, 120, 118), "twig": (92, 82, 72), "leaf": (116, 116, 92)}

Points = list[tuple[float, float]]


def _circle(steps: int = 64) -> Points:
    return [(math.cos(2 * math.pi * step / steps), math.sin(2 * math.pi * step / steps)) for step in range(steps)]


def _cone() -> Points:
    base = [(0.85 * math.cos(math.pi * step / 24), 0.7 + 0.3 * math.sin(math.pi * step / 24)) for step in range(25)]
    return [(0.0, -1.0), *base]


def _cross(arm: float = 0.38) -> Points:
    corner = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    turned = corner
    points = list(corner)
    for _ in range(3):
        turned = [(-y, x) for x, y in turned]
        points += turned
    return points


def _heart(steps: int = 64) -> Points:
    turns = [2 * math.pi * step / steps for step in range(steps)]
    return [
        (
            16 * math.sin(turn) ** 3,
            -(13 * math.cos(turn) - 5 * math.cos(2 * turn) - 2 * math.cos(3 * turn) - math.cos(4 * turn)),
        )
        for turn in turns
    ]


def _star(inner: float = 0.46) -> Points:
    lengths = [(1.0 if step % 2 == 0 else inner, math.pi * (step / 5 - 0.5)) for step in range(10)]
    return [(length * math.cos(turn), length * math.sin(turn)) for length, turn in lengths]


_OUTLINES: dict[str, Points] = {
    "ball": _circle(),
    "box": [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)],
    "cone": _cone(),
    "cross": _cross(),
    "heart": _heart(),
    "star": _star(),
}


def _turned(points: Points, degrees: float) -> Float[np.ndarray, "points 2"]:
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray(np.array(points) @ turn)


class _Paint(NamedTuple):
    """A painted shape on a part of the image.

    Attributes:
        box: The smallest box around it.
        cover: Covered share of each pixel of the box, 0 to 1.
        color: The paint's colour at each pixel times its cover, channels 0 to 255.
    """

    box: Box
    cover: Float[np.ndarray, "height width 1"]
    color: Float[np.ndarray, "height width 3"]


def _averaged(large: Float[np.ndarray, "tall wide channels"]) -> Float[np.ndarray, "height width channels"]:
    # Average whole blocks: no other filter keeps the paint inside its box.
    tall, wide, channels = large.shape
    blocks = large.reshape(tall // _SCALE, _SCALE, wide // _SCALE, _SCALE, channels)
    return np.asarray(blocks.mean(axis=(1, 3)))


def _silhouette(points: Float[np.ndarray, "points 2"]) -> tuple[Box, Image.Image]:
    """A polygon's box, and the polygon in white on that box, at `_SCALE` times the size."""
    left, top = np.floor(points.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(points.max(axis=0)).astype(int) + 1
    mask = Image.new("L", ((right - left) * _SCALE, (bottom - top) * _SCALE), 0)
    ImageDraw.Draw(mask).polygon([((x - left) * _SCALE, (y - top) * _SCALE) for x, y in points.tolist()], fill=255)
    bounds = mask.getbbox()
    assert bounds is not None
    x0, y0 = bounds[0] // _SCALE, bounds[1] // _SCALE
    x1, y1 = -(-bounds[2] // _SCALE), -(-bounds[3] // _SCALE)
    box = Box(int(left + x0), int(top + y0), x1 - x0, y1 - y0)
    return box, mask.crop((x0 * _SCALE, y0 * _SCALE, x1 * _SCALE, y1 * _SCALE))


def _surface(toy: Toy, height: int, width: int) -> Float[np.ndarray, "height width 3"]:
    """The toy's colour on its material: a bright band on metal, dark grain in wood."""
    color = np.array(_COLORS[toy.color]) * toy.tint
    y, x = np.mgrid[0:height, 0:width] / _SCALE
    if toy.material == "metal":
        along = (x + y) * _SCALE / (height + width)
        band = 0.85 * np.exp(-(((along - 0.4) / 0.1) ** 2))[..., None]
        surface = color * (1.05 - 0.3 * along)[..., None] * (1 - band) + 255 * band
    else:
        wave = y + 0.7 * np.sin(x / 4 + toy.x)
        grain = (np.mod(wave + toy.y, 4.0) < 1.3)[..., None]
        surface = np.where(grain, color * 0.52, color * 0.98)
    return np.asarray(np.clip(surface, 0, 255))


def _toy_paint(toy: Toy) -> _Paint:
    points = _turned(_OUTLINES[toy.name], toy.angle)
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) * (2 * toy.radius / (high - low).max()) + (toy.x, toy.y)
    box, silhouette = _silhouette(points)
    framed = ImageOps.expand(silhouette, border=2)
    inside = framed.filter(ImageFilter.MinFilter(5)).crop((2, 2, framed.width - 2, framed.height - 2))
    cover, inner = (np.asarray(mask, dtype=np.float64)[..., None] / 255 for mask in (silhouette, inside))
    rim = 0.35 * np.array(_COLORS[toy.color])
    surface = _surface(toy, silhouette.height, silhouette.width)
    return _Paint(box, _averaged(cover), _averaged(surface * inner + rim * (cover - inner)))


def _clutter_paint(thing: Clutter) -> _Paint:
    widths = {"pebble": 0.8, "twig": 0.2, "leaf": 0.45}
    points = _turned([(x, y * widths[thing.name]) for x, y in _circle(24)], thing.angle) * thing.length / 2
    box, silhouette = _silhouette(points + (thing.x, thing.y))
    cover = _averaged(np.asarray(silhouette, dtype=np.float64)[..., None] / 255)
    return _Paint(box, cover, cover * np.array(_CLUTTER[thing.name]))


def _ground(scene: Scene) -> Float[np.ndarray, "height width 3"]:
    """The ground with its own pattern, uneven light and grain."""
    rng = random.Random(scene.texture)
    down, right = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE] / IMAGE_SIZE
    light = 1 + rng.uniform(-0.12, 0.12) * (right - 0.5) + rng.uniform(-0.12, 0.12) * (down - 0.5)
    x, y = right * IMAGE_SIZE + rng.randrange(24), down * IMAGE_SIZE + rng.randrange(24)
    if scene.ground == "floor":
        light = light * np.where(np.mod(y, 16) < 1, 0.86, 1.0)
    elif scene.ground == "pavement":
        light = light * np.where((np.mod(y, 24) < 1) | (np.mod(x, 24) < 1), 0.84, 1.0)
    elif scene.ground == "carpet":
        light = light * (1 + 0.05 * np.sin(x / 2) * np.sin(y / 2))
    elif scene.ground == "sand":
        light = light * (1 + 0.035 * np.sin((y + 3 * np.sin(x / 15)) / 3))
    grain = np.frombuffer(rng.randbytes(IMAGE_SIZE**2), dtype=np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE)
    light = light * (1 + _ROUGHNESS[scene.ground] * (grain / 127.5 - 1))
    return np.asarray(light[..., None] * np.array(_GROUNDS[scene.ground]) * scene.shade)


def draw_image(scene: Scene) -> tuple[Image.Image, list[Box], list[Box]]:
    """Paint a scene.

    Returns:
        The image (RGB, `IMAGE_SIZE` square), the boxes of the toys and those of the clutter.
    """
    canvas = _ground(scene)
    clutter = [_clutter_paint(thing) for thing in scene.clutter]
    toys = [_toy_paint(toy) for toy in scene.toys]
    for (x, y, w, h), cover, color in clutter + toys:
        canvas[y : y + h, x : x + w] = canvas[y : y + h, x : x + w] * (1 - cover) + color
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    return image, [paint.box for paint in toys], [paint.box for paint in clutter]

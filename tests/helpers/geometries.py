"""Tiny models of all kinds of heads and tiles, each with a few prepared questions, for tests of the engine."""

import dataclasses
from pathlib import Path

from crossflow.models.model import MultimodalModel, Prepared
from tiny import draw_world, load_tiny, prepare_some

LAYERS = 5
GEOMETRIES = {
    "full": {"architecture": "llava", "key_value_heads": 4},
    "grouped": {"architecture": "llava", "key_value_heads": 2},
    "single": {"architecture": "llava", "key_value_heads": 1},
    "anyres": {"architecture": "llava_next", "key_value_heads": 2},
}


class Loaded:
    """A model with a few prepared questions."""

    def __init__(self, folder: Path, name: str, dtype: str = "float32") -> None:
        geometry = GEOMETRIES.get(name, GEOMETRIES["full"]) | {"layers": LAYERS, "width": 32}
        self.model: MultimodalModel = load_tiny(folder / name, dtype, **geometry)
        world = folder / "world"
        questions = draw_world(world, 3)
        chosen = [questions["ChooseAttr"][0], questions["ChooseRel"][1], questions["LogicalObj"][2]]
        self.prepared: list[Prepared] = prepare_some(self.model, world, chosen)


def with_other_pixels(prepared: Prepared) -> Prepared:
    """The same question with another image of the same size."""
    pixels = prepared.inputs["pixel_values"]
    return dataclasses.replace(prepared, inputs=prepared.inputs | {"pixel_values": -0.5 * pixels.flip(-1) + 0.3})

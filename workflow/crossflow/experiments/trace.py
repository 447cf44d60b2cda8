"""Your own question about one image, and the parts of the image that its answer depends on.

The *map* cuts the image into cells. A cell's visual tokens are found by the rule that finds the tokens of an object.
They are hidden from a target in a window of layers; the change of the answer's probability is the cell's value at that
centre layer.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from crossflow.core.errors import CrossflowError
from crossflow.core.ranks import falls_of, rank_correlation
from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.data.boxes import lies_outside
from crossflow.data.text import composed
from crossflow.engine.edges import Edges
from crossflow.engine.engines import ENGINES
from crossflow.experiments.knocked_out import Answered, knock_out
from crossflow.models.model import MultimodalModel

SEED = 0
"""Seed of random sources and moved boxes, for flows that are controls."""


def box_of(given: str | Sequence[int]) -> Box:
    """A box from left, top, width and height in pixels: four numbers, or a text with commas.

    Raises:
        CrossflowError: it is not a box, or has no area.
    """
    try:
        box = Box(*map(int, given.split(",") if isinstance(given, str) else given))
    except (TypeError, ValueError) as error:
        raise CrossflowError(f"The box {given!r} is invalid; give left, top, width and height in pixels.") from error
    if box.w < 1 or box.h < 1:
        raise CrossflowError(f"The box {given!r} has no area; give left, top, width and height in pixels.")
    return box


def own_question(
    question: str,
    boxes: Sequence[Box],
    names: Sequence[str] = (),
    *,
    image_id: str = "image",
    answer: str | None = None,
    options: tuple[str, str] | None = None,
    size: tuple[int, int] | None = None,
) -> ChosenQuestion:
    """Your own question; its text is its id.

    Args:
        question: The text.
        boxes: Boxes of the objects that the question is about.
        names: Names of these objects; without them, the set ``object`` is empty.
        image_id: Name of the image.
        answer: The gold answer, if there is one; by default the first option.
        options: The two options that the question offers, the true one first.
        size: Width and height of the image.

    Raises:
        CrossflowError: a box lies outside the image.
    """
    for box in boxes:
        if size is not None and lies_outside(box, size):
            raise CrossflowError(
                f"The box {','.join(map(str, box))} lies outside the image, which has {size[0]} x {size[1]} pixels."
            )
    question, names = composed(question), [composed(name) for name in names]
    named = zip(names or [""] * len(boxes), boxes, strict=True)
    objects = tuple(ChosenObject("object", str(number), name, box) for number, (name, box) in enumerate(named))
    true_option, false_option = map(composed, options) if options else (None, None)
    gold = composed(answer or true_option or "")
    return ChosenQuestion(question, image_id, "", "", question, gold, true_option, false_option, objects, size)


def cells_of(size: tuple[int, int], most: int) -> list[list[Box]]:
    """Cells of an image of ``size`` (width, height), nearly square, ``most`` along the longer side; by rows."""
    width, height = size
    side = max(width, height) / most
    columns, rows = max(1, round(width / side)), max(1, round(height / side))
    across = np.linspace(0, width, columns + 1).round().astype(int).tolist()
    down = np.linspace(0, height, rows + 1).round().astype(int).tolist()
    return [
        [
            Box(across[column], down[row], across[column + 1] - across[column], down[row + 1] - down[row])
            for column in range(columns)
        ]
        for row in range(rows)
    ]


def _tokens_of(model: MultimodalModel, image: Image.Image, question: ChosenQuestion, box: Box) -> np.ndarray:
    """Positions of the visual tokens that show a box, by the rule that loses no box."""
    looking = replace(model, settings=replace(model.settings, patches="overlap"))
    found = looking.prepare(replace(question, objects=(ChosenObject("object", "cell", "", box),)), image)
    return found.positions["related"]


class CellEffects(NamedTuple):
    """What hiding each cell of an image does.

    Attributes:
        change: Change of the probability of the answer's first token in percent; NaN for a cell that no token shows.
        attention: Share of the target's attention on the cell's tokens in the clean run, averaged over the window's
            layers; NaN likewise.
        noise: Largest change by rounding, in percent.
    """

    change: Float[np.ndarray, "centres rows columns"]
    attention: Float[np.ndarray, "centres rows columns"]
    noise: float

    @property
    def correlations(self) -> Float[np.ndarray, " centres"]:
        """Rank correlation of attention and fall over the cells at each centre layer; NaN if one does not vary."""
        centres = len(self.change)
        change, attention = self.change.reshape(centres, -1), self.attention.reshape(centres, -1)
        shown = np.isfinite(change[0])
        return rank_correlation(attention[:, shown], falls_of(change[:, shown], self.noise))


def knock_out_cells(
    model: MultimodalModel,
    image: Image.Image,
    answered: Answered,
    cells: int,
    target: str,
    centres: Sequence[int],
    window: str,
) -> CellEffects:
    """Hide each cell of an image from a target.

    Args:
        model: The model.
        image: The image.
        answered: The question.
        cells: Cells along the longer side of the image.
        target: The position set from which the cells are hidden.
        centres: Centre layers.
        window: The window: a width, ``bottom`` or ``top``.
    """
    prepared = answered.prepared
    grid = np.array(cells_of(image.size, cells))
    places = list(np.ndindex(*grid.shape[:2]))
    edges: dict[str, Sequence[Edges]] = {}
    for place in places:
        sources = _tokens_of(model, image, prepared.question, Box(*grid[place].tolist()))
        edges[f"cell {place}"] = (Edges(sources, prepared.positions[target]),) if len(sources) else ()
    flows = dict.fromkeys(edges, centres)
    (found,) = knock_out(model, [answered._replace(own_edges=edges)], flows, window, ENGINES["knockout"], SEED)
    columns = found.columns()
    change, attention = (
        np.moveaxis(np.array(columns[name], dtype=float).reshape(*grid.shape[:2], len(centres)), -1, 0)
        for name in ("change_percent", "attention")
    )
    noise = columns["noise_floor_percent"]
    return CellEffects(change, attention, 0.0 if noise is None else noise)

"""One question and one image: the answer, the flows' curves, and where in the image it comes from.

The *map* cuts the image into cells. A cell's visual tokens are those that show it, by the same rule that finds the
tokens of an object; they are hidden from a target in a window of layers, and the change of the answer's probability is
the cell's value at that centre layer.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from crossflow.core.flows import parse_flow
from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.engine.edges import Edges, Row, edges_of, rows_of
from crossflow.engine.forward import run_clean
from crossflow.engine.shared_prefix import run_knockouts
from crossflow.experiments.answers import Answer, answer
from crossflow.models.model import MultimodalModel, Prepared

SEED = 0  # of random controls, where a flow is one


class Trace(NamedTuple):
    """What was found.

    Attributes:
        answer: The model's greedy answer.
        p_clean: Probability of its first token, 0..1.
        curves: Flow -> change of that probability in percent, by centre layer; flows without edges are left out.
        missing: Flows that block no edge.
        map: Change in percent, ``(layers, rows of cells, columns of cells)``; NaN for a cell that no token shows.
        target: What the cells are hidden from.
    """

    answer: Answer
    p_clean: float
    curves: dict[str, Float[np.ndarray, " layers"]]
    missing: list[str]
    map: Float[np.ndarray, "layers rows columns"]
    target: str


def own_question(question: str, boxes: Sequence[Box]) -> ChosenQuestion:
    """A question of one's own, about the objects in some boxes."""
    objects = tuple(ChosenObject("object", str(number), "", box) for number, box in enumerate(boxes))
    return ChosenQuestion("question", "image", "", "", question, "", None, None, objects)


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


def trace(
    model: MultimodalModel,
    image: Image.Image,
    question: ChosenQuestion,
    flows: Sequence[str],
    width: int,
    cells: int,
    target: str = "question",
) -> Trace:
    """Answer one question and knock out its flows and the image's cells.

    Args:
        model: The model.
        image: The image.
        question: From `own_question`.
        flows: Flows whose curves are wanted.
        width: Width of the window, in layers.
        cells: Cells along the longer side of the image.
        target: The position set from which the cells are hidden.

    Raises:
        BrokenQuestion: the question does not fit the prompt.
        CrossflowError: a flow is none.
    """
    prepared: Prepared = model.prepare(question, image)
    found = answer(model, prepared)
    layers = len(model.layers)
    rows: list[Row] = []
    missing = []
    for name in flows:
        edges = edges_of(parse_flow(name), prepared.positions, SEED, question.question_id)
        if edges:
            rows.extend(rows_of(name, edges, str(width), layers))
        else:
            missing.append(name)
    grid = cells_of(image.size, cells)
    for row, boxes in enumerate(grid):
        for column, box in enumerate(boxes):
            sources = _tokens_of(model, image, question, box)
            if len(sources):
                edges = (Edges(sources, prepared.positions[target]),)
                rows.extend(rows_of(f"cell {row} {column}", edges, str(width), layers))
    first_token = found.tokens[0]
    clean = run_clean(model, prepared, min(row.start for row in rows))
    p_clean = float(torch.softmax(clean.logits.double(), -1)[first_token])
    p_knockout = torch.softmax(run_knockouts(model, clean, rows).logits.double(), -1)[:, first_token].tolist()
    change = {(row.flow, row.layer): 100 * (p - p_clean) / p_clean for row, p in zip(rows, p_knockout, strict=True)}
    return Trace(
        found,
        p_clean,
        {name: np.array([change[name, layer] for layer in range(layers)]) for name in flows if name not in missing},
        missing,
        np.array(
            [
                [
                    [change.get((f"cell {row} {column}", layer), np.nan) for column in range(len(grid[row]))]
                    for row in range(len(grid))
                ]
                for layer in range(layers)
            ]
        ),
        target,
    )

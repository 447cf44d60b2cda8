"""Rows of knockouts and the comparison of their results, for tests of the engine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from crossflow.core.flows import PUBLISHED_FLOWS, Window, parse_flow
from crossflow.engine.edges import Edges, Row, edges_of, rows_of
from crossflow.models.model import MultimodalModel, Prepared


def rows_for(prepared: Prepared, layers: int, width: int, flows: Sequence[str] = PUBLISHED_FLOWS) -> list[Row]:
    """Every flow at every centre layer; a flow without edges has no rows."""
    rows: list[Row] = []
    for name in flows:
        edges = edges_of(parse_flow(name), prepared.positions, 0, prepared.question.question_id)
        rows += rows_of(name, edges, str(width), layers) if edges else []
    return rows


def no_op(start: int, layers: int) -> Row:
    """A row that blocks no edge, from a position on in all layers."""
    return Row("nothing", 0, Window(0, layers - 1), (Edges(np.arange(0), np.array([start])),))


def largest_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference of two probabilities."""
    return float((torch.softmax(ours.double(), -1) - torch.softmax(theirs.double(), -1)).abs().max())


@contextmanager
def in_double(model: MultimodalModel, *prepared: Prepared) -> Iterator[list[Prepared]]:
    """The model and the prompts in double precision: what must be equal differs by 1e-15, whatever the processor."""
    model.network.double()
    try:
        yield [
            replace(
                each,
                inputs={
                    name: value.double() if value.is_floating_point() else value for name, value in each.inputs.items()
                },
            )
            for each in prepared
        ]
    finally:
        model.network.float()

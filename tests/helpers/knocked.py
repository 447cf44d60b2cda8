"""Rows of knockouts and the comparison of their results, for tests of the engine."""

from collections.abc import Sequence

import numpy as np
import torch

from crossflow.core.flows import PUBLISHED_FLOWS, Window, parse_flow
from crossflow.engine.edges import Edges, Row, edges_of, rows_of
from crossflow.models.model import Prepared


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

"""The definition of a knockout: one full multimodal forward per row, with the row's edges masked.

Slow, and plain enough to be checked by reading. `crossflow.knockout` must agree with it.
"""

from collections.abc import Sequence

import torch

from crossflow.edges import Row
from crossflow.forward import Blocking, CleanRun, Reading, full_forward
from crossflow.models import MultimodalModel


def run_reference(model: MultimodalModel, clean: CleanRun, rows: Sequence[Row]) -> Reading:
    """What is read off every row, in the order of ``rows``.

    Raises:
        CrossflowError: a row leaves a position with no key to attend to.
    """
    readings = [full_forward(model, clean.prepared, Blocking(row.edges, row.window)) for row in rows]
    return Reading(*map(torch.cat, zip(*readings, strict=True)))

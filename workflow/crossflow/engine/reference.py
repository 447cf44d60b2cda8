"""The definition of a knockout: one full multimodal forward per row, with the row's edges masked.

Slow, and simple enough to be checked by reading. `crossflow.engine.shared_prefix` must agree with it.
"""

from collections.abc import Sequence

import torch

from crossflow.engine.blocking import Blocking
from crossflow.engine.edges import Row
from crossflow.engine.forward import CleanRun, Readout, full_forward
from crossflow.models.model import MultimodalModel


def run_reference(model: MultimodalModel, clean: CleanRun, rows: Sequence[Row]) -> Readout:
    """The readout of every row, in the order of ``rows``.

    Raises:
        CrossflowError: a row leaves a position without a key.
    """
    readings = [full_forward(model, clean.prepared, Blocking.of(row, clean.donors)) for row in rows]
    return Readout(*map(torch.cat, zip(*readings, strict=True)))

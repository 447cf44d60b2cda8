"""The definition of a row: one full multimodal forward for each, with its edges masked, or its patch applied.

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
    readings = [
        full_forward(model, clean.prepared, Blocking.of(row, clean.donors), patch=(row.patch, row.window.first))
        for row in rows
    ]
    return Readout(*map(torch.cat, zip(*readings, strict=True)))

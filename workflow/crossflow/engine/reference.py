"""The definition of a row: one full multimodal forward for each, with what it blocks, replaces or patches.

Slow, and simple enough to be checked by reading. `crossflow.engine.shared_prefix` must agree with it.
"""

from collections.abc import Sequence

import torch

from crossflow.engine.blocking import Blocking
from crossflow.engine.edges import Row
from crossflow.engine.forward import CleanRun, Readout, full_forward
from crossflow.engine.modules import Replacement, replaced
from crossflow.engine.patches import patched
from crossflow.models.model import MultimodalModel


def _replacements(model: MultimodalModel, row: Row) -> dict[tuple[int, str], list[Replacement]]:
    found: dict[tuple[int, str], list[Replacement]] = {}
    for each in row.silenced:
        places = torch.from_numpy(each.targets).to(model.device)
        for layer in range(row.window.first, row.window.last + 1):
            value = None if each.value is None else each.value[layer]
            found.setdefault((layer, each.module), []).append(Replacement(places, value))
    return found


def run_reference(model: MultimodalModel, clean: CleanRun, rows: Sequence[Row]) -> Readout:
    """The readout of every row, in the order of ``rows``.

    Raises:
        CrossflowError: a row leaves a position without a key, or the model has no module of a kind.
    """
    readings = []
    for row in rows:
        with replaced(model, _replacements(model, row)), patched(model, row.patch, row.window.first):
            readings.append(full_forward(model, clean.prepared, Blocking.of(row, clean.donors)))
    return Readout(*map(torch.cat, zip(*readings, strict=True)))

"""The definition of a knockout: one full multimodal forward per row, with the row's edges masked.

Slow, and plain enough to be checked by reading. `crossflow.knockout` must agree with it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.flows import Row
from crossflow.forward import Blocking, CleanRun, full_logits
from crossflow.models import MultimodalModel


def reference_logits(model: MultimodalModel, clean: CleanRun, rows: Sequence[Row]) -> Float[Tensor, "rows vocabulary"]:
    """Logits at the last position (fp32) of every row, in the order of ``rows``.

    Raises:
        CrossflowError: a row leaves a position with no key to attend to.
    """
    return torch.stack(
        [full_logits(model, clean.prepared, Blocking(row.sources, row.targets, row.window)) for row in rows]
    )

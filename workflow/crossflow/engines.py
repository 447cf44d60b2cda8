"""The two ways to compute knockouts, behind one signature."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from crossflow.flows import Row
from crossflow.forward import CleanRun
from crossflow.knockout import knockout_logits
from crossflow.models import MultimodalModel
from crossflow.reference import reference_logits


@runtime_checkable
class Engine(Protocol):
    """From the clean run of a question and its rows to logits (fp32) at the last position, one per row."""

    def __call__(
        self, model: MultimodalModel, clean: CleanRun, rows: Sequence[Row]
    ) -> Float[Tensor, "rows vocabulary"]: ...


ENGINES: dict[str, Engine] = {"knockout": knockout_logits, "reference": reference_logits}

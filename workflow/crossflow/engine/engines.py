"""The two ways to compute knockouts, behind one signature."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from crossflow.engine.edges import Row
from crossflow.engine.forward import CleanRun, Readout
from crossflow.engine.reference import run_reference
from crossflow.engine.shared_prefix import run_together
from crossflow.models.model import MultimodalModel

Work = Sequence[tuple[CleanRun, Sequence[Row]]]


@runtime_checkable
class Engine(Protocol):
    """From the clean runs of some questions, with the rows of each, to the readout of the rows."""

    def __call__(self, model: MultimodalModel, work: Work) -> list[Readout]: ...


def _one_by_one(model: MultimodalModel, work: Work) -> list[Readout]:
    return [run_reference(model, clean, rows) for clean, rows in work]


ENGINES: dict[str, Engine] = {"knockout": run_together, "reference": _one_by_one}

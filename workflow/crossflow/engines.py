"""The two ways to compute knockouts, behind one signature."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from crossflow.edges import Row
from crossflow.forward import CleanRun, Reading
from crossflow.knockout import run_knockouts
from crossflow.models import MultimodalModel
from crossflow.reference import run_reference


@runtime_checkable
class Engine(Protocol):
    """From the clean run of a question and its rows to what is read off the end of each row."""

    def __call__(self, model: MultimodalModel, clean: CleanRun, rows: Sequence[Row]) -> Reading: ...


ENGINES: dict[str, Engine] = {"knockout": run_knockouts, "reference": run_reference}

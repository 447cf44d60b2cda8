"""The request for one figure, and the summary tables that it reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossflow.analysis.tables import COLUMNS
from crossflow.core.tables import read_csv

_OPTIONAL = ("bands", "noise")  # expected results lack these tables


@dataclass(frozen=True)
class FigureRequest:
    """One figure.

    Attributes:
        kind: Kind of figure, an entry of `crossflow.figures.kinds.FIGURES`.
        summary: Folder of the summary tables.
        models: One model, or several for a comparison.
        categories: Categories, one panel each, in this order.
        windows: One window per model, or several for a sweep; none for the logit lens.
        flows: Flows that a figure of curves shows; by default those of its kind.
    """

    kind: str
    summary: Path
    models: tuple[str, ...]
    categories: tuple[str, ...]
    windows: tuple[str, ...] = ()
    flows: tuple[str, ...] = ()

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a summary table; none for `bands` or `noise` if the file is absent.

        Raises:
            CrossflowError: it is absent or damaged.
        """
        path = self.summary / f"{table}.csv"
        if table in _OPTIONAL and not path.is_file():
            return []
        return read_csv(path, COLUMNS[table])

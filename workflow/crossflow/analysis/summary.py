"""One summary of a study: its tables, by the module that `crossflow.analysis.tables` names."""

import importlib

from crossflow.analysis.results import Results
from crossflow.analysis.tables import SUMMARIES
from crossflow.core.errors import CrossflowError
from crossflow.core.tables import write_csv


def write_summary(summary: str, results: Results) -> None:
    """Make one of a study's summaries: write its tables into the study's ``summary`` folder.

    Args:
        summary: Name of the summary, as in `crossflow.analysis.tables.SUMMARIES`.
        results: The study's results.

    Raises:
        CrossflowError: there is no such summary, or a table is absent or does not fit the others.
    """
    if summary not in SUMMARIES:
        raise CrossflowError(f"Unknown summary {summary!r}; choose from {', '.join(SUMMARIES)}.")
    rows = importlib.import_module(SUMMARIES[summary].module).tables(results)
    for name, columns in SUMMARIES[summary].tables.items():
        write_csv(results.results / "summary" / f"{name}.csv", columns, rows[name])

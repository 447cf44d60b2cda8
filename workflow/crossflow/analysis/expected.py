"""Comparison of new summary tables with expected ones, within tolerances.

Another processor or library version changes last digits, which may change the answer of a borderline question, so that
it enters or leaves a curve. The tolerances allow this and no more:

effects.csv
    Ends and middle of an interval: 0.1 percentage points and a tenth of the expected interval's width.
answers.csv
    Accuracies: 0.02.
counts.csv
    Chosen and skipped questions: no difference. The other counts: one in fifty of the questions, rounded up.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crossflow.analysis.tables import COLUMNS
from crossflow.core.columns import NUMBER, TEXT, WHOLE, Column, Columns
from crossflow.core.errors import CrossflowError
from crossflow.core.tables import read_csv, write_csv

_SHOWN = 5  # numbers beyond their tolerance that a message lists
log = logging.getLogger(__name__)
Row = Mapping[str, Any]
COMPARISON: Columns = {
    "table": Column(TEXT, words="The summary table."),
    "column": Column(TEXT, words="Its column."),
    "numbers": Column(WHOLE, words="Numbers that were compared."),
    "largest_difference": Column(NUMBER, words="Largest difference from the expected table, in the column's unit."),
}


class Table(NamedTuple):
    """How a summary table is compared.

    Attributes:
        keys: Columns that name a row.
        allowed: Column -> how far a number may be from the expected row's, in the column's unit.
    """

    keys: tuple[str, ...]
    allowed: Mapping[str, Callable[[Row], float]]


class Agreement(NamedTuple):
    """One column of a table, compared.

    Attributes:
        numbers: Number of compared values.
        largest_difference: In the column's unit; infinite where only one side has a number.
        beyond: Descriptions of the rows beyond tolerance.
    """

    table: str
    column: str
    numbers: int
    largest_difference: float
    beyond: tuple[str, ...]


def _of_the_interval(expected: Row) -> float:
    """Tolerance of a mean change, in percentage points; an absent interval has no width."""
    width = expected["high"] - expected["low"]
    return 0.1 + (0.0 if math.isnan(width) else 0.1 * width)


def _few(expected: Row) -> float:
    return float(math.ceil(expected["questions"] / 50))


TABLES = {
    "effects": Table(
        ("model", "category", "flow", "window", "layer"),
        dict.fromkeys(("mean", "low", "high"), _of_the_interval),
    ),
    "answers": Table(("model", "category"), dict.fromkeys(("accuracy", "accuracy_blind"), lambda row: 0.02)),
    "counts": Table(
        ("model", "category", "window", "flow"),
        dict.fromkeys(("questions", "skipped"), lambda row: 0.0) | dict.fromkeys(("excluded", "missing", "n"), _few),
    ),
}


def _by_key(rows: Sequence[Row], keys: Sequence[str]) -> dict[str, Row]:
    return {" ".join(str(row[key]) for key in keys): row for row in rows}


def _number(value: float | int | None) -> float:
    """A cell of any column of numbers; an absent one is NaN."""
    return math.nan if value is None else float(value)


def _distance(found: float, expected: float) -> float:
    """The difference between two numbers, of which one or both may be absent."""
    if math.isnan(found) or math.isnan(expected):
        return 0.0 if math.isnan(found) and math.isnan(expected) else math.inf
    return abs(found - expected)


def _said(number: float) -> str:
    return "empty" if math.isnan(number) else f"{number:.10g}"


def compare_rows(name: str, found: Sequence[Row], expected: Sequence[Row]) -> list[Agreement]:
    """Compare the rows of one of `TABLES`, column by column.

    Raises:
        CrossflowError: the tables are not about the same curves.
    """
    table = TABLES[name]
    fresh, old = _by_key(found, table.keys), _by_key(expected, table.keys)
    if only := next((key for key in (*fresh, *old) if key not in fresh or key not in old), None):
        raise CrossflowError(
            f"{name}.csv and the expected table belong to different studies: only one of them has {only!r}."
        )
    agreements = []
    for column, allowed in table.allowed.items():
        distances = {key: _distance(_number(fresh[key][column]), _number(row[column])) for key, row in old.items()}
        beyond = tuple(
            f"{column} of {key} is {_said(_number(fresh[key][column]))} instead of {_said(_number(row[column]))}"
            for key, row in old.items()
            if not distances[key] <= allowed(row)
        )
        agreements.append(Agreement(f"{name}.csv", column, len(old), max(distances.values(), default=0.0), beyond))
    return agreements


def compare(found: Path, expected: Path) -> list[Agreement]:
    """Compare all tables of two summary folders.

    Raises:
        CrossflowError: a table is absent, or they are of different studies.
    """
    return [
        agreement
        for name in TABLES
        for agreement in compare_rows(
            name, *(read_csv(folder / f"{name}.csv", COLUMNS[name]) for folder in (found, expected))
        )
    ]


def write_comparison(summary: Path, expected: Path, output: Path) -> None:
    """Compare summary tables with expected ones, and write the largest differences.

    Args:
        summary: Folder of the fresh summary tables.
        expected: Folder of the expected tables.
        output: Table of the largest differences (CSV).

    Raises:
        CrossflowError: some number is not within its tolerance, or the tables cannot be compared.
    """
    agreements = compare(summary, expected)
    for agreement in agreements:
        log.info(
            "%s %s: %d numbers, largest difference %.2g, %d beyond tolerance",
            agreement.table,
            agreement.column,
            agreement.numbers,
            agreement.largest_difference,
            len(agreement.beyond),
        )
    beyond = [words for agreement in agreements for words in agreement.beyond]
    if beyond:
        more = f"; and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
        raise CrossflowError(
            f"{summary} differs from {expected} by more than the tolerance in {len(beyond)} numbers: "
            f"{'; '.join(beyond[:_SHOWN])}{more}."
        )
    write_csv(output, COMPARISON, (agreement._asdict() for agreement in agreements))
    log.info("All numbers of %s are within tolerance of %s.", summary, expected)

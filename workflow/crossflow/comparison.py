"""Fresh summary tables against expected ones, within tolerances.

Another processor or library version gives other last digits, and a question on the edge may then be answered
otherwise and enter or leave a curve. The tolerances allow that much and no more:

effects.csv
    Ends and middle of an interval: 0.1 percentage points and a tenth of the expected interval's width.
answers.csv
    Accuracies: 0.02.
counts.csv
    Questions, and those skipped: none. Where the others went: one in fifty of the questions, rounded up.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from crossflow.errors import CrossflowError
from crossflow.tables import ACCURACY, COUNTS, EFFECTS, read_csv

Row = Mapping[str, str]


class Table(NamedTuple):
    """How a summary table is compared.

    Attributes:
        columns: All of its columns.
        keys: Columns that name a row.
        allowed: Column -> how far a number may be from the expected row's, in the column's unit.
    """

    columns: tuple[str, ...]
    keys: tuple[str, ...]
    allowed: Mapping[str, Callable[[Row], float]]


class Agreement(NamedTuple):
    """One column of a table, compared.

    Attributes:
        numbers: How many were compared.
        largest: The largest difference, in the column's unit; infinite where only one side has a number.
        beyond: The rows whose difference is not allowed, in words.
    """

    table: str
    column: str
    numbers: int
    largest: float
    beyond: tuple[str, ...]


def _of_the_interval(expected: Row) -> float:
    """Tolerance of a mean change, in percentage points; an absent interval has no width."""
    width = float(expected["high"]) - float(expected["low"]) if expected["high"] and expected["low"] else 0.0
    return 0.1 + 0.1 * width


def _few(expected: Row) -> float:
    return float(math.ceil(int(expected["questions"]) / 50))


def _exactly(expected: Row) -> float:
    return 0.0


def _accuracy(expected: Row) -> float:
    return 0.02


TABLES = {
    "effects.csv": Table(
        EFFECTS,
        ("model", "category", "flow", "window", "layer"),
        dict.fromkeys(("mean", "low", "high"), _of_the_interval),
    ),
    "answers.csv": Table(ACCURACY, ("model", "category"), dict.fromkeys(("accuracy", "accuracy_blind"), _accuracy)),
    "counts.csv": Table(
        COUNTS,
        ("model", "category", "window", "flow"),
        dict.fromkeys(("questions", "skipped"), _exactly) | dict.fromkeys(("excluded", "missing", "n"), _few),
    ),
}


def _by_key(rows: Sequence[Row], keys: Sequence[str]) -> dict[str, Row]:
    return {" ".join(row[key] for key in keys): row for row in rows}


def _distance(found: str, expected: str) -> float:
    """Between two cells; an empty one has no number."""
    if not found or not expected:
        return 0.0 if found == expected else math.inf
    return abs(float(found) - float(expected))


def compare_rows(name: str, found: Sequence[Row], expected: Sequence[Row]) -> list[Agreement]:
    """Compare one table, column by column.

    Args:
        name: Its file name, one of `TABLES`.
        found: The fresh table's rows.
        expected: The expected table's rows.

    Raises:
        CrossflowError: the tables are not about the same curves.
    """
    table = TABLES[name]
    fresh, old = _by_key(found, table.keys), _by_key(expected, table.keys)
    if only := next((key for key in (*fresh, *old) if key not in fresh or key not in old), None):
        raise CrossflowError(f"{name} and the expected one are of different studies: only one of them has {only!r}.")
    agreements = []
    for column, allowed in table.allowed.items():
        distances = {key: _distance(fresh[key][column], row[column]) for key, row in old.items()}
        beyond = tuple(
            f"{column} of {key} is {fresh[key][column] or 'empty'} instead of {row[column] or 'empty'}"
            for key, row in old.items()
            if not distances[key] <= allowed(row)
        )
        agreements.append(Agreement(name, column, len(old), max(distances.values(), default=0.0), beyond))
    return agreements


def compare(found: Path, expected: Path) -> list[Agreement]:
    """Compare all tables of two summary folders.

    Raises:
        CrossflowError: a table is absent, or they are of different studies.
    """
    return [
        agreement
        for name, table in TABLES.items()
        for agreement in compare_rows(
            name, read_csv(found / name, table.columns), read_csv(expected / name, table.columns)
        )
    ]

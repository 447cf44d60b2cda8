"""Fresh summary tables against expected ones: other last digits pass, other results don't."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossflow.analysis.expected import compare
from crossflow.analysis.tables import COLUMNS
from crossflow.cli.main import main
from crossflow.core.errors import CrossflowError
from crossflow.core.tables import write_csv

FLOW = {"model": "m", "category": "ChooseAttr", "window": "3", "flow": "image->last"}
EFFECTS: list[dict[str, Any]] = [
    FLOW | {"layer": 0, "n": 147, "mean": -40.0, "low": -45.0, "high": -35.0, "median": -41.0},
    FLOW | {"layer": 1, "n": 147, "mean": 0.02, "low": 0.01, "high": 0.03, "median": 0.0},
]
ANSWERS: list[dict[str, Any]] = [
    {"model": "m", "category": "ChooseAttr", "n": 150, "accuracy": 0.98, "low": 0.95, "high": 1.0,
     "accuracy_blind": 0.5, "low_blind": 0.4, "high_blind": 0.6},
]  # fmt: skip
COUNTS: list[dict[str, Any]] = [FLOW | {"questions": 150, "skipped": 0, "excluded": 3, "missing": 0, "n": 147}]


def _write(folder: Path, effects: Any = EFFECTS, answers: Any = ANSWERS, counts: Any = COUNTS) -> Path:
    for name, rows in (("effects", effects), ("answers", answers), ("counts", counts)):
        write_csv(folder / f"{name}.csv", COLUMNS[name], rows)
    return folder


def _changed(rows: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    return [rows[0] | changes, *rows[1:]]


@pytest.fixture
def expected(tmp_path: Path) -> Path:
    return _write(tmp_path / "expected")


@pytest.mark.parametrize(
    ("tables", "beyond"),
    [
        ({}, []),
        # An interval of 10 points allows 1.1.
        ({"effects": _changed(EFFECTS, mean=-41.0, low=-44.0)}, []),
        ({"effects": _changed(EFFECTS, mean=-41.2)}, ["mean"]),
        ({"effects": _changed(EFFECTS, high=-33.8)}, ["high"]),
        ({"effects": _changed(EFFECTS, low=None)}, ["low"]),
        ({"effects": [EFFECTS[0], EFFECTS[1] | {"mean": 0.2}]}, ["mean"]),
        ({"answers": _changed(ANSWERS, accuracy=0.967)}, []),
        ({"answers": _changed(ANSWERS, accuracy=0.95, accuracy_blind=0.47)}, ["accuracy", "accuracy_blind"]),
        ({"counts": _changed(COUNTS, excluded=6, n=144)}, []),
        ({"counts": _changed(COUNTS, excluded=7, n=143)}, ["excluded", "n"]),
        ({"counts": _changed(COUNTS, skipped=1)}, ["skipped"]),
        ({"counts": _changed(COUNTS, n=None)}, ["n"]),
    ],
)
def test_what_is_beyond_its_tolerance_is_found(
    tmp_path: Path, expected: Path, tables: dict[str, Any], beyond: list[str]
) -> None:
    agreements = compare(_write(tmp_path / "found", **tables), expected)
    assert [agreement.column for agreement in agreements if agreement.beyond] == beyond
    assert {(agreement.table, agreement.numbers) for agreement in agreements} == {
        ("effects.csv", 2), ("answers.csv", 1), ("counts.csv", 1)
    }  # fmt: skip


@pytest.mark.parametrize("change", [lambda rows: rows[:1], lambda rows: [*rows, rows[0] | {"layer": 2}]])
def test_tables_of_another_study_are_told_apart(
    tmp_path: Path, expected: Path, change: Callable[[list[dict[str, Any]]], Any]
) -> None:
    found = _write(tmp_path / "found", effects=change(EFFECTS))
    with pytest.raises(CrossflowError, match=r"effects.csv and the expected table belong to different studies.* [12]'"):
        compare(found, expected)


def test_the_verb_writes_the_largest_differences_or_fails_in_one_sentence(
    tmp_path: Path, expected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _write(tmp_path / "found", effects=_changed(EFFECTS, mean=-40.5))
    output = tmp_path / "comparison.csv"
    options = ["--summary", str(found), "--expected", str(expected), "--output", str(output)]
    assert main(["compare", *options]) == 0
    assert "effects.csv,mean,2,0.5\n" in output.read_text()

    output.unlink()
    shutil.rmtree(found)
    _write(found, effects=_changed(EFFECTS, mean=-60.0))
    assert main(["compare", *options]) == 1
    message = capsys.readouterr().err
    assert "in 1 numbers: mean of" in message
    assert "m ChooseAttr image->last 3 0 is -60 instead of -40" in message
    assert not output.exists()

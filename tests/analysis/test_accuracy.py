"""Accuracies with the image and without it."""

import math
from collections.abc import Sequence

import pandas as pd
import pytest

from crossflow.analysis.accuracy import accuracy, baselines
from crossflow.analysis.tables import ACCURACY, BASELINE_ANSWERS
from crossflow.core.errors import CrossflowError
from crossflow.core.tables import ANSWERS


def _answers(verdicts: Sequence[tuple[bool, bool]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"question_id": f"{number}", "image_id": f"{number}", "correct": seeing, "correct_blind": blind}
            for number, (seeing, blind) in enumerate(verdicts)
        ],
        columns=ANSWERS.names,
    )


def test_accuracy_is_a_fraction_with_and_without_the_image() -> None:
    row = accuracy(_answers([(True, True), (True, False)] * 20), model="m", category="c", seed=0)
    assert sorted(row) == sorted(ACCURACY)
    assert (row["n"], row["accuracy"], row["low"], row["high"], row["accuracy_blind"]) == (
        40,
        1,
        1,
        1,
        0.5,
    )
    assert 0.3 < row["low_blind"] < 0.5 < row["high_blind"] < 0.7


def test_accuracy_of_no_answer_is_empty() -> None:
    row = accuracy(_answers([]), model="m", category="c", seed=0)
    assert row["n"] == 0
    assert math.isnan(row["accuracy"]) and math.isnan(row["low_blind"])


def test_an_answer_without_a_verdict_is_refused() -> None:
    table = _answers([(True, True)])
    table["correct_blind"] = None
    with pytest.raises(CrossflowError, match="neither correct nor wrong"):
        accuracy(table, model="m", category="c", seed=0)


def test_baselines_are_accuracies_with_the_paired_drop() -> None:
    table = _answers([(True, True), (True, False)] * 20)
    table["correct_swapped"] = [None, *[False] * 39]
    rows = {row["baseline"]: row for row in baselines(table, model="m", category="c", seed=0)}
    assert list(rows) == ["seen", "removed", "swapped"]
    assert list(rows["seen"]) == list(BASELINE_ANSWERS)
    assert (rows["seen"]["accuracy"], rows["seen"]["drop"]) == (1, 0)
    assert (rows["removed"]["accuracy"], rows["removed"]["drop"]) == (0.5, 0.5)
    assert (rows["swapped"]["n"], rows["swapped"]["drop"]) == (39, 1)
    assert rows["removed"]["drop_low"] < 0.5 < rows["removed"]["drop_high"]

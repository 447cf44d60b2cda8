"""Knockout tables arranged by flow."""

from typing import Any

import pandas as pd
import pytest

from crossflow.analysis import curves
from crossflow.core.errors import CrossflowError
from small_study import LAYERS, ids_of, knockout_rows, small_knockouts


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda rows: rows.pop(), "31 rows for 4 questions, expected 32 for 4"),
        (lambda rows: rows[1].update(layer=0), "each of its 4 centre layers once"),
        (lambda rows: rows[1].update(flow="related->question"), "each of its 4 centre layers once"),
        (
            lambda rows: rows[1].update(change_percent=None),
            "of question 00000000 blocks edges but has no finite change",
        ),
        (lambda rows: rows[1].update(change_percent=float("inf")), "has no finite change"),
    ],
)
def test_a_damaged_knockout_table_is_refused(harm: Any, message: str) -> None:
    rows = knockout_rows(ids_of(4))
    harm(rows)
    with pytest.raises(CrossflowError, match=message):
        small_knockouts(rows)


def test_a_table_without_metadata_is_refused() -> None:
    with pytest.raises(CrossflowError, match="lack 'layers'"):
        curves.knockouts(pd.DataFrame(), {}, model="mini", window="3", category="ChooseAttr")


def test_a_table_of_fewer_questions_than_were_selected_is_refused() -> None:
    with pytest.raises(CrossflowError, match="16 rows for 2 questions, expected 24 for 3"):
        small_knockouts(knockout_rows(ids_of(2)), selected=3)


def test_draws_of_a_random_control_are_averaged_per_question() -> None:
    flows = ("related->question", "related~random1->question", "related~random2->question")
    rows = knockout_rows(["00000001", "00000002"], flows)
    table = small_knockouts(rows, flows)
    assert list(table.curves) == ["related->question", "related~random->question"]
    # Changes are -(10 q + l) times 2 and 3 for the two draws.
    assert table.curves["related~random->question"].change.tolist() == [
        [-2.5 * (10 * question + layer) for layer in range(LAYERS)] for question in (1, 2)
    ]


def test_draws_of_different_questions_are_refused() -> None:
    flows = ("related->question", "related~random1->question", "related~random2->question")
    rows = knockout_rows(["00000001", "00000002"], flows)
    for row in rows:
        if row["flow"] == flows[2] and row["question_id"] == "00000002":
            row.update(edges=0, change_percent=None)
    with pytest.raises(CrossflowError, match="the draws of related~random->question do not have the same questions"):
        small_knockouts(rows, flows)

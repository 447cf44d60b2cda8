"""The summary of the lens over image and question, from made-up tables."""

import numpy as np
import pandas as pd
import pytest

from crossflow.analysis.image_lens import place_rows, word_rows
from crossflow.core.errors import CrossflowError
from crossflow.core.image_lens import TOP


def _places() -> pd.DataFrame:
    """Four questions about two images; the last has no related tokens."""
    rows = [
        {
            "question_id": f"q{question}",
            "image_id": f"i{question // 2}",
            "place": place,
            "token": "answer",
            "layer": layer,
            "probability": None if (question, place) == (3, "related") else 0.1 * (question + 1) * (layer + 1),
            "top": None if (question, place) == (3, "related") else float(question == 0),
        }
        for place in ("related", "question")
        for question in range(4)
        for layer in range(2)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_means_are_over_the_questions_that_have_the_place() -> None:
    rows = {(row["place"], row["layer"]): row for row in place_rows(_places(), 1, "here", 0)}
    assert {key: row["n"] for key, row in rows.items()} == {
        ("related", 0): 3, ("related", 1): 3, ("question", 0): 4, ("question", 1): 4,
    }  # fmt: skip
    assert rows["related", 1]["mean"] == pytest.approx(0.4)
    assert rows["question", 0]["mean"] == pytest.approx(0.25)
    assert rows["related", 0]["top"] == pytest.approx(1 / 3)
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows.values())
    with pytest.raises(CrossflowError, match="Image lens of here: answer lacks a layer"):
        list(place_rows(_places().iloc[1:], 1, "here", 0))


def test_a_place_that_no_question_has_is_a_row_without_numbers() -> None:
    table = _places().assign(probability=np.nan, top=np.nan)
    for row in place_rows(table, 1, "here", 0):
        assert row["n"] == 0
        assert np.isnan([row[name] for name in ("mean", "low", "high", "top")]).all()


def test_absent_words_count_as_nothing_and_tokens_of_one_text_as_one_word() -> None:
    table = pd.DataFrame(
        [
            ("q1", 0, "red", 0.5),
            ("q1", 0, "red", 0.1),
            ("q1", 0, "blue", 0.3),
            ("q2", 0, "blue", 0.2),
            ("q2", 1, "red", 0.9),
        ],
        columns=["question_id", "layer", "word", "probability"],
    )
    rows = [tuple(row.values()) for row in word_rows(table)]
    expected = [(0, 1, "red", 0.3, 0.5), (0, 2, "blue", 0.25, 1.0), (1, 1, "red", 0.45, 0.5)]
    assert [row[:3] for row in rows] == [row[:3] for row in expected]
    np.testing.assert_allclose([row[3:] for row in rows], [row[3:] for row in expected])


def test_at_most_fifty_words_of_a_layer_are_kept() -> None:
    names = [f"w{number:03}" for number in range(2 * TOP)]
    table = pd.DataFrame({"question_id": "q", "layer": 0, "word": names, "probability": np.arange(2 * TOP) / 1e4})
    assert [row["word"] for row in word_rows(table)] == names[: TOP - 1 : -1]

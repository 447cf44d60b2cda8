"""The table of the logit lens."""

import pytest

from crossflow.analysis.logit_lens import lens_rows
from crossflow.core.errors import CrossflowError
from made_up import lens_table


def test_means_are_over_questions_for_each_layer_and_norm() -> None:
    rows = list(lens_rows(lens_table(), 1, model="m", category="c", seed=0))
    found = {(row["layer"], row["normed"]): (row["n"], row["mean"]) for row in rows}
    means = {(0, False): 0.2, (1, False): 0.3, (0, True): 0.3, (1, True): 0.5}
    assert found == {key: (2, pytest.approx(mean)) for key, mean in means.items()}
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows)
    shuffled = lens_table().sample(frac=1, random_state=0)
    assert list(lens_rows(shuffled, 1, model="m", category="c", seed=0)) == rows
    with pytest.raises(CrossflowError, match="answer lacks a layer"):
        list(lens_rows(lens_table().iloc[1:], 1, model="m", category="c", seed=0))

"""Spearman's rank correlation, row by row."""

import numpy as np
import pandas as pd
import pytest

from crossflow.core.ranks import rank_correlation


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 400], 1),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1),
        # scipy.stats.spearmanr, version 1.17
        ([106, 86, 100, 101, 99, 103, 97, 113, 112, 110], [7, 0, 27, 50, 28, 29, 20, 12, 6, 17], -0.17575757575757575),
        ([1, 1, 2, 3, 3, 3], [2, 1, 1, 5, 4, 4], 0.8104432008587534),
        ([0.5, 0.5, 0.5], [1, 2, 3], np.nan),
        ([1, 2, 3], [0, 0, 0], np.nan),
    ],
)
def test_it_is_that_of_spearman(first: list[float], second: list[float], expected: float) -> None:
    found = rank_correlation(np.array([first], dtype=float), np.array([second], dtype=float))
    np.testing.assert_allclose(found, [expected], rtol=1e-12, atol=1e-12)


def test_each_row_is_on_its_own_and_agrees_with_pandas() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 6, (2, 20, 12)).astype(float)
    expected = [
        pd.DataFrame({"first": one, "second": other}).corr(method="spearman").loc["first", "second"]
        for one, other in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(rank_correlation(first, second), expected, atol=1e-12)

"""Whether values come equally often."""

from collections import Counter
from collections.abc import Sequence

# Of chi-square over its degrees of freedom, for 2, 3, 6 and 10 values: what chance exceeds once in a thousand.
_BOUNDS = {2: 10.8, 3: 6.9, 6: 4.1, 10: 3.1}


def imbalance(counts: Counter[str], values: Sequence[str]) -> float:
    """Pearson's chi-square against "all values equally likely"; above 1 in one of a thousand balanced samples."""
    assert set(counts) <= set(values)
    expected = counts.total() / len(values)
    statistic = sum((counts[value] - expected) ** 2 for value in values) / expected
    return statistic / (len(values) - 1) / _BOUNDS[len(values)]

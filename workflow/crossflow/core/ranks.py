"""Spearman's rank correlation.

Source: C. Spearman, The proof and measurement of association between two things, Am. J. Psychol. 15 (1904) 72-101.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float


def _centred_ranks(values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    """Ranks within each row, ties averaged, less their mean."""
    ranks = pd.DataFrame(values).rank(axis=1).to_numpy(dtype=float)
    return np.asarray(ranks - (values.shape[1] + 1) / 2)


def falls_of(change: Float[np.ndarray, "*shape"], noise: float) -> Float[np.ndarray, "*shape"]:
    """How far knockouts lower a probability, in the unit of ``change``; 0 for changes of at most ``noise``."""
    return np.where(np.abs(change) <= noise, 0.0, -change)


def rank_correlation(
    first: Float[np.ndarray, "rows columns"], second: Float[np.ndarray, "rows columns"]
) -> Float[np.ndarray, " rows"]:
    """The rank correlation of each row of one array with the same row of another, -1..1.

    Args:
        first: Finite numbers.
        second: Finite numbers.

    Returns:
        NaN for a row whose values are all equal in one of the arrays.
    """
    one, other = _centred_ranks(first), _centred_ranks(second)
    spread = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    together = (one * other).sum(axis=1)
    return np.asarray(np.divide(together, spread, out=np.full(len(first), np.nan), where=spread > 0))

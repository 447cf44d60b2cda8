"""The depth of a curve: after how many layers it has gained a given share of what there is to gain.

A *gain* is a curve over the number of layers passed that begins near 0 and ends near 1. In between it may fall, by
noise or because the model is so. It is therefore replaced by the curve that never falls and fits it best (*isotonic
regression* by least squares: layers between which it falls share their mean). The depth at a share is where this fit
crosses the share, linear between layers. A curve that never falls is its own fit.

Intervals are percentiles of a cluster bootstrap over images, which repeats fit and crossing in every resample. In
simulations (12 and 32 layers; probabilities and right or wrong answers; steep, slow and two-stage curves; 500 samples
each) they held the true depth at 20, 50 and 80 % in 94 to 95 % of all cases with 150 images, and in 93 to 95 % with 40:
`tests/analysis/test_fusion.py`. Without the fit, noise moves the first crossing down and the last one up. The intervals
of `crossflow.analysis.bootstrap.unbiased` held the truth in 78 to 99 %, because the fit leaves no bias of choice to
subtract.

Source: R. E. Barlow, D. J. Bartholomew, J. M. Bremner and H. D. Brunk, Statistical Inference under Order Restrictions
(1972), section 1.4: the max-min formula.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def rising(curves: Float[np.ndarray, "curves places"]) -> Float[np.ndarray, "curves places"]:
    """The curves that never fall and fit the given ones best, each place with equal weight."""
    fit = np.full(curves.shape, -np.inf)
    for first in range(curves.shape[1]):
        counts = np.arange(1, curves.shape[1] - first + 1)
        means = np.cumsum(curves[:, first:], axis=1) / counts  # of first .. last, by last
        smallest = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        fit[:, first:] = np.maximum(fit[:, first:], smallest)
    return fit


def crossings(
    curves: Float[np.ndarray, "curves places"], places: Sequence[int], share: float
) -> Float[np.ndarray, " curves"]:
    """Where the rising fit of each curve reaches a share, linear between places.

    Args:
        curves: Gains; 1 is all.
        places: Numbers of layers, ascending.
        share: 0 to 1.

    Returns:
        In layers; the first place where a curve begins at the share or above, infinite where it never reaches it.
    """
    fit, at = rising(curves), np.asarray(places, dtype=float)
    reached = fit >= share
    after = reached.argmax(axis=1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(fit))
    low, high = fit[rows, before], fit[rows, after]
    step = np.where(high > low, (share - low) / np.where(high > low, high - low, 1), 0)
    return np.where(reached.any(axis=1), at[before] + step * (at[after] - at[before]), np.inf)

"""Means with 95 % intervals, for questions that share images.

Questions about one image are not independent, so images are resampled and not questions: the *cluster
bootstrap*. A resample draws as many images as there are, with replacement; each brings all its questions.
The interval is taken from the percentiles of the resamples' means.

Source: C. A. Field and A. H. Welsh, Bootstrapping clustered data, J. R. Statist. Soc. B 69 (2007) 369-390;
B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: percentile intervals.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

RESAMPLES = 2000
LEVEL = 0.95
# Bounds the memory of the weights: 250 resamples of 10,000 images take 20 MB.
_BLOCK = 250
assert RESAMPLES % _BLOCK == 0


class Estimate(NamedTuple):
    """Means and their intervals, in the unit of the values.

    Attributes:
        mean: NaN without any question.
        low, high: Ends of each column's 95 % interval; NaN with fewer than two images, which show no spread.
        band_low, band_high: Ends of the 95 % band that holds the means of all columns at once.
    """

    mean: Float[np.ndarray, " columns"]
    low: Float[np.ndarray, " columns"]
    high: Float[np.ndarray, " columns"]
    band_low: Float[np.ndarray, " columns"]
    band_high: Float[np.ndarray, " columns"]

    def row(self, column: int) -> dict[str, float]:
        """Mean and interval of one column, as the tables name them."""
        return {"mean": self.mean[column], "low": self.low[column], "high": self.high[column]}


def resampled_means(
    values: Float[np.ndarray, "questions columns"], images: Shaped[np.ndarray, " questions"], seed: int
) -> Float[np.ndarray, "resamples columns"]:
    """Means of `RESAMPLES` resamples of images; all columns share them.

    The mean of a resample is a ratio of sums: it may hold more or fewer questions than the sample.

    Args:
        values: One row per question, in any unit.
        images: Each question's image, at least one.
        seed: Seed of the resamples.

    Raises:
        ValueError: a value is not finite; leave out missing questions first.
    """
    if not np.isfinite(values).all():
        raise ValueError("values to be averaged must be finite; leave missing questions out")
    names, which = np.unique(images, return_inverse=True)
    count = len(names)
    sizes = np.bincount(which, minlength=count).astype(float)
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, which, values)
    generator = np.random.default_rng(seed)
    means = np.empty((RESAMPLES, values.shape[1]))
    for start in range(0, RESAMPLES, _BLOCK):
        draws = generator.integers(count, size=(_BLOCK, count))
        # How often each image was drawn in each resample: (resamples, images).
        flat = draws + count * np.arange(_BLOCK)[:, None]
        weights = np.bincount(flat.ravel(), minlength=_BLOCK * count).reshape(_BLOCK, count).astype(float)
        means[start : start + _BLOCK] = (weights @ sums) / (weights @ sizes)[:, None]
    return means


def percentiles(
    samples: Float[np.ndarray, "resamples columns"],
) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
    """Ends of the 95 % percentile intervals."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def unbiased(value: float, samples: Float[np.ndarray, " resamples"]) -> tuple[float, float, float]:
    """A statistic minus its bias, estimated from resamples, and the ends of its 95 % interval (*basic bootstrap*).

    For statistics that choose, such as the largest of many means: noise lifts the statistic in the sample, and again in
    the resamples, by as much if one column stands out and by half as much if none does. The second lift is subtracted.
    In simulations of a curve of 32 layers without any effect (150 questions that scatter by 50 %), the interval of its
    largest fall held the truth in 81 % of all cases, and its lower end was more than 5 points off in 2 %; for
    percentile intervals these are 27 % and 20 %.

    Source: A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application (1997), sections 2.1 and 5.2.
    """
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(2 * value - samples.mean()), float(2 * value - high), float(2 * value - low)


def simultaneous_band(
    mean: Float[np.ndarray, " columns"], means: Float[np.ndarray, "resamples columns"]
) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
    """Ends of the band that holds all columns' means at once in 95 % of all cases (*sup-t band*).

    Each column's width is the same multiple of its standard error, so that the largest studentised deviation of a
    resample stays within it in 95 % of the resamples. Columns whose values are all equal have no width.

    Source: J. L. Montiel Olea and M. Plagborg-Moeller, Simultaneous confidence bands, J. Appl. Econometrics 34 (2019)
    1-17.
    """
    error = means.std(axis=0)
    spread = error > 0
    if not spread.any():
        return mean, mean
    largest = (np.abs(means - mean)[:, spread] / error[spread]).max(axis=1)
    reach = np.quantile(largest, LEVEL) * error
    return mean - reach, mean + reach


def clustered_mean(
    values: Float[np.ndarray, "questions columns"], images: Shaped[np.ndarray, " questions"], seed: int
) -> Estimate:
    """Mean over questions, with 95 % percentile intervals of the cluster bootstrap, one by one and all at once.

    With fewer than two images no interval can be stated, because the spread between images is unknown: its ends are
    NaN. With few images it is too narrow: in simulations with normal values it held the true mean in 75 % of all cases
    with 3 images, 89 % with 10, 92 % with 20, 94 % with 50 and more. If all values are equal, it has no width.

    Args:
        values: One row per question, in any unit; the columns are a curve.
        images: Each question's image.
        seed: Seed of the resamples.

    Raises:
        ValueError: a value is not finite; leave out missing questions first.
    """
    questions, columns = values.shape
    nothing = np.full(columns, np.nan)
    if questions == 0:
        return Estimate(nothing, nothing, nothing, nothing, nothing)
    means = resampled_means(values, images, seed)
    mean = values.mean(axis=0)
    if len(np.unique(images)) < 2:
        return Estimate(mean, nothing, nothing, nothing, nothing)
    return Estimate(mean, *percentiles(means), *simultaneous_band(mean, means))

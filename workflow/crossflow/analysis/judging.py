"""How a claim is judged: criteria, their numbers with intervals, and verdicts.

A claim is one or several *criteria*, numbers with a threshold each. A number is computed from mean curves, and again in
every resample of images, including the choice of the strongest layer, so that the bias of that choice is estimated and
subtracted. The criterion is met if the whole interval lies on the required side of the threshold, failed if the whole
interval lies on the other side, and undecided otherwise. A claim is supported if all its criteria are met, not
supported if one fails, and undecided otherwise; it is not tested if the study lacks one of its flows, undecided if no
question or only one image is left, and not testable here if no table of this project holds what it speaks of.

Words used by the criteria, for a mean curve of changes in percent:

loss
    The fall of the probability at the centre layer where it falls most, in percent; 0 if it never falls.
largest change
    The largest absolute value of the curve, in percent.
depth
    Where a curve falls: the mean centre layer, weighted by the fall at each layer, from 0 (first layer) to 1 (last).
    Layers with less than a tenth of the loss do not count: over many layers their noise would add up.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from crossflow.analysis.bootstrap import percentiles, resampled_means, unbiased

SUPPORTED, NOT_SUPPORTED, UNDECIDED, NOT_TESTED = "supported", "not supported", "undecided", "not tested"
NOT_TESTABLE = "not testable here"
TOGETHER = "all"
"""Category of a finding that is about all categories."""
_COUNTS = 0.1  # share of a curve's loss; layers with a smaller fall do not count for its depth

Curves = Float[np.ndarray, "resamples layers"]
Numbers = Float[np.ndarray, " resamples"]


class Criterion(NamedTuple):
    """One number of a claim.

    Attributes:
        what: Description of the number.
        value, low, high: The number with its 95 % interval; NaN if it cannot be stated.
        sign: Side of the threshold on which the criterion is met: ``>`` or ``<``.
        threshold: In the number's unit.
        verdict: Met (supported), failed (not supported) or undecided.
    """

    what: str
    value: float
    low: float
    high: float
    sign: str
    threshold: float
    verdict: str


class JudgedClaim(NamedTuple):
    """One claim of one model, in one category or in all of them together.

    Attributes:
        claim: Its number.
        n: Questions that count.
    """

    claim: int
    model: str
    window: str
    category: str
    verdict: str
    n: int
    criteria: tuple[Criterion, ...]


def loss(curves: Curves) -> Numbers:
    """The loss of each curve; see the module's words."""
    return np.asarray(np.maximum(0, -curves.min(axis=-1)))


def largest_change(curves: Curves) -> Numbers:
    """The largest change of each curve; see the module's words."""
    return np.asarray(np.abs(curves).max(axis=-1))


def depth(weights: Curves) -> Numbers:
    """The weighted mean place, from 0 (first column) to 1 (last); 0 if nothing counts.

    Args:
        weights: Negative weights, and weights below a tenth of the largest, do not count.
    """
    places = np.linspace(0, 1, weights.shape[-1])
    counted = np.maximum(0, weights)
    counted = np.where(counted >= _COUNTS * counted.max(axis=-1, keepdims=True), counted, 0)
    total = counted.sum(axis=-1)
    return np.asarray((counted * places).sum(axis=-1) / np.where(total > 0, total, 1))


def judge(low: float, high: float, sign: str, threshold: float) -> str:
    """The verdict on a number by its interval: met on the side that ``sign`` says (``>`` or ``<``)."""
    if not low > threshold and not high < threshold:
        return UNDECIDED
    return SUPPORTED if (low > threshold) == (sign == ">") else NOT_SUPPORTED


def together(verdicts: Sequence[str]) -> str:
    """The verdict of a claim from those of its criteria."""
    if NOT_SUPPORTED in verdicts:
        return NOT_SUPPORTED
    return SUPPORTED if verdicts and set(verdicts) == {SUPPORTED} else UNDECIDED


Statistic = Callable[..., Numbers]


class CriterionSpec(NamedTuple):
    """A criterion before it is judged: its description, its statistic of mean curves, and its threshold.

    Attributes:
        chooses: Whether the statistic takes a curve's largest value, which is biased (see `bootstrap.unbiased`).
    """

    what: str
    statistic: Statistic
    sign: str
    threshold: float
    chooses: bool = True


def criterion_of(spec: CriterionSpec, value: float, samples: Numbers) -> Criterion:
    """Judge a number by its value in each resample."""
    if spec.chooses:
        value, low, high = unbiased(value, samples)
    else:
        low, high = (float(end[0]) for end in percentiles(samples[:, None]))
    return Criterion(
        spec.what, value, low, high, spec.sign, spec.threshold, judge(low, high, spec.sign, spec.threshold)
    )


def criteria_of(
    values: Sequence[Curves], images: np.ndarray, seed: int, asked: Sequence[CriterionSpec]
) -> tuple[Criterion, ...]:
    """Judge statistics of the mean curves of the same questions."""
    if len(np.unique(images)) < 2:
        return tuple(Criterion(one.what, np.nan, np.nan, np.nan, one.sign, one.threshold, UNDECIDED) for one in asked)
    cuts = np.cumsum([each.shape[1] for each in values])[:-1]
    beside = np.concatenate(values, axis=1)
    means = np.split(beside.mean(axis=0, keepdims=True), cuts, axis=1)
    resampled = np.split(resampled_means(beside, images, seed), cuts, axis=1)
    return tuple(criterion_of(one, float(one.statistic(*means)[0]), one.statistic(*resampled)) for one in asked)

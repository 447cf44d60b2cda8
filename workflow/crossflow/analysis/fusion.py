"""Fusion depth: after how many layers the image has been read, and from which layer on it can be dropped.

A *cut* divides a model of N layers into the first L and the rest. Flows that hide the whole image from everything after
it leave it to be read below the cut only (window ``top`` at centre layer L) or above it only (``bottom`` at centre
layer L - 1). A measure m is the probability of the clean answer's first token, or accuracy. Of what the image gives,
a cut leaves the

    share(L) = (m_cut(L) - m_swapped) / (m_clean - m_swapped),

a ratio of means over the questions that have all three; m_swapped is the answer to another question's image. Where
nothing is blocked (``top`` at N, ``bottom`` at 0) the share is 1 by definition. Where every layer is blocked it need
not be 0, for a hidden image is not another image.

The *gain* is the share for ``top`` and 1 minus the share for ``bottom``; its `crossflow.analysis.depth` at 20, 50 and
80 % is the fusion depth. There is none if the image gives nothing measurable (the 95 % interval of m_clean - m_swapped
does not lie above 0), or if the share that is left with the image hidden everywhere puts the point out of reach.

The image *can be dropped* after the first L from which on the loss, m_clean - m_cut, stays below `NEGLIGIBLE` points at
the upper end of its simultaneous band. Where no question lost anything, resamples show no spread; the upper end is then
the largest loss of accuracy that leaves such a sample a chance of 2.5 % (C. J. Clopper and E. S. Pearson, Biometrika 26
(1934) 404-413), which is below 1 point from 368 images on.

Accuracy under a knockout is that of the answer's first token; with the image, or another one, it is that of the whole
answer. Where wrong answers begin as the right one does, shares of accuracy are too high.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from crossflow.analysis.bootstrap import LEVEL, percentiles, resampled_means, simultaneous_band
from crossflow.analysis.depth import crossings
from crossflow.core.flows import TOP

SHARES = (0.2, 0.5, 0.8)
"""Shares of what the image gives whose depth is stated."""
NEGLIGIBLE = 1.0
"""Percentage points: an image whose loss stays below it can be dropped."""
_SMALLEST = 1e-9  # of a resample's m_clean - m_swapped, so that its shares are large and not undefined


class Cut(NamedTuple):
    """A measure of each question at every cut of a model, by one window and flow.

    Attributes:
        window: ``top`` or ``bottom``.
        layers: Number of decoder layers.
        places: Layers below each cut, ascending; among them the one where nothing is blocked.
        images: Each question's image.
        values: One column per place, and the measure with another question's image as the last; fractions, 0 to 1.
    """

    window: str
    layers: int
    places: tuple[int, ...]
    images: Shaped[np.ndarray, " questions"]
    values: Float[np.ndarray, "questions columns"]

    @property
    def clean(self) -> int:
        """The column where nothing is blocked."""
        return len(self.places) - 1 if self.window == TOP else 0

    @property
    def hidden(self) -> int:
        """The column where most is blocked: every layer, or all but a few if centre layers are left out."""
        return 0 if self.window == TOP else len(self.places) - 1


class Numbers(NamedTuple):
    """Numbers with the ends of their 95 % intervals; NaN where they are missing."""

    value: Float[np.ndarray, " numbers"]
    low: Float[np.ndarray, " numbers"]
    high: Float[np.ndarray, " numbers"]


class Fusion(NamedTuple):
    """What a cut leaves of the image.

    Attributes:
        n: Questions.
        given: m_clean - m_swapped, in percentage points; one number.
        share: Of each place; missing if the image gives nothing measurable.
        loss: m_clean minus the measure at each place, in percentage points.
        loss_band: Upper end of the band of the whole curve of losses, in percentage points.
        depths: After how many layers each of `SHARES` is read (``top``) or lost (``bottom``).
        dropped: The place after which the image can be dropped; None if there is none.
    """

    n: int
    given: Numbers
    share: Numbers
    loss: Numbers
    loss_band: Float[np.ndarray, " places"]
    depths: Numbers
    dropped: int | None


def together(cuts: Sequence[Cut]) -> Cut:
    """The questions of several categories as one."""
    images, values = (np.concatenate(parts) for parts in ([cut.images for cut in cuts], [cut.values for cut in cuts]))
    return cuts[0]._replace(images=images, values=values)


def _missing(count: int) -> Numbers:
    return Numbers(*np.full((3, count), np.nan))


def _with_interval(value: np.ndarray, samples: Float[np.ndarray, "resamples columns"]) -> Numbers:
    return Numbers(value, *percentiles(samples))


def _shares(means: Float[np.ndarray, "samples columns"], clean: int) -> Float[np.ndarray, "samples places"]:
    given = np.maximum(means[:, clean] - means[:, -1], _SMALLEST)
    shares = np.asarray((means[:, :-1] - means[:, -1:]) / given[:, None])
    shares[:, clean] = 1  # by definition, also where nothing is given
    return shares


def _depths(cut: Cut, share: Float[np.ndarray, "1 places"], shares: Float[np.ndarray, "resamples places"]) -> Numbers:
    """After how many layers each of `SHARES` is read or lost, from the shares that are left."""
    gain, gains = (share, shares) if cut.window == TOP else (1 - share, 1 - shares)
    value = np.concatenate([crossings(gain, cut.places, each) for each in SHARES])
    # Resamples that never reach a share do so after the last layer at the earliest.
    samples = np.stack([crossings(gains, cut.places, each).clip(max=cut.layers) for each in SHARES], axis=1)
    reached = (value > 0) & (value <= cut.layers)
    return Numbers(*(np.where(reached, each, np.nan) for each in _with_interval(value, samples)))


def _losses(cut: Cut, means: Float[np.ndarray, "resamples columns"]) -> tuple[Numbers, Float[np.ndarray, " places"]]:
    """Loss at each place with its interval, and the upper end of the band, in percentage points."""
    lost = 100 * (cut.values[:, [cut.clean]] - cut.values[:, :-1])
    samples = 100 * (means[:, [cut.clean]] - means[:, :-1])
    loss = _with_interval(lost.mean(axis=0), samples)
    band = simultaneous_band(loss.value, samples)[1]
    unseen = 100 * (1 - ((1 - LEVEL) / 2) ** (1 / len(np.unique(cut.images))))
    untouched = (lost == 0).all(axis=0)
    untouched[cut.clean] = False  # 0 by definition
    return loss._replace(high=np.where(untouched, unseen, loss.high)), np.where(untouched, unseen, band)


def _dropped(cut: Cut, band: Float[np.ndarray, " places"]) -> int | None:
    """The first place from which on the band stays below `NEGLIGIBLE`; None if only the clean run does."""
    above = np.flatnonzero(band[:-1] >= NEGLIGIBLE)
    first = int(above[-1]) + 1 if len(above) else 0
    return cut.places[first] if cut.window == TOP and first < cut.clean else None


def fuse(cut: Cut, seed: int) -> Fusion:
    """Shares, losses and depths of a cut; questions of fewer than two images have losses without intervals only."""
    n, places, clean = len(cut.values), len(cut.places), cut.clean
    nothing = Fusion(
        n, _missing(1), _missing(places), _missing(places), np.full(places, np.nan), _missing(len(SHARES)), None
    )
    if not n:
        return nothing
    mean = cut.values.mean(axis=0, keepdims=True)
    if len(np.unique(cut.images)) < 2:
        return nothing._replace(loss=nothing.loss._replace(value=100 * (mean[0, clean] - mean[0, :-1])))
    means = resampled_means(cut.values, cut.images, seed)
    loss, band = _losses(cut, means)
    given = _with_interval(*(100 * (each[..., [clean]] - each[..., -1:]) for each in (mean[0], means)))
    found = nothing._replace(given=given, loss=loss, loss_band=band, dropped=_dropped(cut, band))
    if not given.low[0] > 0:
        return found
    share, shares = _shares(mean, clean), _shares(means, clean)
    return found._replace(share=_with_interval(share[0], shares), depths=_depths(cut, share, shares))

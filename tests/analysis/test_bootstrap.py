"""Intervals: what they cover, what they depend on, and when they cannot be stated."""

import numpy as np
import pytest

from crossflow.analysis.bootstrap import clustered_mean, resampled_means, simultaneous_band, unbiased
from crossflow.core.seeds import derived_seed


def _coverage(clustered: bool) -> float:
    """How often the interval holds the true mean 0, over 30 samples of 120 images x 300 independent curves.

    An image has 1 to 5 questions, which share an effect twice as large as their own noise.
    """
    held = []
    for sample in range(30):
        generator = np.random.default_rng(sample)
        images = np.repeat(np.arange(120), generator.integers(1, 6, 120))
        shared = generator.normal(size=(120, 300))[images]
        values = shared + generator.normal(scale=0.5, size=shared.shape)
        clusters = images if clustered else np.arange(len(images))
        estimate = clustered_mean(values, clusters, seed=sample)
        held.append((estimate.low <= 0) & (estimate.high >= 0))
    return float(np.mean(held))


def test_intervals_clustered_by_image_hold_the_true_mean_in_93_to_97_of_100_cases() -> None:
    assert 0.93 <= _coverage(clustered=True) <= 0.97


def test_intervals_that_ignore_the_images_are_far_too_narrow() -> None:
    assert _coverage(clustered=False) < 0.85


def test_bands_hold_the_means_of_all_layers_at_once_in_93_to_97_of_100_cases() -> None:
    """Curves of 24 layers of 150 images with 1 to 3 questions; noise is shared by images and by layers."""
    held = pointwise = 0
    samples = 400
    for sample in range(samples):
        rng = np.random.default_rng(sample)
        images = np.repeat(np.arange(150), rng.integers(1, 4, 150))
        shared = rng.normal(size=(150, 24))[images] + rng.normal(size=(150, 1))[images]
        estimate = clustered_mean(shared + 0.5 * rng.normal(size=shared.shape), images, seed=sample)
        held += bool(((estimate.band_low <= 0) & (estimate.band_high >= 0)).all())
        pointwise += bool(((estimate.low <= 0) & (estimate.high >= 0)).all())
    assert 0.93 <= held / samples <= 0.97
    assert pointwise / samples < 0.8, "pointwise intervals do not hold a whole curve"


def test_a_band_has_no_width_where_nothing_varies() -> None:
    values = np.array([[1.0, 0.0], [1.0, 2.0], [1.0, 4.0]])
    means = resampled_means(values, np.arange(3), 0)
    low, high = simultaneous_band(values.mean(axis=0), means)
    assert (low[0], high[0]) == (1.0, 1.0)
    assert low[1] < 2.0 < high[1]


def test_part_of_the_bias_of_choosing_the_largest_is_taken_off() -> None:
    """The largest of 20 means that are all 0, the hardest case, for no column stands out."""
    found, lows = [], []
    for sample in range(60):
        values = np.random.default_rng(sample).normal(size=(100, 20))
        means = resampled_means(values, np.arange(100), sample)
        value, low, _ = unbiased(float(values.mean(axis=0).max()), means.max(axis=1))
        found.append((float(values.mean(axis=0).max()), value))
        lows.append(low)
    chosen, corrected = np.mean(found, axis=0)
    assert chosen > 0.15
    assert 0 < corrected < 0.65 * chosen
    # The standard error of a mean is 0.1.
    assert np.mean(np.array(lows) > 0.1) < 0.1


def test_two_images_give_the_interval_that_is_counted_by_hand() -> None:
    # Resamples: the first image twice (mean 0), both (mean 1), the second twice (mean 4); 1/4, 1/2, 1/4.
    values = np.array([[0.0], [0.0], [0.0], [4.0]])
    estimate = clustered_mean(values, np.array(["a", "a", "a", "b"], dtype=object), seed=0)
    assert (estimate.mean[0], estimate.low[0], estimate.high[0]) == (1.0, 0.0, 4.0)


def test_questions_of_one_image_have_a_mean_but_no_interval() -> None:
    estimate = clustered_mean(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array(["a", "a"]), seed=0)
    assert estimate.mean.tolist() == [2.0, 3.0]
    assert np.isnan(estimate.low).all() and np.isnan(estimate.high).all()


def test_no_question_gives_no_number() -> None:
    estimate = clustered_mean(np.empty((0, 3)), np.array([], dtype=object), seed=0)
    assert all(np.isnan(part).all() and part.shape == (3,) for part in estimate)


def test_a_missing_value_is_refused_and_not_averaged() -> None:
    with pytest.raises(ValueError, match="leave missing questions out"):
        clustered_mean(np.array([[1.0], [np.nan]]), np.array(["a", "b"]), seed=0)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(1).normal(size=(40, 2))
    images = np.arange(40) // 2
    first, again, other = (clustered_mean(values, images, seed) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first.low, other.low)


def test_a_curve_has_the_same_interval_alone_and_beside_others() -> None:
    values = np.random.default_rng(2).normal(size=(40, 3))
    images = np.arange(40) // 2
    together = clustered_mean(values, images, seed=0)
    alone = clustered_mean(values[:, 1:2], images, seed=0)
    # A matrix product may add in another order.
    assert alone.low[0] == pytest.approx(together.low[1], rel=1e-12)


def test_derived_seeds_differ_by_every_part_and_never_change() -> None:
    seed = derived_seed(0, "mini-llava", "ChooseAttr", "image->last", "3")
    assert seed == 0xE7E37CFCFD79DD4494D05146766B953A
    others = {
        derived_seed(1, "mini-llava", "ChooseAttr", "image->last", "3"),
        derived_seed(0, "mini-llava", "ChooseAttr", "image->last", "7"),
        derived_seed(0, "mini-llava", "ChooseAttr", "image", "->last3"),
    }
    assert len(others | {seed}) == 4

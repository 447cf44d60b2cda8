"""Coefficients of heads from knockouts of random subsets: what they estimate, their intervals, and what is refused."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crossflow.analysis.head_subsets import FEWEST_PER_HEAD, Sample, explained, fit, tables
from crossflow.analysis.results import Results
from crossflow.core.errors import CrossflowError
from crossflow.core.head_subsets import draw_subsets, read_subsets, written
from crossflow.core.measures import HEADS
from crossflow.core.tables import write_parquet

SHAPE = (3, 4)
CELLS = 12


def _knockouts(
    effect, questions: int, subsets: int, seed: int = 0, noise: float = 0.0
) -> tuple[np.ndarray, pd.DataFrame]:  # type: ignore[no-untyped-def]
    """Random subsets of questions, two to an image, and the effect of each: (knockouts, heads), other columns."""
    generator = np.random.default_rng(seed)
    blocked = generator.random((questions * subsets, CELLS)) < 0.5
    question = np.repeat(np.arange(questions), subsets)
    base = generator.normal(0, 20, questions)[question]
    change = base + effect(blocked, question) + noise * generator.normal(size=len(question))
    return blocked, pd.DataFrame(
        {
            "question_id": [f"q{each}" for each in question],
            "image_id": [f"i{each // 2}" for each in question],
            "change_percent": change,
        }
    )


def test_subsets_survive_the_table_and_hold_only_heads_of_the_chosen_layers() -> None:
    drawn = draw_subsets(0, "q1", 50, 0.5, [0, 2], SHAPE)
    np.testing.assert_array_equal(read_subsets([written(subset) for subset in drawn], SHAPE), drawn)
    assert not drawn[:, 1].any()
    assert 0.4 < drawn[:, [0, 2]].mean() < 0.6
    assert (draw_subsets(0, "q1", 50, 0.5, [0, 2], SHAPE) == drawn).all()
    assert (draw_subsets(0, "q2", 50, 0.5, [0, 2], SHAPE) != drawn).any()
    assert draw_subsets(0, "q1", 500, 0.1, range(3), SHAPE).mean() == pytest.approx(0.1, abs=0.02)


def test_effects_that_add_up_are_found_exactly_whatever_the_level_of_each_question() -> None:
    true = np.linspace(-12, 3, CELLS)
    sample = Sample.of(*_knockouts(lambda blocked, _: blocked @ true, 10, 8))
    found = fit(sample)
    np.testing.assert_allclose(found.mean, true, atol=1e-9)
    np.testing.assert_allclose(found.high - found.low, 0, atol=1e-9)
    assert explained(sample, 0) == pytest.approx(1)


def test_a_head_that_another_can_replace_counts_in_subsets() -> None:
    # The change is -40 only if both heads 2 and 7 are out: alone, neither matters. Each adds -40 in half of the subsets.
    sample = Sample.of(*_knockouts(lambda blocked, _: -40.0 * (blocked[:, 2] & blocked[:, 7]), 200, 20))
    found = fit(sample)
    assert found.mean[[2, 7]] == pytest.approx(-20, abs=1)
    assert np.abs(np.delete(found.mean, [2, 7])).max() < 1
    assert found.high[[2, 7]].max() < -15
    # Of the variance 40^2 (1/4 - 1/16), two independent coefficients of 20 explain 2 * 20^2 / 4.
    assert explained(sample, 0) == pytest.approx(200 / 300, abs=0.05)


def test_coefficients_are_banzhaf_values() -> None:
    generator = np.random.default_rng(3)
    values = generator.normal(size=2**4) * 10
    every = np.array(list(product([False, True], repeat=4)))
    rows = pd.DataFrame({"question_id": "q", "image_id": "i", "change_percent": values}, index=range(16))
    by_subset = dict(zip(map(tuple, every.tolist()), values.tolist(), strict=True))
    banzhaf = [
        np.mean([by_subset[(*s[:h], True, *s[h + 1 :])] - by_subset[(*s[:h], False, *s[h + 1 :])] for s in by_subset])
        for h in range(4)
    ]
    np.testing.assert_allclose(fit(Sample.of(every, rows)).mean, banzhaf, atol=1e-9)


def test_intervals_are_those_of_leaving_out_each_image() -> None:
    blocked, rows = _knockouts(lambda blocked, question: blocked @ np.arange(CELLS) + question, 12, 6, noise=5.0)
    found = fit(Sample.of(blocked, rows))
    without = []
    for image in rows["image_id"].unique():
        kept = (rows["image_id"] != image).to_numpy()
        sample = Sample.of(blocked[kept], rows[kept])
        without.append(np.linalg.lstsq(sample.blocked, sample.change, rcond=None)[0])
    error = np.sqrt((len(without) - 1) / len(without) * ((np.array(without) - found.mean) ** 2).sum(axis=0))
    np.testing.assert_allclose(found.high - found.mean, 1.959964 * error, rtol=1e-6)


def test_too_few_subsets_or_images_give_no_number() -> None:
    enough = FEWEST_PER_HEAD * CELLS + 4
    for subsets, is_enough in ((enough // 4, True), (enough // 4 - 1, False)):
        sample = Sample.of(*_knockouts(lambda blocked, _: blocked[:, 0] * 1.0, 4, subsets))
        assert np.isfinite(fit(sample).mean).all() == is_enough
    blocked, rows = _knockouts(lambda blocked, _: blocked[:, 0] * 1.0, 2, 40)
    found = fit(Sample.of(blocked, rows))
    assert np.isfinite(found.mean).all()
    assert np.isnan(found.low).all()
    assert np.isnan(explained(Sample.of(blocked, rows), 0))


def _results(folder: Path, change: float) -> Results:
    rows = [
        {
            "question_id": f"q{question}", "image_id": f"i{question}", "flow": "image->last", "layer": None, "head": None,
            "subset": written(subset), "p_clean": 0.5, "p_knockout": 0.4, "change_percent": change * subset[0, 1],
            "logprob_change": 0.0, "edges": 3,
        }
        for question in range(6)
        for subset in draw_subsets(0, str(question), 10, 0.5, range(SHAPE[0]), SHAPE)
    ]  # fmt: skip
    path = folder / "heads" / "llava" / "ChooseAttr.parquet"
    path.parent.mkdir(parents=True)
    write_parquet(path, HEADS, rows, {"layers": SHAPE[0], "heads": SHAPE[1], "noise_floor_percent": None})
    return Results(folder, ("llava:3",), ("ChooseAttr",), 0)


def test_the_table_has_a_row_for_each_head(tmp_path: Path) -> None:
    rows = pd.DataFrame(tables(_results(tmp_path, -30.0))["head_subsets"])
    assert list(zip(rows["layer"], rows["head"], strict=True)) == list(np.ndindex(SHAPE))
    assert set(rows["n"]) == {6}
    assert set(rows["subsets"]) == {60}
    assert rows["mean"].to_numpy() == pytest.approx([-30.0 if cell == (0, 1) else 0.0 for cell in np.ndindex(SHAPE)])


def test_a_change_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CrossflowError, match="Subsets of heads of llava, ChooseAttr, image->last: a knockout"):
        tables(_results(tmp_path, float("nan")))


@pytest.mark.slow
@pytest.mark.parametrize(("questions", "subsets"), [(60, 8), (300, 2)])
def test_intervals_hold_the_truth_in_93_to_97_percent(questions: int, subsets: int) -> None:
    # Effects differ between images and saturate. The truth is the mean of many samples' coefficients.
    true = np.linspace(-6, 2, CELLS)

    def one(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed + 10_000)
        own = true + generator.normal(0, 4, (questions // 2, CELLS))

        def effect(blocked: np.ndarray, question: np.ndarray) -> np.ndarray:
            return 60 * np.tanh((blocked * own[question // 2]).sum(axis=1) / 60)

        return fit(Sample.of(*_knockouts(effect, questions, subsets, seed, noise=6.0)))

    fits = [one(seed) for seed in range(600)]
    truth = np.mean([each[0] for each in fits], axis=0)
    held = np.mean([(each[1] <= truth) & (truth <= each[2]) for each in fits])
    assert 0.93 <= held <= 0.97, held

"""Fusion depth: planted layers come out, intervals hold them, and what cannot be stated is missing with its reason."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossflow.analysis.depth import crossings, rising
from crossflow.analysis.fusion import SHARES, Cut, fuse
from crossflow.analysis.fusion_tables import depth_sentence, dropped_sentence
from crossflow.analysis.planned import drops_image, hides_image
from crossflow.analysis.tables import COLUMNS
from crossflow.cli.main import main
from crossflow.core.measures import KNOCKOUT
from crossflow.core.tables import ANSWERS, read_csv, write_parquet
from cuts import planted_cut
from planned_study import planned

HALF = SHARES.index(0.5)


def _cut(curve: list[float], swapped: float = 0.0, window: str = "top", images: int = 40) -> Cut:
    """Questions that all have the same curve; each has its own image."""
    values = np.tile([*curve, swapped], (images, 1)).astype(float)
    return Cut(window, len(curve) - 1, tuple(range(len(curve))), np.arange(images), values)


def test_the_rising_fit_pools_layers_between_which_a_curve_falls() -> None:
    curves = np.array([[0.0, 0.5, 0.1, 0.9, 1.0], [0.0, 0.2, 0.3, 0.9, 1.0], [1.0, 0.5, 0.0, 0.0, 0.0]])
    expected = [[0.0, 0.3, 0.3, 0.9, 1.0], [0.0, 0.2, 0.3, 0.9, 1.0], [0.3] * 5]
    assert rising(curves) == pytest.approx(np.array(expected))


def test_no_other_rising_curve_is_closer_than_the_fit() -> None:
    rng = np.random.default_rng(0)
    curve = rng.normal(size=(1, 8))
    fit = rising(curve)
    assert (np.diff(fit) >= 0).all()
    others = np.sort(fit + 0.1 * rng.normal(size=(2000, 8)), axis=1)
    assert ((others - curve) ** 2).sum(axis=1).min() > ((fit - curve) ** 2).sum()


@pytest.mark.parametrize(
    ("curve", "places", "depth"),
    [
        ([0.0, 0.25, 0.75, 1.0], [0, 1, 2, 3], 1.5),
        ([0.0, 0.25, 0.75, 1.0], [0, 4, 8, 10], 6.0),
        ([0.0, 0.6, 0.4, 1.0], [0, 1, 2, 3], 1.0),
        ([0.6, 0.7, 0.8, 1.0], [0, 1, 2, 3], 0.0),
        ([0.0, 0.1, 0.2, 0.4], [0, 1, 2, 3], math.inf),
    ],
)
def test_a_depth_is_where_the_fit_crosses_half_linear_between_places(
    curve: list[float], places: list[int], depth: float
) -> None:
    assert crossings(np.array([curve]), places, 0.5).tolist() == pytest.approx([depth])


@pytest.mark.parametrize("window", ["top", "bottom"])
def test_the_planted_layer_comes_out_from_below_and_from_above(window: str) -> None:
    cut = planted_cut(np.random.default_rng(0), images=150, layers=12, steps={5.0: 1.0}, window=window, spread=0.3)
    found = fuse(cut, 0)
    assert found.depths.value[HALF] == pytest.approx(5, abs=0.15)
    assert (found.depths.low < found.depths.value).all() and (found.depths.value < found.depths.high).all()
    assert found.depths.value[0] < found.depths.value[1] < found.depths.value[2]
    assert found.share.value[cut.clean] == found.share.low[cut.clean] == found.share.high[cut.clean] == 1
    assert found.loss.value[cut.clean] == 0
    verb = "is read within" if window == "top" else "is lost if the image is not read in"
    low, high = found.depths.low[HALF], found.depths.high[HALF]
    assert depth_sentence(cut, found, HALF) == (
        f"Half of what the image gives {verb} the first {found.depths.value[HALF]:.1f} layers (95 % interval "
        f"{low:.1f} to {high:.1f})."
    )


def test_a_share_is_a_ratio_of_means_and_a_loss_is_in_points() -> None:
    found = fuse(_cut([0.2, 0.5, 0.8], swapped=0.3), 0)
    assert found.share.value == pytest.approx([-0.2, 0.4, 1.0])
    assert found.loss.value == pytest.approx([60, 30, 0])
    assert found.given.value == pytest.approx([50])
    assert found.depths.value == pytest.approx([2 / 3, 1 + 1 / 6, 1 + 2 / 3])


def test_an_image_that_gives_nothing_measurable_has_no_share_but_losses() -> None:
    rng = np.random.default_rng(3)
    cut = _cut([0.5] * 5, swapped=0.5)
    cut = cut._replace(values=cut.values + 0.1 * rng.normal(size=cut.values.shape))
    found = fuse(cut, 0)
    assert np.isnan(found.share).all() and np.isnan(found.depths).all()
    assert np.isfinite(found.loss).all()
    for which in range(len(SHARES)):
        assert depth_sentence(cut, found, which).startswith("Not stated: the image gives nothing measurable (")


@pytest.mark.parametrize(("images", "reason"), [(0, "no question has this flow"), (1, "a single image")])
def test_without_two_images_nothing_is_stated_and_the_reason_is(images: int, reason: str) -> None:
    cut = _cut([0.0, 0.5, 1.0], images=images)
    found = fuse(cut, 0)
    assert found.n == images
    assert np.isnan(found.depths).all() and np.isnan(found.share).all() and found.dropped is None
    assert reason in depth_sentence(cut, found, HALF)
    assert reason in dropped_sentence(cut, found)
    assert np.isnan(found.loss.value).all() == (images == 0)


@pytest.mark.parametrize(("window", "stated"), [("top", [False, True, True]), ("bottom", [True, True, False])])
def test_points_that_the_hidden_image_puts_out_of_reach_are_missing(window: str, stated: list[bool]) -> None:
    curve = [0.3, 0.3, 0.6, 1.0] if window == "top" else [1.0, 0.6, 0.3, 0.3]
    cut = _cut(curve, window=window)
    found = fuse(cut, 0)
    assert np.isfinite(found.depths.value).tolist() == np.isfinite(found.depths.high).tolist() == stated
    reason = "Not stated: if the image is not read in all 3 layers, 30 % of what it gives is left."
    assert depth_sentence(cut, found, stated.index(False)) == reason


def test_a_cut_without_the_last_layers_says_how_far_the_image_was_hidden() -> None:
    cut = _cut([1.0, 0.6, 0.3], window="bottom")._replace(layers=4, places=(0, 1, 3))
    reason = "Not stated: if the image is not read in the first 3 of 4 layers, 30 % of what it gives is left."
    assert depth_sentence(cut, fuse(cut, 0), 2) == reason
    assert fuse(cut, 0).depths.value[HALF] == pytest.approx(1 + 2 / 3)


def test_the_image_is_dropped_where_the_band_stays_below_a_point() -> None:
    rng = np.random.default_rng(0)
    curve = [0.2, 0.8, 0.5, 0.8, 0.8, 0.8]
    cut = _cut(curve, images=200)
    cut = cut._replace(values=cut.values + 0.01 * rng.normal(size=cut.values.shape))
    found = fuse(cut, 0)
    # At layer 1 the loss is small, but it grows again.
    assert found.dropped == 3
    assert (found.loss_band >= found.loss.high - 1e-9)[:-1].all()
    assert dropped_sentence(cut, found).startswith(
        f"The image can be dropped after 3 of 5 layers: the loss is {found.loss.value[3]:z.1f} points, and from there on "
    )
    assert fuse(cut._replace(window="bottom", values=cut.values[:, [5, 4, 3, 2, 1, 0, 6]]), 0).dropped is None


@pytest.mark.parametrize(("images", "dropped"), [(367, None), (368, 1)])
def test_answers_that_all_stay_right_are_no_proof_of_a_small_loss_with_few_images(
    images: int, dropped: int | None
) -> None:
    cut = _cut([0.0, 1.0, 1.0], images=images)
    found = fuse(cut, 0)
    assert found.dropped == dropped
    assert found.loss_band[1] == pytest.approx(100 * (1 - 0.025 ** (1 / images)))
    assert found.loss_band[2] == 0
    if dropped is None:
        sentence = "Not stated: even if the image is dropped after 1 of 2 layers, the loss may be 1.0 points."
        assert dropped_sentence(cut, found) == sentence


def _coverage(samples: int, **planted: Any) -> dict[str, float]:
    """How often the intervals of the depths and of the shares, and the bands of the losses, hold the truth."""
    many = [planted_cut(np.random.default_rng(10**6 + seed), **planted | {"images": 20_000}) for seed in range(4)]
    means = np.mean([cut.values.mean(axis=0) for cut in many], axis=0)
    window, places, clean = many[0].window, many[0].places, many[0].clean
    share = (means[:-1] - means[-1]) / (means[clean] - means[-1])
    loss = 100 * (means[clean] - means[:-1])
    gain = share if window == "top" else 1 - share
    depths = np.array([crossings(gain[None], places, wanted)[0] for wanted in SHARES])
    inner = np.arange(len(places)) != clean
    held: dict[str, list[float]] = {"depths": [], "shares": [], "bands": []}
    for seed in range(samples):
        found = fuse(planted_cut(np.random.default_rng(seed), **planted), seed)
        held["depths"].append(np.mean((found.depths.low <= depths) & (depths <= found.depths.high)))
        held["shares"].append(np.mean(((found.share.low <= share) & (share <= found.share.high))[inner]))
        held["bands"].append(float((loss <= found.loss_band).all()))
    return {name: float(np.mean(values)) for name, values in held.items()}


PLANTED = {
    "steep": {"layers": 12, "steps": {4.6: 1.0}, "noise": 0.05},
    "slow": {"layers": 32, "steps": {15.3: 1.0}, "spread": 5.0},
    "two stages": {"layers": 32, "steps": {7.2: 0.4, 21.4: 0.6}},
    "right or wrong": {"layers": 12, "steps": {4.6: 1.0}, "spread": 2.0, "binary": True},
    "from above": {"layers": 12, "steps": {5.5: 1.0}, "spread": 2.0, "window": "bottom", "noise": 0.2},
}


def test_intervals_of_depths_and_shares_hold_a_planted_truth() -> None:
    found = _coverage(40, images=80, **PLANTED["right or wrong"])
    # 120 depths and 480 shares, of 40 independent samples.
    assert 0.89 <= found["depths"] <= 0.99
    assert 0.90 <= found["shares"] <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLANTED)
def test_intervals_of_depths_and_shares_hold_a_planted_truth_in_93_to_97_of_100_cases(kind: str) -> None:
    found = _coverage(500, images=150, **PLANTED[kind])
    assert 0.93 <= found["depths"] <= 0.97
    assert 0.93 <= found["shares"] <= 0.97
    # One end of a band with two.
    assert found["bands"] >= 0.93


def test_flows_that_hide_the_whole_image_and_nothing_else_are_cut() -> None:
    assert hides_image("image->all")
    others = [
        "image->last", "related->all", "image~random1->all", "image~random->all", "only:image->question",
        "image->all+question->last",
    ]  # fmt: skip
    assert not any(map(hides_image, others))


@pytest.mark.parametrize(
    ("changed", "computed"),
    [
        ({}, True),
        ({"windows": {"m": ["3", "top"]}}, True),
        ({"flows": ["image->last"], "controls": ["image->all"]}, True),
        ({"windows": {"m": ["3"]}}, False),
        ({"flows": ["image->last"]}, False),
        ({"baselines": ["zeroed"]}, False),
    ],
)
def test_a_study_has_a_fusion_depth_if_it_computes_what_that_needs(changed: dict[str, Any], computed: bool) -> None:
    study = {"windows": {"m": ["bottom", "top"]}, "flows": ["image->all"], "controls": [], "baselines": ["swapped"]}
    assert drops_image(planned(**study | changed)) == computed


SHARES_LEFT = {"top": [0.0, 0.5, 0.75], "bottom": [0.75, 0.5, 0.0]}
"""Window -> what is left with each centre layer of a model of three."""


def _write(results: Path, category: str, count: int) -> None:
    """Questions answered with probability 0.8, and 0.4 with another image; the last two cannot count."""
    ids = [f"{category}{number}" for number in range(count)]
    answers = [
        {"question_id": id, "image_id": id, "correct": True, "p_clean": 0.8, "correct_swapped": False, "p_swapped": 0.4}
        for id in ids
    ]
    answers[-1] |= {"correct_swapped": None, "p_swapped": None}
    write_parquet(results / f"answers/mini/{category}.parquet", ANSWERS, answers, {})
    for window, left in SHARES_LEFT.items():
        rows = [
            {
                "question_id": id,
                "image_id": id,
                "flow": flow,
                "layer": layer,
                "change_percent": None if id == ids[-2] else 100 * (0.4 + 0.4 * share) / 0.8 - 100,
                "correct": share > 0.5,
                "edges": 0 if id == ids[-2] else 9,
            }
            for id in ids
            for flow in ("image->last", "image->all")
            for layer, share in enumerate(left)
        ]
        flows = ["image->last", "image->all"]
        metadata = {"layers": 3, "window": window, "flows": flows, "centres": {flow: [0, 1, 2] for flow in flows}}
        metadata |= {"selected": count, "noise_floor": None, "noise_floor_percent": None}
        write_parquet(results / f"knockout/mini/w{window}/{category}.parquet", KNOCKOUT, rows, metadata)


def test_a_study_has_a_curve_and_a_sentence_for_each_window_measure_and_category(tmp_path: Path) -> None:
    for category, count in (("one", 10), ("two", 6)):
        _write(tmp_path, category, count)
    options = ["--curves", "mini:7", "mini:bottom", "mini:top", "--categories", "one", "two", "--seed", "0"]
    assert main(["summary", "--summary", "fusion", "--results", str(tmp_path), *options]) == 0
    curves, points = (read_csv(tmp_path / f"summary/{name}.csv", COLUMNS[name]) for name in ("fusion", "fusion_depth"))
    found: dict[tuple[str, ...], list[float]] = {}
    for row in curves:
        assert row["flow"] == "image->all"
        assert row["n"] == {"one": 8, "two": 4, "all": 12}[row["category"]]
        found.setdefault((row["category"], row["window"], row["measure"]), []).append(row["share"])
    expected = {
        ("top", "probability"): [0, 0.5, 0.75, 1],
        ("top", "accuracy"): [0, 0, 1, 1],
        ("bottom", "probability"): [1, 0.75, 0.5, 0],
        ("bottom", "accuracy"): [1, 1, 0, 0],
    }
    assert found == {
        (category, *which): pytest.approx(shares)
        for which, shares in expected.items()
        for category in ("one", "two", "all")
    }
    depths = {(row["category"], row["window"], row["measure"], row["point"]): row for row in points}
    assert len(depths) == len(points) == 3 * 2 * (3 + 4)
    for category in ("one", "two", "all"):
        depth = [depths[category, "top", "probability", f"{point} %"]["depth"] for point in (20, 50, 80)]
        assert depth == pytest.approx([0.4, 1.0, 2.2])
        depth = [depths[category, "bottom", "probability", f"{point} %"]["depth"] for point in (20, 50, 80)]
        assert depth == pytest.approx([0.8, 2.0, 2.6])
    half = depths["one", "top", "probability", "50 %"]["sentence"]
    assert half == "Half of what the image gives is read within the first 1.0 layers (95 % interval 1.0 to 1.0)."
    dropped = depths["one", "top", "probability", "dropped"]
    assert (
        math.isnan(dropped["depth"])
        and "dropped after 2 of 3 layers, the loss may be 10.0 points" in dropped["sentence"]
    )

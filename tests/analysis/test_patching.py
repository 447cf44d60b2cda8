"""Shares of patches: planted ones come out, intervals hold them, and what is missing is counted with its reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossflow.analysis.claims import Case, difference_moves_to_the_last_position
from crossflow.analysis.patching import (
    BOTH,
    Moved,
    depth_row,
    moved_by_set,
    pairs_row,
    pooled,
    shares_of,
    tables,
)
from crossflow.analysis.results import PatchedTable, Results
from crossflow.analysis.tables import COLUMNS
from crossflow.cli.main import main
from crossflow.core.patching import DENOISING, DIRECTIONS, NOISING, PAIR_OUTCOMES, PATCHED, PATCHING
from crossflow.core.tables import read_csv, write_csv, write_parquet
from planted_patches import PASSED_ON, planted_patches


def _table(pairs: int = 12, shares: dict[str, list[float]] = PASSED_ON, tilt: float = 0.0) -> PatchedTable:
    """Patches with these shares, whose margins differ between the pairs; ``tilt`` parts the two directions."""
    rows: list[dict[str, Any]] = []
    for pair in range(pairs):
        base, other = 2.0 + pair, -1.0 - 0.5 * pair
        for direction, (own, its) in {NOISING: (base, other), DENOISING: (-other, -base)}.items():
            sign = tilt if direction == NOISING else -tilt
            for name, curve in shares.items():
                for layer, share in enumerate(curve):
                    missing = name == "related" and pair == 0
                    rows.append(
                        {"question_id": str(pair), "image_id": str(pair), "direction": direction, "set": name,
                         "layer": layer, "positions": 0 if missing else 3, "margin_base": own, "margin_other": its,
                         "margin_patched": np.nan if missing else own - (share + sign) * (own - its),
                         "p_base": 0.9, "p_patched": 0.5}
                    )  # fmt: skip
    return PatchedTable(pd.DataFrame(rows), tuple(shares), tuple(range(len(next(iter(shares.values()))))))


def test_planted_shares_come_out_and_both_is_the_mean_of_the_directions() -> None:
    found = moved_by_set(_table(tilt=0.1))
    for name, curve in PASSED_ON.items():
        for direction, shift in ((NOISING, 0.1), (DENOISING, -0.1), (BOTH, 0.0)):
            shares = shares_of(found[direction, name], 0)
            assert shares.share == pytest.approx(np.array(curve) + shift, abs=1e-12)
            assert (shares.low <= shares.share + 1e-12).all()
            assert (shares.high >= shares.share - 1e-12).all()


def test_a_share_is_a_ratio_of_means_so_that_pairs_close_together_do_not_count_alone() -> None:
    moved = Moved((0,), np.array(["a", "b"]), np.array([[1e-6], [5.0]]), np.array([1e-9, 10.0]), 0)
    assert shares_of(moved, 0).share[0] == pytest.approx(0.5, abs=1e-6)


def test_pairs_without_a_set_are_counted_and_left_out() -> None:
    found = moved_by_set(_table(shares={"related": [1.0, 0.0]}))[BOTH, "related"]
    assert (found.missing, len(found.apart)) == (1, 11)
    everything = pooled([found, found])
    assert (everything.missing, len(everything.apart)) == (2, 22)


def test_a_finding_says_where_the_difference_is_held() -> None:
    found = {name: depth_row(name, moved, shares_of(moved, 0)) for name, moved in planted_patches().items()}
    assert (found["image"]["point"], found["image"]["layer"]) == ("until", pytest.approx(1.5))
    assert found["image"]["sentence"].startswith(
        "The visual tokens hold half of the difference or more until 1.5 layers have passed (95 % interval 1.5 to 1.5)"
    )
    assert (found["last"]["point"], found["last"]["layer"]) == ("from", pytest.approx(2 + 1 / 3))
    assert found["last"]["sentence"].startswith(
        "The last position holds half of the difference or more from 2.3 layers"
    )
    assert (found["question"]["point"], found["question"]["layer"]) == ("most", 2)
    assert (
        found["question"]["sentence"] == "The question holds at most 60 % of the difference (60 to 60), after 2 layers."
    )


def test_what_cannot_be_stated_is_missing_with_its_reason() -> None:
    low = planted_patches({"other": [0.1, 0.0], "last": [0.0, 0.2]})
    for name, words in (
        ("other", "The other visual tokens hold at most 10 %"),
        ("last", "The last position holds at most"),
    ):
        row = depth_row(name, low[name], shares_of(low[name], 0))
        assert row["sentence"].startswith(words)
        assert np.isnan(row["layer"])
    empty = low["other"]._replace(images=np.array([]), moved=np.zeros((0, 2)), apart=np.zeros(0))
    assert depth_row("other", empty, shares_of(empty, 0))["sentence"] == (
        "Not stated: the set is missing for every pair."
    )
    one = low["other"]._replace(images=np.repeat("1", 12))
    assert "a single image" in depth_row("other", one, shares_of(one, 0))["sentence"]


def _outcome(number: int, outcome: str, right: bool | None = True, pair_right: bool | None = True) -> dict[str, Any]:
    named = {"question_id": str(number), "image_id": str(number), "pair_image_id": "" if outcome == "no pair" else "x"}
    return named | {"right": right, "pair_right": pair_right, "outcome": outcome}


def test_outcomes_are_counted_with_their_reasons() -> None:
    outcomes = [_outcome(number, PATCHED) for number in range(6)]
    outcomes += [_outcome(6, "no pair", None, None), _outcome(7, "no pair", None, None)]
    outcomes += [_outcome(8, "the answer to the pair's image is wrong", pair_right=False)]
    outcomes += [_outcome(9, "the pair cannot be used: the image 3.jpg is missing", None, None)]
    row = pairs_row(outcomes, 0)
    assert (row["questions"], row["pairs"], row["patched"]) == (10, 8, 6)
    assert row["both_right"] == pytest.approx(6 / 7)
    assert row["low"] <= row["both_right"] <= row["high"] <= 1
    assert row["left_out"] == "2 no pair; 1 the answer to the pair's image is wrong; 1 the pair cannot be used"


def test_the_tables_have_their_columns_and_all_categories_together(tmp_path: Path) -> None:
    for category in ("one", "two"):
        folder = tmp_path / "patching/model"
        determined = {"sets": list(PASSED_ON), "patched_layers": [0, 1, 2, 3]}
        write_parquet(folder / f"{category}.parquet", PATCHING, _table().table.to_dict("records"), determined)
        write_csv(folder / f"{category}.pairs.csv", PAIR_OUTCOMES, [_outcome(number, PATCHED) for number in range(12)])
    found = {name: list(rows) for name, rows in tables(Results(tmp_path, ("model:3",), ("one", "two"), 0)).items()}
    for name, rows in found.items():
        assert all(set(row) >= set(COLUMNS[name]) for row in rows)
    assert len(found["patching"]) == 3 * (len(DIRECTIONS) + 1) * len(PASSED_ON) * 4
    assert {row["category"] for row in found["patching_depth"]} == {"one", "two", "all"}
    assert [row["n"] for row in found["patching_depth"] if row["category"] == "all"] == [24] * 3


def test_a_study_without_a_patched_pair_has_its_rows_and_figures(tmp_path: Path) -> None:
    folder = tmp_path / "patching/model"
    write_parquet(folder / "one.parquet", PATCHING, [], {"sets": list(PASSED_ON), "patched_layers": [0, 1, 2, 3]})
    write_csv(folder / "one.pairs.csv", PAIR_OUTCOMES, [_outcome(1, "no pair", None, None)])
    results = ["--results", str(tmp_path), "--curves", "model:3", "--categories", "one", "--seed", "0"]
    assert main(["summary", "--summary", "patching", *results]) == 0
    rows = read_csv(tmp_path / "summary/patching.csv", COLUMNS["patching"])
    assert len(rows) == (len(DIRECTIONS) + 1) * len(PASSED_ON) * 4
    assert all(row["n"] == 0 and np.isnan(row["share"]) for row in rows)
    for kind in ("patching", "patching-map"):
        figure = ["figure", "--summary", str(tmp_path / "summary"), "--kind", kind, "--models", "model"]
        assert main([*figure, "--categories", "one", "--output", str(tmp_path / f"{kind}.png")]) == 0


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        (PASSED_ON, "supported"),
        (PASSED_ON | {"question": [0.0, 0.1, 0.1, 0.0]}, "not supported"),
        # The last position reads the image before the image lets go of it.
        (PASSED_ON | {"image": [1.0, 1.0, 1.0, 0.0]}, "not supported"),
    ],
)
def test_the_claim_on_patching_is_judged_by_its_criteria(shares: dict[str, list[float]], verdict: str) -> None:
    case = Case("model", "3", "one", 3, {}, None, np.array([]), 0, planted_patches(shares))
    judged = difference_moves_to_the_last_position(case)
    assert (judged.verdict, judged.n) == (verdict, 12)
    assert difference_moves_to_the_last_position(case._replace(patched=None)).verdict == "not tested"


@pytest.mark.slow
@pytest.mark.parametrize("images", [40, 150])
def test_intervals_hold_the_planted_share_in_95_percent(images: int) -> None:
    generator = np.random.default_rng(0)
    truth = np.array([0.9, 0.5, 0.1])
    inside = np.zeros(3)
    samples = 800
    for sample in range(samples):
        # Questions of one image have one share in common, and margins that differ fourfold.
        per_image = truth + 0.2 * generator.normal(size=(images, 3))
        which = np.repeat(np.arange(images), 2)
        apart = np.exp(generator.normal(2, 0.5, size=len(which)))
        share = per_image[which] + 0.1 * generator.normal(size=(len(which), 3))
        shares = shares_of(Moved((0, 1, 2), which.astype(str), share * apart[:, None], apart, 0), sample)
        inside += (shares.low <= truth) & (truth <= shares.high)
    assert ((inside / samples >= 0.93) & (inside / samples <= 0.97)).all(), inside / samples

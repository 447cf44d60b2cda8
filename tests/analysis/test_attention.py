"""Rank correlation of attention and effect: over layers and over heads, with its interval."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crossflow.analysis import attention, head_attention
from crossflow.analysis.attention import correlation_row
from crossflow.analysis.planned import correlates_attention, correlates_head_attention
from crossflow.analysis.results import Results
from crossflow.core.errors import CrossflowError
from crossflow.core.measures import HEADS, KNOCKOUT
from crossflow.core.tables import write_parquet
from planned_study import planned
from small_study import FLOWS, LAYERS, knockout_rows

PLACES = 24


def _images(questions: int) -> np.ndarray:
    return np.arange(questions) // 2


def _attention(questions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((questions, PLACES))


@pytest.mark.parametrize(("sign", "expected"), [(-1, 1), (1, -1)])
def test_a_fall_that_grows_with_attention_gives_1_and_one_that_shrinks_gives_minus_1(sign: int, expected: int) -> None:
    weights = _attention(8)
    row = correlation_row(weights, sign * 50 * weights, _images(8), 0.0, 0)
    assert (row["n"], row["constant"]) == (8, 0)
    for name in ("mean", "low", "high", "of_means"):
        assert row[name] == pytest.approx(expected, abs=1e-12)


def test_questions_without_variation_are_left_out_and_counted() -> None:
    weights = _attention(6)
    change = -weights
    change[0] = 3.0
    weights[1] = 0.5
    row = correlation_row(weights, change, _images(6), math.nan, 0)
    assert (row["n"], row["constant"]) == (4, 2)
    assert row["mean"] == pytest.approx(1)
    nothing = correlation_row(weights[:0], change[:0], _images(0), math.nan, 0)
    assert (nothing["n"], nothing["constant"]) == (0, 0)
    assert all(math.isnan(nothing[name]) for name in ("mean", "low", "high", "of_means"))


def test_changes_within_the_noise_floor_are_ties() -> None:
    weights = _attention(4)
    noise = np.random.default_rng(1).uniform(-1e-5, 1e-5, weights.shape)
    assert correlation_row(weights, noise, _images(4), 1e-5, 0)["constant"] == 4
    largest = weights.argmax(axis=1)
    noise[np.arange(4), largest] = -20.0
    row = correlation_row(weights, noise, _images(4), 1e-5, 0)
    # One head stands out and all others are tied: the correlation of ranks 1..k with a step at the end.
    assert row["mean"] == pytest.approx(math.sqrt(3 / (PLACES + 1)))


def _results(root: Path) -> Results:
    return Results(root, ("mini:3", "mini:top"), ("ChooseAttr",), 0)


def _write_knockouts(root: Path, window: str, **changed: Any) -> None:
    flows = [*FLOWS, "image=mean->last"]
    rows = [row | changed for row in knockout_rows([f"{number:08d}" for number in range(4)], flows)]
    metadata = {
        "layers": LAYERS,
        "window": window,
        "flows": flows,
        "centres": {flow: list(range(LAYERS)) for flow in flows},
        "selected": 4,
        "noise_floor": 0.0,
        "noise_floor_percent": 0.0,
    }
    write_parquet(root / f"knockout/mini/w{window}/ChooseAttr.parquet", KNOCKOUT, rows, metadata)


def test_knockouts_of_a_width_have_a_row_per_flow_and_substitutions_have_none(tmp_path: Path) -> None:
    for window in ("3", "top"):
        _write_knockouts(tmp_path, window)
    rows = list(attention.tables(_results(tmp_path))["attention"])
    assert [(row["flow"], row["window"]) for row in rows] == [(flow, "3") for flow in FLOWS]
    # Attention and fall grow with the layer; one question lacks the second flow.
    assert [(row["n"], row["mean"]) for row in rows] == [(4, pytest.approx(1)), (3, pytest.approx(1))]


def test_a_table_without_attention_is_refused(tmp_path: Path) -> None:
    for window in ("3", "top"):
        _write_knockouts(tmp_path, window, attention=None)
    with pytest.raises(
        CrossflowError, match=r"mini, window 3, ChooseAttr: question->last blocks edges whose attention"
    ):
        attention.tables(_results(tmp_path))


def test_heads_alone_have_a_row_per_flow_and_substitutions_and_subsets_have_none(tmp_path: Path) -> None:
    rows = [
        {"question_id": question, "image_id": question, "flow": flow, "layer": layer, "head": head, "edges": 2}
        | {"attention": 0.1 * layer + 0.01 * head, "change_percent": (1 if question == "c" else -1) * (3.0 * layer + head)}
        for question in "abc"
        for flow in ("image->last", "image=mean->last")
        for layer, head in np.ndindex(2, 3)
    ]  # fmt: skip
    rows += [rows[0] | {"layer": None, "head": None, "subset": "c0"}]
    metadata = {"layers": 2, "heads": 3, "noise_floor_percent": 0.5}
    write_parquet(tmp_path / "heads/mini/ChooseAttr.parquet", HEADS, rows, metadata)
    (row,) = head_attention.tables(_results(tmp_path))["head_attention"]
    assert (row["flow"], row["n"]) == ("image->last", 3)
    assert row["mean"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, (True, False)),
        ({"windows": {"m": ["top"]}}, (False, False)),
        ({"flows": ["image=mean->last"]}, (False, False)),
        ({"heads": SimpleNamespace(flows=["image->last"], each=True, subsets=0)}, (True, True)),
        ({"heads": SimpleNamespace(flows=["image=mean->last"], each=True, subsets=0)}, (True, False)),
        ({"heads": SimpleNamespace(flows=["image->last"], each=False, subsets=8)}, (True, False)),
    ],
)
def test_studies_correlate_what_they_knock_out(changed: dict[str, Any], expected: tuple[bool, bool]) -> None:
    study = planned(**{"windows": {"m": ["3", "top"]}} | changed)
    assert (correlates_attention(study), correlates_head_attention(study)) == expected


def _drawn(questions: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Questions, three to an image, whose images share a strength of the relation between attention and fall."""
    generator = np.random.default_rng(seed)
    images = np.arange(questions) // 3
    slope = generator.normal(0.5, 0.5, images.max() + 1)[images]
    weights = generator.random((questions, PLACES))
    fall = slope[:, None] * (weights - 0.5) * math.sqrt(12) + generator.normal(0, 1, weights.shape)
    return weights, -fall, images


@pytest.mark.slow
def test_intervals_hold_the_truth_in_93_to_97_percent() -> None:
    truth = correlation_row(*_drawn(300_000, 1_000_000), 0.0, 0)["mean"]
    rows = [correlation_row(*_drawn(240, seed), 0.0, seed) for seed in range(800)]
    held = np.mean([row["low"] <= truth <= row["high"] for row in rows])
    assert 0.93 <= held <= 0.97

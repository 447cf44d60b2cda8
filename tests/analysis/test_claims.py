"""Claims on made-up tables whose truth is known."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossflow.analysis import claims, judging, pid_flow
from crossflow.analysis.claims import Case
from crossflow.analysis.claims_text import CLAIMS, as_json, as_markdown
from crossflow.analysis.judging import (
    NOT_SUPPORTED,
    NOT_TESTABLE,
    NOT_TESTED,
    SUPPORTED,
    TOGETHER,
    UNDECIDED,
    JudgedClaim,
)
from crossflow.analysis.results import Results
from made_up import Shape, bump, knockout_table, nothing
from planted_patches import planted_patches

# Information goes from the image to the question in layers 2 to 5, first from all of it and then from the objects,
# and from the question to the last position around layer 8; nowhere else.
PLANTED: Mapping[str, Shape] = {
    "question->last": bump(8, 70),
    "image->last": nothing,
    "last->last": nothing,
    "image->question": bump(4, 60),
    "related->question": bump(5, 50),
    "other->question": bump(2, 30),
    "related~random1->question": nothing,
    "related~random2->question": nothing,
}


def _tracks(lower: int, capitalised: int, questions: int = 120, seed: int = 0) -> dict[str, np.ndarray]:
    """Probabilities after 13 states: each form has its own peak, and the capitalised one stays."""
    rng, states = np.random.default_rng(seed), np.arange(13)
    noise = 0.02 * rng.random((questions, 13))
    return {
        "answer": 0.4 * np.exp(-(((states - lower) / 1.5) ** 2)) + noise,
        "answer_capitalized": 0.9 / (1 + np.exp(-2.0 * (states - capitalised))) + noise,
    }


def _case(flows: Mapping[str, Shape], tracks: Mapping[str, np.ndarray] | None = None, **options: Any) -> Case:
    table = knockout_table(flows, **options)
    images = np.repeat(np.arange(60), 2).astype(object)
    return Case(table.model, table.window, table.category, table.layers, table.curves, tracks, images, 0)


def _verdicts(found: list[JudgedClaim]) -> dict[int, str]:
    return {finding.claim: finding.verdict for finding in found}


def test_on_planted_truth_every_claim_is_supported_and_the_controls_stay_in_the_noise() -> None:
    categories = ("ChooseAttr", "QueryAttr")
    cases = [
        _case(PLANTED, _tracks(6, 10), seed=seed, category=name, prefix=name)._replace(patched=planted_patches())
        for seed, name in enumerate(categories)
    ]
    found = list(claims.judge_model(cases))
    for category in (*categories, TOGETHER):
        verdicts = _verdicts([finding for finding in found if finding.category == category])
        assert {claim for claim, verdict in verdicts.items() if verdict != SUPPORTED} == set()
        assert len(verdicts) == (8 if category == TOGETHER else 7)
    assert all(0 < float(judging.loss(case.curves["related~random->question"].change).max()) < 0.01 for case in cases)
    assert claims.overall(found) == dict.fromkeys(range(1, 9), SUPPORTED)


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        (1, {"question->last": bump(8, 8)}),  # not strong
        (1, {"image->last": bump(8, 60)}),  # the image goes directly, too
        (2, {"image->last": bump(8, 60)}),
        (2, {"image->question": nothing}),
        (3, {"other->question": nothing}),
        (3, {"related->question": bump(1, 50)}),  # the objects first
        (3, {"related~random1->question": bump(5, 80), "related~random2->question": bump(5, 80)}),  # any patches do it
        (4, {"question->last": bump(2, 70)}),  # the other way round
        (4, {"image->question": bump(10, 60), "question->last": bump(11, 70)}),  # only in the highest layers
        (5, {"last->last": bump(6, 25)}),
    ],
)
def test_a_table_with_another_truth_does_not_support_the_claim(claim: int, changed: Mapping[str, Shape]) -> None:
    (judged,) = [
        judge(_case({**PLANTED, **changed})) for judge in claims.JUDGES if judge(_case(PLANTED)).claim == claim
    ]
    assert judged.verdict == NOT_SUPPORTED


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        (1, {"question->last": bump(8, claims.STRONG)}),  # exactly at the threshold
        (2, {"image->question": bump(4, 60), "image->last": bump(4, 60 - claims.NEGLIGIBLE)}),
        (3, {"related->question": bump(2, 30)}),  # at the same depth as other
        (4, {"question->last": bump(4, 60)}),  # at the same depth as image->question
        (5, {"last->last": bump(6, claims.NEGLIGIBLE, width=0.3)}),
    ],
)
def test_a_number_at_its_threshold_is_undecided(claim: int, changed: Mapping[str, Shape]) -> None:
    # The loss is the fall of the noisiest layer too, so a curve of one layer is judged where the threshold is its own.
    case = _case({**PLANTED, **changed}, noise=1.0 if claim == 3 else 5.0)
    found = next(judge(case) for judge in claims.JUDGES if judge(case).claim == claim)
    assert found.verdict == UNDECIDED


def test_few_questions_that_scatter_decide_nothing() -> None:
    scattered = {flow: bump(4, 15) for flow in PLANTED}
    verdicts = [judge(_case(scattered, noise=60.0, images=8)).verdict for judge in claims.JUDGES[:5]]
    assert UNDECIDED in verdicts
    assert SUPPORTED not in verdicts


@pytest.mark.long
def test_noise_alone_is_not_taken_for_an_effect() -> None:
    """Of 40 studies in which nothing happens but noise, the largest of 12 layers is believed in next to none."""
    tiny = {flow: bump(4, 1e-6) for flow in PLANTED}
    cases = [_case(tiny, noise=40.0, images=60, seed=seed) for seed in range(40)]
    believed = [claims.image_before_question(case).criteria[0].verdict == SUPPORTED for case in cases]
    assert sum(believed) <= 4


def test_a_single_image_decides_nothing() -> None:
    case = _case(PLANTED, images=1)
    for judge in claims.JUDGES[:5]:
        found = judge(case)
        assert found.verdict == UNDECIDED
        assert all(np.isnan(criterion.value) for criterion in found.criteria)


def test_a_claim_whose_flows_the_study_lacks_is_not_tested() -> None:
    case = _case({flow: shape for flow, shape in PLANTED.items() if flow != "image->last"})
    verdicts = _verdicts([judge(case) for judge in claims.JUDGES])
    assert [claim for claim, verdict in verdicts.items() if verdict == NOT_TESTED] == [1, 2, 7, 8]


def test_controls_at_fewer_layers_are_not_held_against_every_layer() -> None:
    stride = {"related~random1->question": 2, "related~random2->question": 2}
    found = claims.two_stages(_case(PLANTED, stride=stride))
    assert len(found.criteria) == 3
    assert len(claims.two_stages(_case(PLANTED)).criteria) == 4


def test_the_answer_must_appear_in_lower_case_first() -> None:
    assert claims.lower_case_before_capitalised(_case(PLANTED, _tracks(6, 10))).verdict == SUPPORTED
    assert claims.lower_case_before_capitalised(_case(PLANTED, _tracks(12, 3))).verdict == NOT_SUPPORTED
    silent = _tracks(6, 10) | {"answer": np.full((120, 13), 0.001)}
    assert claims.lower_case_before_capitalised(_case(PLANTED, silent)).verdict == NOT_SUPPORTED


def test_the_same_pattern_is_the_same_verdicts() -> None:
    def finding(claim: int, category: str, verdict: str) -> JudgedClaim:
        return JudgedClaim(claim, "mini", "3", category, verdict, 10, ())

    alike = [finding(claim, category, SUPPORTED) for claim in (1, 2) for category in "ab"]
    assert claims.same_in_every_category(alike, "mini", "3").verdict == SUPPORTED
    unlike = [*alike, finding(3, "a", SUPPORTED), finding(3, "b", NOT_SUPPORTED)]
    assert claims.same_in_every_category(unlike, "mini", "3").verdict == NOT_SUPPORTED
    unsure = [*alike, finding(3, "a", SUPPORTED), finding(3, "b", UNDECIDED)]
    assert claims.same_in_every_category(unsure, "mini", "3").verdict == UNDECIDED
    assert claims.same_in_every_category(alike[:1], "mini", "3").verdict == NOT_TESTED


def test_models_that_disagree_leave_a_claim_undecided() -> None:
    verdicts = {"a": SUPPORTED, "b": NOT_SUPPORTED}
    found = [JudgedClaim(1, model, "3", TOGETHER, verdict, 1, ()) for model, verdict in verdicts.items()]
    assert claims.overall(found) == {1: UNDECIDED}
    assert claims.overall(found[:1]) == {1: SUPPORTED}


def test_depth_is_the_weighted_mean_place_without_the_tails() -> None:
    curve = np.array([[0, 0, 10, 10, 0.5, 0, 0.5, 0, 0.5]])
    assert judging.depth(curve)[0] == pytest.approx((2 + 3) / 2 / 8)
    assert judging.depth(np.zeros((2, 5))).tolist() == [0, 0]
    assert judging.loss(np.array([[1.0, -3.0, 2.0], [1.0, 2.0, 3.0]])).tolist() == [3, 0]
    assert judging.largest_change(np.array([[1.0, -3.0, 4.0]])).tolist() == [4]


def test_the_verdicts_are_written_for_programs_and_for_people(tmp_path: Path) -> None:
    cases = [_case(PLANTED, None, seed=seed, category=name, prefix=name) for seed, name in enumerate("ab")]
    found = [*claims.judge_model(cases), *pid_flow.judge_study({"mini": cases}, Results(tmp_path, (), (), 0))]
    content = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert [claim["claim"] for claim in content["claims"]] == list(CLAIMS)
    assert [claim["verdict"] for claim in content["claims"]] == [
        *[SUPPORTED] * 6, *[NOT_TESTED] * 5, *[NOT_TESTABLE] * 3,
    ]  # fmt: skip
    first = content["claims"][0]["findings"][0]
    assert (first["model"], first["category"], first["n"]) == ("mini", "a", 120)
    assert first["criteria"][0]["low"] < first["criteria"][0]["value"] < first["criteria"][0]["high"]
    text = as_markdown(found, "made-up")
    assert text.count("**supported**") >= 6 * 3
    assert "nan" not in text
    for claim in CLAIMS.values():
        assert claim.says in text
        assert claim.criterion in text

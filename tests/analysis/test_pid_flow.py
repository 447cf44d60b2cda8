"""Claims of the second study on made-up tables whose truth is known."""

from pathlib import Path

import numpy as np
import pytest

from crossflow.analysis import pid_flow
from crossflow.analysis.claims import Case
from crossflow.analysis.judging import NOT_SUPPORTED, NOT_TESTABLE, NOT_TESTED, SUPPORTED, TOGETHER, JudgedClaim
from crossflow.analysis.results import Results
from crossflow.core.tables import ANSWERS, write_parquet
from made_up import Shape, bump, knockout_table
from planted_patches import planted_patches

NEEDS = {"one": 0.1, "two": 0.5, "three": 0.9}
"""Category -> the share of its questions that are answered wrongly without the image."""


def _case(shape: Shape, model: str = "mini", category: str = "one", layers: int = 12) -> Case:
    table = knockout_table(
        {"image->question": shape}, model=model, category=category, prefix=category, layers=layers, noise=1.0
    )
    images = np.array([], dtype=object)
    return Case(table.model, table.window, table.category, table.layers, table.curves, None, images, 0)


def _results(root: Path) -> Results:
    for category, need in NEEDS.items():
        rows = [
            {
                "question_id": f"{number}", "image_id": f"{number}", "generated": "red", "correct": True,
                "correct_blind": number >= 60 * need, "first_token": 1, "p_clean": 0.5,
            }
            for number in range(60)
        ]  # fmt: skip
        write_parquet(root / f"answers/mini/{category}.parquet", ANSWERS, rows, {})
    return Results(root, ("mini:3",), tuple(NEEDS), 0)


def _only(found: list[JudgedClaim], claim: int) -> JudgedClaim:
    (finding,) = (each for each in found if each.claim == claim and each.category == TOGETHER)
    return finding


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ([1.0, 0.9, 0.5, 0.1, 0.0], SUPPORTED),
        ([0.5, 0.5, 0.5, 0.5, 0.45], NOT_SUPPORTED),
        ([0.0, 0.2, 0.5, 0.9, 1.0], NOT_SUPPORTED),
    ],
)
def test_an_image_whose_share_decays_gives_way(tmp_path: Path, shares: list[float], verdict: str) -> None:
    case = _case(bump(4, 60))._replace(patched=planted_patches({"image": shares}))
    found = list(pid_flow.judge_study({"mini": [case]}, Results(tmp_path, (), (), 0)))
    assert _only(found, 9).verdict == verdict
    assert _only(found, 9).n == 12


@pytest.mark.parametrize(("at", "verdict"), [(4, SUPPORTED), (7, NOT_SUPPORTED)])
def test_models_share_a_course_if_their_curves_go_along(tmp_path: Path, at: int, verdict: str) -> None:
    models = {"mini": [_case(bump(4, 60))], "variant": [_case(bump(at, 30), model="variant")]}
    found = [each for each in pid_flow.judge_study(models, Results(tmp_path, (), (), 0)) if each.claim == 10]
    assert [(each.model, each.verdict, each.n) for each in found] == [("variant", verdict, 120)]
    (criterion,) = found[0].criteria
    assert "correlation with mini" in criterion.what
    assert criterion.threshold == 0.96


def test_models_of_different_depths_are_not_compared(tmp_path: Path) -> None:
    models = {"mini": [_case(bump(4, 60))], "deep": [_case(bump(4, 60), model="deep", layers=14)]}
    found = [each for each in pid_flow.judge_study(models, Results(tmp_path, (), (), 0)) if each.claim == 10]
    assert {each.verdict for each in found} == {NOT_TESTED}


@pytest.mark.parametrize(("heights", "verdict"), [((10, 40, 80), SUPPORTED), ((80, 40, 10), NOT_SUPPORTED)])
def test_the_image_matters_where_it_is_needed_if_the_losses_have_the_order_of_the_needs(
    tmp_path: Path, heights: tuple[float, ...], verdict: str
) -> None:
    cases = [_case(bump(4, height), category=name) for name, height in zip(NEEDS, heights, strict=True)]
    finding = _only(list(pid_flow.judge_study({"mini": cases}, _results(tmp_path))), 11)
    assert (finding.verdict, finding.n) == (verdict, 3 * 120)
    assert finding.criteria[0].value == pytest.approx(1 if verdict == SUPPORTED else -1)
    few = pid_flow.judge_study({"mini": cases[:2]}, _results(tmp_path))
    assert _only(list(few), 11).verdict == NOT_TESTED


def test_what_no_table_holds_is_said_to_be_not_testable(tmp_path: Path) -> None:
    found = list(pid_flow.judge_study({"mini": [_case(bump(4, 60))]}, Results(tmp_path, (), (), 0)))
    assert [each.claim for each in found if each.verdict == NOT_TESTABLE] == [12, 13, 14]

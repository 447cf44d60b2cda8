"""The same weights asked in other ways: what becomes of accuracies and effects, with its interval."""

from pathlib import Path

import pytest

from crossflow.analysis import robustness
from crossflow.analysis.planned import has_variants
from crossflow.analysis.results import Results
from crossflow.analysis.tables import ROBUSTNESS
from crossflow.core.errors import CrossflowError
from crossflow.core.measures import KNOCKOUT
from crossflow.core.tables import ANSWERS, write_parquet
from planned_study import planned
from small_study import FLOWS, LAYERS, ids_of, knockout_rows

WEIGHTS = {"mini": "a", "other": "b", "reworded": "a"}


def _write(root: Path, model: str, questions: list[str], wrong: set[str], factor: float) -> None:
    answers = [
        {
            "question_id": id, "image_id": f"image{int(id) // 2}", "generated": "red", "correct": id not in wrong,
            "correct_blind": False, "first_token": 1, "p_clean": 0.5,
        }
        for id in questions
    ]  # fmt: skip
    write_parquet(root / f"answers/{model}/ChooseAttr.parquet", ANSWERS, answers, {"model": WEIGHTS[model]})
    kept = [id for id in questions if id not in wrong]
    rows = knockout_rows(kept)
    for row in rows:
        if row["change_percent"] is not None:
            row["change_percent"] *= factor
    metadata = {
        "window": "3", "layers": LAYERS, "flows": list(FLOWS), "selected": len(kept), "noise_floor": 1e-7,
        "centres": {flow: list(range(LAYERS)) for flow in FLOWS}, "noise_floor_percent": 1e-5,
    }  # fmt: skip
    write_parquet(root / f"knockout/{model}/w3/ChooseAttr.parquet", KNOCKOUT, rows, metadata)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    ids = ids_of(8)
    _write(tmp_path, "mini", ids, {ids[7]}, 1.0)
    _write(tmp_path, "other", ids, set(), 1.0)
    _write(tmp_path, "reworded", ids[1:], {ids[1], ids[2]}, 0.5)
    return Results(tmp_path, tuple(f"{model}:3" for model in WEIGHTS), ("ChooseAttr",), 0)


def test_a_variant_is_compared_with_the_first_model_of_the_same_weights(results: Results) -> None:
    rows = list(robustness.tables(results)["robustness"])
    assert all(list(row) == list(ROBUSTNESS) for row in rows)
    assert {(row["model"], row["base"]) for row in rows} == {("reworded", "mini")}
    assert [(row["quantity"], row["window"]) for row in rows] == [("accuracy", ""), *((flow, "3") for flow in FLOWS)]


def test_differences_are_those_of_the_questions_that_both_have(results: Results) -> None:
    accuracy, to_last, related = robustness.tables(results)["robustness"]
    # Questions 1 to 7: the base misses one, the variant two others.
    assert (accuracy["n"], accuracy["base_value"], accuracy["value"]) == (7, pytest.approx(6 / 7), pytest.approx(5 / 7))
    assert accuracy["difference"] == pytest.approx(-1 / 7)
    assert accuracy["low"] <= accuracy["difference"] <= accuracy["high"]
    # Questions 3 to 6 are right in both: 10 q + 1.5 on average, and half of it.
    assert (to_last["n"], to_last["base_value"]) == (4, pytest.approx(-46.5))
    assert to_last["difference"] == pytest.approx(46.5 / 2)
    assert to_last["low"] > 0
    assert to_last["correlation"] == pytest.approx(1)
    assert related["n"] == 3, "question 3 has no related token"


def test_a_study_has_the_table_if_it_asks_the_same_weights_twice_in_one_window() -> None:
    windows = {"mini": ["3"], "reworded": ["3"]}
    assert has_variants(planned(windows=windows, variants={"reworded": "mini"}))
    assert not has_variants(planned(windows=windows | {"reworded": ["5"]}, variants={"reworded": "mini"}))
    assert not has_variants(planned(windows=windows))


def test_a_table_without_its_weights_is_refused(results: Results) -> None:
    path = results.results / "answers/mini/ChooseAttr.parquet"
    path.write_bytes(b"")
    with pytest.raises(CrossflowError, match=r"ChooseAttr\.parquet"):
        robustness.tables(results)

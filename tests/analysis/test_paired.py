"""Paired comparisons: what two flows, or two models, do to the same questions."""

import numpy as np
import pytest

from crossflow.analysis import paired
from crossflow.analysis.tables import PAIRED
from made_up import bump, knockout_table, nothing


def test_two_flows_are_compared_at_every_layer_and_over_all() -> None:
    table = knockout_table({"image->question": bump(4, 60), "image->last": bump(4, 20)})
    rows = list(paired.flow_pairs(table, 0))
    assert list(rows[0]) == list(PAIRED)
    assert [row["layer"] for row in rows] == [*range(12), None]
    assert {(row["flow"], row["other_flow"], row["n"]) for row in rows} == {("image->question", "image->last", 120)}
    at_four = next(row for row in rows if row["layer"] == 4)
    assert at_four["mean"] == pytest.approx(-40, abs=1.5)
    assert at_four["low"] < -40 < at_four["high"]
    over_layers = rows[-1]["mean"]
    assert over_layers == pytest.approx(np.mean([row["mean"] for row in rows[:-1]]))


def test_what_questions_have_in_common_drops_out_of_a_difference() -> None:
    # Both curves scatter by 50 points that they share.
    table = knockout_table({"image->question": bump(4, 60), "image->last": bump(4, 59)}, noise=50.0)
    whole = list(paired.flow_pairs(table, 0))[-1]
    alone = table.curves["image->question"].change.mean(axis=1)
    assert whole["high"] - whole["low"] < 4 * alone.std() / np.sqrt(60) / 2


def test_a_flow_is_compared_with_its_controls_at_their_layers() -> None:
    flows = {
        "related->question": bump(4, 60),
        "related~random1->question": nothing,
        "related~random2->question": nothing,
        "related~moved->question": nothing,
        "system->last": nothing,
    }
    stride = dict.fromkeys(list(flows)[1:], 3)
    table = knockout_table(flows, stride=stride)
    assert paired.pairs_of(list(table.curves)) == [
        ("related->question", "related~random->question"),
        ("related->question", "related~moved->question"),
    ]
    rows = [row for row in paired.flow_pairs(table, 0) if row["other_flow"] == "related~moved->question"]
    assert [row["layer"] for row in rows] == [0, 3, 6, 9, None]


def test_a_sum_with_a_control_is_compared_with_the_sum_without_and_never_with_itself() -> None:
    plain, control = "image->last+related->question", "image->last+related~random1->question"
    assert paired.pairs_of([plain, control]) == [(plain, control)]
    assert paired.pairs_of([control, "image->last"]) == []


def test_a_knockout_is_compared_with_the_substitutions_of_its_edges() -> None:
    flows = ["image->question", "image=swapped->question", "image=mean->question", "question=swapped->last"]
    assert paired.pairs_of(flows) == [("image->question", flow) for flow in flows[1:3]]


def test_two_models_are_compared_on_the_questions_they_share() -> None:
    one = knockout_table({"image->last": bump(4, 40)}, model="one", images=40)
    other = knockout_table({"image->last": bump(12, 20)}, model="other", layers=24, images=60, seed=1)
    (row,) = paired.model_pairs({"one": one, "other": other}, 0)
    assert (row["model"], row["other_model"], row["layer"], row["n"]) == ("one", "other", None, 80)
    expected = (
        one.curves["image->last"].change.mean() - other.curves["image->last"].among(one.question_ids).change.mean()
    )
    assert row["mean"] == pytest.approx(expected)
    assert row["low"] < row["mean"] < row["high"]


def test_nothing_is_compared_where_no_question_is_shared() -> None:
    one = knockout_table({"image->last": bump(4, 40)}, model="one", images=3, prefix="a")
    other = knockout_table({"image->last": bump(4, 40)}, model="other", images=3, prefix="b")
    assert list(paired.model_pairs({"one": one, "other": other}, 0)) == []

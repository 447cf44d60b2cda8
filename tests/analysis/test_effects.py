"""Curves: missing is not 0 %, and one curve never changes another."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crossflow.analysis.effects import summarise
from crossflow.analysis.tables import EFFECTS
from crossflow.core.measures import MEASURES, OF_THE_WHOLE_ANSWER
from small_study import FLOWS, LAYERS, MISSING, ids_of, knockout_rows, small_knockouts


def _effects(rows: Sequence[Mapping[str, Any]], flows: Sequence[str] = FLOWS) -> list[dict[str, Any]]:
    return [
        {name: row[name] for name in EFFECTS}
        for row in summarise(small_knockouts(rows, flows), {}, seed=0)
        if row["measure"] == "change_percent"
    ]


def test_a_curve_has_mean_median_and_interval_at_every_centre_layer() -> None:
    rows = _effects(knockout_rows(ids_of(4)))
    assert list(rows[0]) == list(EFFECTS)
    assert [(row["flow"], row["layer"]) for row in rows] == [(f, layer) for f in FLOWS for layer in range(LAYERS)]
    second = rows[1]
    assert (second["n"], second["mean"], second["median"]) == (4, -16, -16)
    # Two images with two questions each: their means are -6 and -26.
    assert (second["low"], second["high"]) == (-26, -6)


def test_a_missing_question_is_left_out_and_not_averaged_as_no_change() -> None:
    related = [row for row in _effects(knockout_rows(ids_of(4))) if row["flow"] == "related->question"]
    assert {row["n"] for row in related} == {3}
    assert related[0]["mean"] == -20


def test_a_flow_missing_in_all_questions_has_all_its_layers_without_numbers() -> None:
    related = [row for row in _effects(knockout_rows([MISSING])) if row["flow"] == "related->question"]
    assert [(row["layer"], row["n"]) for row in related] == [(layer, 0) for layer in range(LAYERS)]
    assert all(math.isnan(row[name]) for row in related for name in ("mean", "low", "high", "median"))


def test_one_image_has_a_mean_and_no_interval() -> None:
    row = _effects(knockout_rows(ids_of(2)))[0]
    assert (row["n"], row["mean"]) == (2, -5)
    assert math.isnan(row["low"]) and math.isnan(row["high"])


def test_another_flow_changes_no_number_of_a_curve() -> None:
    ids = ids_of(30)
    both = [row for row in _effects(knockout_rows(ids)) if row["flow"] == FLOWS[0]]
    assert _effects(knockout_rows(ids, FLOWS[:1]), FLOWS[:1]) == both


def test_the_order_of_the_table_changes_nothing() -> None:
    rows = knockout_rows(ids_of(30))
    shuffled = [rows[number] for number in np.random.default_rng(0).permutation(len(rows))]
    assert _effects(shuffled) == _effects(rows)


def test_controls_may_have_fewer_centre_layers() -> None:
    flows = ("image->last", "system->last")
    rows = [row for row in knockout_rows(ids_of(3), flows) if row["flow"] == flows[0] or row["layer"] % 3 == 0]
    table = small_knockouts(rows, flows, centres={flows[0]: [0, 1, 2, 3], flows[1]: [0, 3]})
    assert table.curves["system->last"].centres == (0, 3)
    layers = [row["layer"] for row in summarise(table, {}, 0) if row["flow"] == "system->last"]
    assert set(layers) == {0, 3}


def test_every_measure_has_rows_for_the_questions_that_have_it() -> None:
    rows = knockout_rows(ids_of(6), FLOWS[:1])
    for row in rows:
        margins = {"margin_clean": 1.0, "margin_knockout": 0.25} if int(row["question_id"]) < 4 else {}
        row.update(logprob_change=-1.0, flipped=True, correct=False, attention=0.5, **margins)
    found = list(summarise(small_knockouts(rows, FLOWS[:1]), {}, 0))
    first = {row["measure"]: row for row in found if row["layer"] == 0}
    # No answer was scored as a whole.
    assert first.keys() == {measure.name for measure in MEASURES} - set(OF_THE_WHOLE_ANSWER)
    assert {name: (row["n"], row["mean"]) for name, row in first.items() if name != "change_percent"} == {
        "logprob_change": (6, -1),
        "margin_change": (4, -0.75),
        "flipped": (6, 1),
        "correct": (6, 0),
        "attention": (6, 0.5),
        "edges": (6, 12),
    }
    assert {row["stratum"] for row in found} == {"all"}


def test_strata_are_told_where_they_leave_somebody_out() -> None:
    table = small_knockouts(knockout_rows(ids_of(6), FLOWS[:1]), FLOWS[:1])
    strata = {"correct": ids_of(4), "wrong": ids_of(6)[4:], "shared": ids_of(20)}
    found = [row for row in summarise(table, strata, 0) if row["stratum"] != "all" and row["layer"] == 0]
    assert {(row["stratum"], row["measure"]): (row["n"], row["mean"]) for row in found} == {
        ("correct", "change_percent"): (4, -15),
        ("wrong", "change_percent"): (2, -45),
    }


def test_bands_of_a_curve_are_wider_than_its_intervals() -> None:
    rng = np.random.default_rng(0)
    rows = knockout_rows(ids_of(60), FLOWS[:1])
    for row in rows:
        row["change_percent"] = rng.normal()
    for row in summarise(small_knockouts(rows, FLOWS[:1]), {}, 0):
        if row["measure"] == "change_percent":
            low, high, band_low, band_high = (row[name] for name in ("low", "high", "band_low", "band_high"))
            assert band_low < low < high < band_high

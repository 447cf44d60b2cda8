"""Aggregation: every question is in one place, missing is not 0 %, and one curve never changes another."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossflow.analysis import curves, summary
from crossflow.cli import summary as verb
from crossflow.core import tables
from crossflow.core.errors import CrossflowError
from crossflow.study.results import SUMMARY_TABLES

LAYERS = 4
FLOWS = ("question->last", "related->question")
MISSING = "00000003"


def _ids(count: int) -> list[str]:
    return [f"{number:08d}" for number in range(count)]


def _knockout_rows(ids: Sequence[str], flows: Sequence[str] = FLOWS) -> list[dict[str, Any]]:
    """Change of question q, flow f, layer l: -(10 q + l) for the first flow, twice that for the second."""
    rows = []
    for question_id in ids:
        for flow in flows:
            missing = question_id == MISSING and flow.startswith("related")
            for layer in range(LAYERS):
                change = -(10.0 * int(question_id) + layer) * (1 + flows.index(flow))
                rows.append(
                    {
                        "question_id": question_id,
                        "image_id": f"image{int(question_id) // 2}",
                        "flow": flow,
                        "layer": layer,
                        "change_percent": None if missing else change,
                        "edges": 0 if missing else 12,
                    }
                )
    return rows


def _knockouts(rows: Sequence[Mapping[str, Any]], flows: Sequence[str] = FLOWS, **metadata: Any) -> curves.Knockouts:
    table = pd.DataFrame(rows, columns=tables.KNOCKOUT.names)
    stated = {
        "layers": LAYERS,
        "flows": list(flows),
        "centres": {flow: list(range(LAYERS)) for flow in flows},
        "selected": table["question_id"].nunique(),
        "noise_floor": 1.6e-7,
        "noise_floor_percent": None,
        **metadata,
    }
    return curves.knockouts(table, stated, model="mini", window="3", category="ChooseAttr")


def _effects(rows: Sequence[Mapping[str, Any]], flows: Sequence[str] = FLOWS) -> list[dict[str, str]]:
    return [
        {name: row[name] for name in tables.EFFECTS}
        for row in summary.summarise(_knockouts(rows, flows), {}, seed=0)
        if row["measure"] == "change_percent"
    ]


def test_a_curve_has_mean_median_and_interval_at_every_centre_layer() -> None:
    rows = _effects(_knockout_rows(_ids(4)))
    assert [tuple(row) for row in rows[:1]] == [tables.EFFECTS]
    assert [(row["flow"], row["layer"]) for row in rows] == [(f, str(layer)) for f in FLOWS for layer in range(LAYERS)]
    second = rows[1]
    assert (second["n"], second["mean"], second["median"]) == ("4", "-16", "-16")
    # Two images with two questions each: their means are -6 and -26.
    assert (second["low"], second["high"]) == ("-26", "-6")


def test_a_missing_question_is_left_out_and_not_averaged_as_no_change() -> None:
    related = [row for row in _effects(_knockout_rows(_ids(4))) if row["flow"] == "related->question"]
    assert {row["n"] for row in related} == {"3"}
    assert related[0]["mean"] == "-20"


def test_a_flow_missing_in_all_questions_has_all_its_layers_without_numbers() -> None:
    related = [row for row in _effects(_knockout_rows([MISSING])) if row["flow"] == "related->question"]
    assert [(row["layer"], row["n"], row["mean"], row["low"], row["high"], row["median"]) for row in related] == [
        (str(layer), "0", "", "", "", "") for layer in range(LAYERS)
    ]


def test_one_image_has_a_mean_and_no_interval() -> None:
    row = _effects(_knockout_rows(_ids(2)))[0]
    assert (row["n"], row["mean"], row["low"], row["high"]) == ("2", "-5", "", "")


def test_another_flow_changes_no_number_of_a_curve() -> None:
    ids = _ids(30)
    both = [row for row in _effects(_knockout_rows(ids)) if row["flow"] == FLOWS[0]]
    assert _effects(_knockout_rows(ids, FLOWS[:1]), FLOWS[:1]) == both


def test_the_order_of_the_table_changes_nothing() -> None:
    rows = _knockout_rows(_ids(30))
    shuffled = [rows[number] for number in np.random.default_rng(0).permutation(len(rows))]
    assert _effects(shuffled) == _effects(rows)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda rows: rows.pop(), "31 rows of 4 questions, expected 32 of 4"),
        (lambda rows: rows[1].update(layer=0), "each of its 4 centre layers once"),
        (lambda rows: rows[1].update(flow="related->question"), "each of its 4 centre layers once"),
        (
            lambda rows: rows[1].update(change_percent=None),
            "of question 00000000 blocks edges but has no finite change",
        ),
        (lambda rows: rows[1].update(change_percent=float("inf")), "has no finite change"),
    ],
)
def test_a_damaged_knockout_table_is_refused(harm: Any, message: str) -> None:
    rows = _knockout_rows(_ids(4))
    harm(rows)
    with pytest.raises(CrossflowError, match=message):
        _knockouts(rows)


def test_a_table_without_metadata_is_refused() -> None:
    with pytest.raises(CrossflowError, match="lack 'layers'"):
        curves.knockouts(pd.DataFrame(), {}, model="mini", window="3", category="ChooseAttr")


def test_a_table_of_fewer_questions_than_were_selected_is_refused() -> None:
    with pytest.raises(CrossflowError, match="16 rows of 2 questions, expected 24 of 3"):
        _knockouts(_knockout_rows(_ids(2)), selected=3)


def test_draws_of_a_random_control_are_averaged_per_question() -> None:
    flows = ("related->question", "related~random1->question", "related~random2->question")
    rows = _knockout_rows(["00000001", "00000002"], flows)
    table = _knockouts(rows, flows)
    assert list(table.curves) == ["related->question", "related~random->question"]
    # Changes are -(10 q + l) times 2 and 3 for the two draws.
    assert table.curves["related~random->question"].change.tolist() == [
        [-2.5 * (10 * question + layer) for layer in range(LAYERS)] for question in (1, 2)
    ]


def test_draws_of_different_questions_are_refused() -> None:
    flows = ("related->question", "related~random1->question", "related~random2->question")
    rows = _knockout_rows(["00000001", "00000002"], flows)
    for row in rows:
        if row["flow"] == flows[2] and row["question_id"] == "00000002":
            row.update(edges=0, change_percent=None)
    with pytest.raises(CrossflowError, match="the draws of related~random->question do not have the same questions"):
        _knockouts(rows, flows)


def test_controls_may_have_fewer_centre_layers() -> None:
    flows = ("image->last", "system->last")
    rows = [row for row in _knockout_rows(_ids(3), flows) if row["flow"] == flows[0] or row["layer"] % 3 == 0]
    table = _knockouts(rows, flows, centres={flows[0]: [0, 1, 2, 3], flows[1]: [0, 3]})
    assert table.curves["system->last"].centres == (0, 3)
    layers = [row["layer"] for row in summary.summarise(table, {}, 0) if row["flow"] == "system->last"]
    assert set(layers) == {"0", "3"}


def test_every_measure_has_rows_for_the_questions_that_have_it() -> None:
    rows = _knockout_rows(_ids(6), FLOWS[:1])
    for row in rows:
        margins = {"margin_clean": 1.0, "margin_knockout": 0.25} if int(row["question_id"]) < 4 else {}
        row.update(logprob_change=-1.0, flipped=True, correct=False, attention=0.5, **margins)
    found = list(summary.summarise(_knockouts(rows, FLOWS[:1]), {}, 0))
    first = {row["measure"]: row for row in found if row["layer"] == "0"}
    # No answer was scored as a whole.
    assert first.keys() == set(curves.MEASURES) - {"answer_logprob_change"}
    assert {name: (row["n"], row["mean"]) for name, row in first.items() if name != "change_percent"} == {
        "logprob_change": ("6", "-1"),
        "margin_change": ("4", "-0.75"),
        "flipped": ("6", "1"),
        "correct": ("6", "0"),
        "attention": ("6", "0.5"),
        "edges": ("6", "12"),
    }
    assert {row["stratum"] for row in found} == {"all"}


def test_strata_are_told_where_they_leave_somebody_out() -> None:
    table = _knockouts(_knockout_rows(_ids(6), FLOWS[:1]), FLOWS[:1])
    strata = {"correct": _ids(4), "wrong": _ids(6)[4:], "shared": _ids(20)}
    found = [row for row in summary.summarise(table, strata, 0) if row["stratum"] != "all" and row["layer"] == "0"]
    assert {(row["stratum"], row["measure"]): (row["n"], row["mean"]) for row in found} == {
        ("correct", "change_percent"): ("4", "-15"),
        ("wrong", "change_percent"): ("2", "-45"),
    }


def test_bands_of_a_curve_are_wider_than_its_intervals() -> None:
    rng = np.random.default_rng(0)
    rows = _knockout_rows(_ids(60), FLOWS[:1])
    for row in rows:
        row["change_percent"] = rng.normal()
    for row in summary.summarise(_knockouts(rows, FLOWS[:1]), {}, 0):
        if row["measure"] == "change_percent":
            low, high, band_low, band_high = (float(row[name]) for name in ("low", "high", "band_low", "band_high"))
            assert band_low < low < high < band_high


def test_baselines_are_accuracies_with_the_paired_drop() -> None:
    table = _answers([(True, True), (True, False)] * 20)
    table["correct_swapped"] = [None, *[False] * 39]
    rows = {row["baseline"]: row for row in summary.baselines(table, model="m", category="c", seed=0)}
    assert list(rows) == ["seen", "removed", "swapped"]
    assert tuple(rows["seen"]) == tables.BASELINE_ANSWERS
    assert (rows["seen"]["accuracy"], rows["seen"]["drop"]) == ("1", "0")
    assert (rows["removed"]["accuracy"], rows["removed"]["drop"]) == ("0.5", "0.5")
    assert (rows["swapped"]["n"], rows["swapped"]["drop"]) == ("39", "1")
    assert float(rows["removed"]["drop_low"]) < 0.5 < float(rows["removed"]["drop_high"])


def test_the_noise_floor_is_told_by_its_size() -> None:
    row = summary.noise(_knockouts(_knockout_rows(_ids(2))))
    assert tuple(row) == tables.NOISE
    assert (row["probability"], row["change_percent"]) == ("2e-07", "")


def test_counts_put_every_chosen_question_in_one_place() -> None:
    ids = _ids(10)
    table = _knockouts(_knockout_rows(ids[:6]))
    rows = list(summary.counts(table, chosen=ids, skipped=ids[9:], answered=ids[:9]))
    assert [tuple(row) for row in rows] == [tables.COUNTS] * 2
    first, related = ({name: int(row[name]) for name in tables.COUNTS[4:]} for row in rows)
    assert first == {"questions": 10, "skipped": 1, "excluded": 3, "missing": 0, "n": 6}
    assert related == {"questions": 10, "skipped": 1, "excluded": 3, "missing": 1, "n": 5}


@pytest.mark.parametrize(
    ("chosen", "skipped", "answered", "message"),
    [
        (10, [9], range(8), "does not fit \\(00000008\\)"),
        (10, [8, 9], range(9), "does not fit \\(00000008\\)"),
        (9, [9], range(9), "does not fit \\(00000009\\)"),
        (10, [5, 6, 7, 8, 9], range(5), "00000005 was knocked out but has no answer"),
    ],
)
def test_a_question_that_is_nowhere_twice_or_strange_is_an_error(
    chosen: int, skipped: Sequence[int], answered: Sequence[int], message: str
) -> None:
    ids = _ids(10)
    with pytest.raises(CrossflowError, match=message):
        list(
            summary.counts(
                _knockouts(_knockout_rows(ids[:6])),
                chosen=ids[:chosen],
                skipped=[ids[number] for number in skipped],
                answered=[ids[number] for number in answered],
            )
        )


def _answers(verdicts: Sequence[tuple[bool, bool]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"question_id": f"{number}", "image_id": f"{number}", "correct": seeing, "correct_blind": blind}
            for number, (seeing, blind) in enumerate(verdicts)
        ],
        columns=tables.ANSWERS.names,
    )


def test_accuracy_is_a_fraction_with_and_without_the_image() -> None:
    row = summary.accuracy(_answers([(True, True), (True, False)] * 20), model="m", category="c", seed=0)
    assert tuple(sorted(row)) == tuple(sorted(tables.ACCURACY))
    assert (row["n"], row["accuracy"], row["low"], row["high"], row["accuracy_blind"]) == (
        "40",
        "1",
        "1",
        "1",
        "0.5",
    )
    assert 0.3 < float(row["low_blind"]) < 0.5 < float(row["high_blind"]) < 0.7


def test_accuracy_of_no_answer_is_empty() -> None:
    row = summary.accuracy(_answers([]), model="m", category="c", seed=0)
    assert (row["n"], row["accuracy"], row["low_blind"]) == ("0", "", "")


def test_an_answer_without_a_verdict_is_refused() -> None:
    table = _answers([(True, True)])
    table["correct_blind"] = None
    with pytest.raises(CrossflowError, match="neither correct nor wrong"):
        summary.accuracy(table, model="m", category="c", seed=0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), ""),
        (-0.0, "0"),
        (0.1 + 0.2, "0.3"),
        (-97.123456789012, "-97.12345679"),
        (1e-12, "1e-12"),
    ],
)
def test_numbers_are_written_with_ten_digits(value: float, text: str) -> None:
    assert summary.number(value) == text


def _write_study(results: Path, selected: Mapping[str, int]) -> None:
    """Write a study of 10 chosen, 9 answered, and some knocked out questions per category."""
    ids = _ids(10)
    for category, count in selected.items():
        tables.write_csv(results / f"questions/{category}.csv", tables.QUESTIONS, [{"question_id": id} for id in ids])
        tables.write_csv(results / f"answers/mini/{category}.skipped.csv", tables.SKIPPED, [{"question_id": ids[9]}])
        tables.write_parquet(
            results / f"answers/mini/{category}.parquet",
            tables.ANSWERS,
            [
                {"question_id": id, "image_id": id, "correct": n < count, "correct_blind": False}
                for n, id in enumerate(ids[:9])
            ],
            {"layers": LAYERS, "questions": 9},
        )
        tables.write_parquet(
            results / f"knockout/mini/w3/{category}.parquet",
            tables.KNOCKOUT,
            _knockout_rows(ids[:count]),
            {
                "layers": LAYERS,
                "window": "3",
                "flows": list(FLOWS),
                "centres": {flow: list(range(LAYERS)) for flow in FLOWS},
                "selected": count,
                "excluded": 9 - count,
                "noise_floor": 1.6e-7,
                "noise_floor_percent": 2.4e-5,
            },
        )


def _run(results: Path, categories: Sequence[str], curves: Sequence[str] = ("mini:3",)) -> None:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    text = ["--results", str(results), "--curves", *curves, "--categories", *categories, "--seed", "0"]
    verb.run(parser.parse_args(text))


def test_the_verb_writes_its_tables_and_the_same_bytes_again(tmp_path: Path) -> None:
    _write_study(tmp_path, {"ChooseAttr": 6, "QueryAttr": 0})
    _run(tmp_path, ["ChooseAttr", "QueryAttr"])
    names = [f"{name}.csv" for name in SUMMARY_TABLES]
    first = {name: (tmp_path / "summary" / name).read_bytes() for name in names}
    effects = tables.read_csv(tmp_path / "summary/effects.csv", tables.EFFECTS)
    assert len(effects) == 2 * len(FLOWS) * LAYERS
    empty = [row for row in effects if row["category"] == "QueryAttr"]
    assert len(empty) == len(FLOWS) * LAYERS
    assert {(row["n"], row["mean"], row["low"]) for row in empty} == {("0", "", "")}
    counts = tables.read_csv(tmp_path / "summary/counts.csv", tables.COUNTS)
    assert [row["excluded"] for row in counts] == ["3", "3", "9", "9"]
    answers = tables.read_csv(tmp_path / "summary/answers.csv", tables.ACCURACY)
    assert [(row["n"], row["accuracy"]) for row in answers] == [("9", "0.6666666667"), ("9", "0")]

    _run(tmp_path, ["ChooseAttr", "QueryAttr"])
    assert {name: (tmp_path / "summary" / name).read_bytes() for name in names} == first


def test_metrics_weigh_categories_alike_and_name_the_strongest_layer(tmp_path: Path) -> None:
    _write_study(tmp_path, {"ChooseAttr": 6, "QueryAttr": 8, "LogicalObj": 0})
    _run(tmp_path, ["ChooseAttr", "QueryAttr", "LogicalObj"])
    found = json.loads((tmp_path / "metrics.json").read_text())
    effects = pd.read_csv(tmp_path / "summary/effects.csv")
    assert found.keys() == {"mini"}
    assert found["mini"]["accuracy"] == round((6 + 8 + 0) / 9 / 3, 4)
    for flow in FLOWS:
        # Changes grow with the layer in these tables; LogicalObj has no question that counts.
        last = effects[(effects.flow == flow) & (effects.layer == LAYERS - 1)]["mean"]
        assert found["mini"][flow] == {"change": round(last.dropna().mean(), 2), "layer": LAYERS - 1}


def test_another_category_changes_no_row(tmp_path: Path) -> None:
    _write_study(tmp_path, {"ChooseAttr": 6, "QueryAttr": 8})
    _run(tmp_path, ["ChooseAttr", "QueryAttr"])
    both = tables.read_csv(tmp_path / "summary/effects.csv", tables.EFFECTS)
    _run(tmp_path, ["ChooseAttr"])
    alone = tables.read_csv(tmp_path / "summary/effects.csv", tables.EFFECTS)
    assert alone == [row for row in both if row["category"] == "ChooseAttr"]


def test_a_table_of_another_window_is_refused(tmp_path: Path) -> None:
    _write_study(tmp_path, {"ChooseAttr": 6})
    (tmp_path / "knockout/mini/w3").rename(tmp_path / "knockout/mini/w7")
    with pytest.raises(CrossflowError, match="is of window 3, expected 7"):
        _run(tmp_path, ["ChooseAttr"], ["mini:7"])


def test_a_curve_that_is_not_model_colon_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossflowError, match="takes MODEL:WINDOW, not 'mini'"):
        _run(tmp_path, ["ChooseAttr"], ["mini"])

"""The summaries of a study, from its tables to theirs."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from crossflow.analysis.tables import COLUMNS, SUMMARIES, summaries_of
from crossflow.cli.main import main
from crossflow.core.tables import read_csv
from planned_study import planned
from small_study import FLOWS, LAYERS, write_study

STUDY = planned(flows=FLOWS)
MADE = list(summaries_of(STUDY))


def _run(results: Path, categories: Sequence[str], curves: Sequence[str] = ("mini:3",)) -> int:
    options = ["--results", str(results), "--curves", *curves, "--categories", *categories, "--seed", "0"]
    return max(main(["summary", "--summary", summary, *options]) for summary in MADE)


def test_the_verb_writes_its_tables_and_the_same_bytes_again(tmp_path: Path) -> None:
    write_study(tmp_path, {"ChooseAttr": 6, "QueryAttr": 0})
    assert _run(tmp_path, ["ChooseAttr", "QueryAttr"]) == 0
    names = [f"{name}.csv" for summary in MADE for name in SUMMARIES[summary].tables]
    assert {
        "effects.csv",
        "measures.csv",
        "bands.csv",
        "answers.csv",
        "baselines.csv",
        "counts.csv",
        "noise.csv",
        "comparisons.csv",
        "attention.csv",
    } == set(names)
    first = {name: (tmp_path / "summary" / name).read_bytes() for name in names}
    effects = read_csv(tmp_path / "summary/effects.csv", COLUMNS["effects"])
    assert len(effects) == 2 * len(FLOWS) * LAYERS
    empty = [row for row in effects if row["category"] == "QueryAttr"]
    assert len(empty) == len(FLOWS) * LAYERS
    assert {row["n"] for row in empty} == {0}
    assert all(math.isnan(row["mean"]) and math.isnan(row["low"]) for row in empty)
    counts = read_csv(tmp_path / "summary/counts.csv", COLUMNS["counts"])
    assert [row["excluded"] for row in counts] == [3, 3, 9, 9]
    answers = read_csv(tmp_path / "summary/answers.csv", COLUMNS["answers"])
    assert [(row["n"], row["accuracy"]) for row in answers] == [(9, 0.6666666667), (9, 0)]

    assert _run(tmp_path, ["ChooseAttr", "QueryAttr"]) == 0
    assert {name: (tmp_path / "summary" / name).read_bytes() for name in names} == first


def test_metrics_weigh_categories_alike_and_name_the_strongest_layer(tmp_path: Path) -> None:
    write_study(tmp_path, {"ChooseAttr": 6, "QueryAttr": 8, "LogicalObj": 0})
    assert _run(tmp_path, ["ChooseAttr", "QueryAttr", "LogicalObj"]) == 0
    tables = [f"--{name}={tmp_path}/summary/{name}.csv" for name in ("effects", "answers")]
    assert main(["metrics", *tables, "--output", str(tmp_path / "metrics.json")]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    effects = pd.read_csv(tmp_path / "summary/effects.csv")
    assert found.keys() == {"mini"}
    assert found["mini"]["accuracy"] == round((6 + 8 + 0) / 9 / 3, 4)
    for flow in FLOWS:
        # Changes grow with the layer in these tables; LogicalObj has no question that counts.
        last = effects[(effects.flow == flow) & (effects.layer == LAYERS - 1)]["mean"]
        assert found["mini"][flow] == {"change": round(last.dropna().mean(), 2), "layer": LAYERS - 1}


def test_another_category_changes_no_row(tmp_path: Path) -> None:
    write_study(tmp_path, {"ChooseAttr": 6, "QueryAttr": 8})
    assert _run(tmp_path, ["ChooseAttr", "QueryAttr"]) == 0
    both = read_csv(tmp_path / "summary/effects.csv", COLUMNS["effects"])
    assert _run(tmp_path, ["ChooseAttr"]) == 0
    alone = read_csv(tmp_path / "summary/effects.csv", COLUMNS["effects"])
    assert alone == [row for row in both if row["category"] == "ChooseAttr"]


def test_a_table_of_another_window_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path, {"ChooseAttr": 6})
    (tmp_path / "knockout/mini/w3").rename(tmp_path / "knockout/mini/w7")
    assert _run(tmp_path, ["ChooseAttr"], ["mini:7"]) == 1
    assert "has window 3, expected 7" in capsys.readouterr().err


def test_a_curve_that_is_not_model_colon_window_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, ["ChooseAttr"], ["mini"])
    assert "'mini' is not of the form model:window" in capsys.readouterr().err

"""Flows of sinks in a job: what the tables hold, and what the log says where a model has none."""

import logging
from pathlib import Path

import pandas as pd
import pytest

from crossflow.cli.main import main
from crossflow.core.measures import HEADS, KNOCKOUT
from crossflow.core.tables import read_parquet
from crossflow.data.chosen import write_chosen
from crossflow.experiments.sinks import with_sinks
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings
from planted_sinks import DIMENSION, LAYERS, load_wide, plant
from tiny import CPU, draw_world, load_tiny, prepare_some

CATEGORIES = ("ChooseAttr", "ChooseRel")
FLOWS = ["image_sinks->last", "text_sinks->last", "image_without_sinks->question", "image->last"]
CONTROLS = ["image_sinks~random1->last"]
QUESTIONS = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sinks")
    wide = load_wide(root / "wide")
    plant(wide, ["<s>", "the"], visual=60.0)
    wide.network.save_pretrained(root / "wide")
    load_tiny(root / "narrow", layers=LAYERS, width=32)
    drawn = draw_world(root / "world", 3)
    for category in CATEGORIES:
        write_chosen(root / f"{category}.csv", drawn[category][:QUESTIONS])
    for model in ("wide", "narrow"):
        assert (
            main(["answers", *_job(root, model), "--max-new-tokens", "2", "--output", str(root / f"{model}-answers")])
            == 0
        )
    return root


def _job(root: Path, model: str) -> list[str]:
    questions = [str(root / f"{category}.csv") for category in CATEGORIES]
    job = ["--questions", *questions, "--root", str(root / "world"), "--model-path", str(root / model)]
    return [*job, "--prompt", "vicuna-v1", "--device", "cpu"]


def _run(
    verb: str, root: Path, model: str, output: Path, *options: str, flows: list[str] = FLOWS
) -> dict[str, pd.DataFrame]:
    answers = ["--answers", str(root / f"{model}-answers"), "--select", "all", "--flows", *flows]
    assert main([verb, *_job(root, model), *answers, "--output", str(output), *options]) == 0
    schema = KNOCKOUT if verb == "knockout" else HEADS
    return {category: read_parquet(output / f"{category}.parquet", schema)[0] for category in CATEGORIES}


def _edges(table: pd.DataFrame, flow: str) -> list[int]:
    """The edges of a flow in each question, in the table's order."""
    return table[table.flow == flow].groupby("question_id", sort=False)["edges"].first().tolist()


def test_a_table_counts_the_edges_of_sinks_and_of_as_many_other_tokens(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        tables = _run("knockout", made, "wide", tmp_path, "--window", "1", "--controls", *CONTROLS)
    model = load_model(ModelSettings(made / "wide", "vicuna-v1"), CPU)
    drawn = draw_world(tmp_path / "world", 3)
    for category, table in tables.items():
        prepared = with_sinks(model, prepare_some(model, tmp_path / "world", drawn[category][:QUESTIONS]))
        for name in ("image_sinks", "text_sinks"):
            assert _edges(table, f"{name}->last") == [len(each.positions[name]) for each in prepared]
        assert _edges(table, "image_without_sinks->question") == [
            len(each.positions["image_without_sinks"]) * len(each.positions["question"]) for each in prepared
        ]
        assert _edges(table, "image_sinks~random1->last") == _edges(table, "image_sinks->last")
        assert min(_edges(table, "image_sinks->last")) > 1
        assert table.change_percent.notna().all()
        assert table[table.flow == "text_sinks->last"].change_percent.abs().max() > 0.1
        assert caplog.text.count(f"sinks, {category}: dimensions {DIMENSION} after layer 2 of {LAYERS}") == 1


def test_in_a_model_without_sinks_their_flows_are_missing_and_the_log_says_why(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tables = _run("knockout", made, "narrow", tmp_path, "--window", "1")
    for category, table in tables.items():
        there = table.flow == "image->last"
        assert (table[~there].edges == 0).all()
        assert table[~there].change_percent.isna().all()
        assert (table[there].edges > 0).all()
        assert table[there].change_percent.notna().all()
        assert caplog.text.count(f"{category}: flows of image_sinks, image_without_sinks, text_sinks are missing") == 1
    assert "reaches 20 times the RMS after layer 2 of 3; with hidden states 32 wide, none exceeds 5.7" in caplog.text


def test_heads_take_flows_of_sinks(made: Path, tmp_path: Path) -> None:
    options = ["--only-subsets", "--subsets", "1", "--layers", "1"]
    tables = _run("heads", made, "wide", tmp_path, *options, flows=["image_sinks->last"])
    for table in tables.values():
        assert len(table) == QUESTIONS
        assert (table.edges > 1).all()
        assert table.change_percent.notna().all()

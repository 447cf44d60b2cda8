"""Activation patching as a job: its tables, what becomes of pairs, and a model that reads the image in one layer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from crossflow.cli.main import main
from crossflow.core.flows import PATCHED_SETS
from crossflow.core.patching import DIRECTIONS, PAIR_OUTCOMES, PATCHED, PATCHING
from crossflow.core.tables import ANSWERS, read_csv, read_parquet
from crossflow.data.chosen import write_chosen
from tiny import draw_world, load_tiny

LAYERS, PLANTED = 3, 1


def _job(root: Path, *tables: str) -> list[str]:
    questions = [str(root / f"{table}.csv") for table in tables]
    return ["--questions", *questions, "--root", str(root / "world"), "--device", "cpu", "--prompt", "vicuna-v1",
            "--model-path", str(root / "model")]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reads in one layer only, and pairs of its questions: the same words, another question's image.

    What it answers is declared right, but for one pair; another pair's image is missing, and one question has no pair.
    """
    root = tmp_path_factory.mktemp("patching")
    model = load_tiny(root / "model", layers=LAYERS, width=32, key_value_heads=2)
    with torch.no_grad():
        for number, layer in enumerate(model.layers):
            layer.self_attn.o_proj.weight *= 60.0 * (number == PLANTED)
    model.network.save_pretrained(root / "model")
    asked = draw_world(root / "world", 8)["ChooseAttr"][:7]
    pairs = [
        replace(each, image_id=asked[place - 3].image_id, objects=asked[place - 3].objects)
        for place, each in enumerate(asked)
    ]
    for name, questions in (("asked", asked), ("pairs", pairs)):
        write_chosen(root / f"{name}.csv", questions)
    assert main(["answers", *_job(root, "asked", "pairs"), "--output", str(root / "answers")]) == 0
    tokenizer = model.processor.tokenizer
    for name, questions in (("asked", asked), ("pairs", pairs)):
        answers = read_parquet(root / "answers" / f"{name}.parquet", ANSWERS)[0]
        words = [tokenizer.decode([token]).strip() for token in answers.first_token]
        questions[:] = [replace(each, answer=word) for each, word in zip(questions, words, strict=True)]
    pairs[1] = replace(pairs[1], answer="zebra")
    pairs[2] = replace(pairs[2], image_id="nowhere")
    (root / "pairs").mkdir()
    write_chosen(root / "asked.csv", asked)
    write_chosen(root / "pairs" / "asked.csv", pairs[1:])
    return root


def _run(root: Path, output: Path, *options: str) -> tuple[pd.DataFrame, dict[str, object], list[dict[str, object]]]:
    given = ["--answers", str(root / "answers"), "--pairs", str(root / "pairs"), "--select", "all"]
    assert main(["patching", *_job(root, "asked"), *given, "--output", str(output), *options]) == 0
    table, metadata = read_parquet(output / "asked.parquet", PATCHING)
    return table, metadata, read_csv(output / "asked.pairs.csv", PAIR_OUTCOMES)


def test_every_pair_has_an_outcome_and_patched_ones_all_their_rows(made: Path, tmp_path: Path) -> None:
    table, metadata, outcomes = _run(made, tmp_path)
    found = {row["question_id"]: row for row in outcomes}
    assert len(found) == 7
    first, wrong, broken, *others = outcomes
    assert (first["outcome"], first["pair_image_id"]) == ("no pair", "")
    assert (wrong["outcome"], wrong["right"], wrong["pair_right"]) == (
        "the answer to the pair's image is wrong", 1, 0,
    )  # fmt: skip
    assert str(broken["outcome"]).startswith("the pair cannot be used: the image nowhere.jpg is missing")
    assert {row["outcome"] for row in others} <= {PATCHED, "both answers begin with the same token"}
    patched = [row["question_id"] for row in outcomes if row["outcome"] == PATCHED]
    assert len(patched) == metadata["selected"] >= 2
    assert 0 <= metadata["noise_floor"] <= 1e-6  # type: ignore[operator]
    assert sorted(set(table.question_id)) == sorted(patched)
    cells = [
        (direction, name, layer) for direction in DIRECTIONS for name in PATCHED_SETS for layer in range(LAYERS + 1)
    ]
    for _, rows in table.groupby("question_id"):
        assert list(zip(rows.direction, rows.set, rows.layer, strict=True)) == cells
    missing = table.positions == 0
    assert table[missing].margin_patched.isna().all()
    measured = table[~missing]
    assert (measured.margin_base > 0).all()
    assert (measured.margin_other < 0).all()
    for _, rows in measured.groupby("question_id"):
        # What is patched in one direction is the other run of the reverse.
        ends = rows.groupby("direction")[["margin_base", "margin_other"]].first()
        assert ends.loc["noising", "margin_base"] == -ends.loc["denoising", "margin_other"]


def test_the_reference_makes_the_same_table(made: Path, tmp_path: Path) -> None:
    ours, *_ = _run(made, tmp_path / "ours", "--stride", "2")
    theirs, *_ = _run(made, tmp_path / "theirs", "--stride", "2", "--engine", "reference")
    assert sorted(set(ours.layer)) == [0, 2, LAYERS]
    np.testing.assert_allclose(ours.p_patched, theirs.p_patched, rtol=0, atol=2e-6)
    np.testing.assert_allclose(ours.margin_patched, theirs.margin_patched, rtol=0, atol=2e-4)


def test_the_planted_place_and_layer_come_out_and_no_other(made: Path, tmp_path: Path) -> None:
    table, *_ = _run(made, tmp_path)
    shares = (table.margin_base - table.margin_patched) / (table.margin_base - table.margin_other)
    share = table.assign(share=shares).pivot_table("share", ["direction", "set"], "layer", aggfunc=["min", "max"])
    before, after = range(PLANTED + 1), range(PLANTED + 1, LAYERS + 1)
    for direction in DIRECTIONS:
        for name, there, elsewhere in (("image", before, after), ("last", after, before)):
            for end in ("min", "max"):
                values = share.loc[(direction, name), end]
                assert values[list(there)].to_numpy() == pytest.approx(1, abs=1e-3), (direction, name)
                assert values[list(elsewhere)].to_numpy() == pytest.approx(0, abs=1e-3), (direction, name)
        for name in ("question", "instruction"):
            assert np.abs(share.loc[(direction, name)].to_numpy()).max() < 1e-3, (direction, name)


def test_a_set_of_sinks_is_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--answers", str(made / "answers"), "--pairs", str(made / "pairs"), "--sets", "image_sinks"]
    assert main(["patching", *_job(made, "asked"), *given, "--output", str(tmp_path)]) == 1
    assert "the position set image_sinks differs between images" in capsys.readouterr().err

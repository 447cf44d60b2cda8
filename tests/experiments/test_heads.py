"""Knockouts in single heads as a job: its table, its agreement with the reference, and a model with one working head."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from crossflow.cli.main import main
from crossflow.core.head_subsets import read_subsets
from crossflow.core.measures import HEADS
from crossflow.core.tables import read_parquet
from crossflow.data.chosen import write_chosen
from crossflow.experiments import heads
from tiny import draw_world, load_tiny

LAYERS, ON_LAYER = 3, 4
FLOWS = ["image->last", "related->question", "object->last"]
PLANTED = (1, 2)


def _plant(root: Path) -> None:
    """Silence all heads but one, so that the image can reach the answer through it alone."""
    model = load_tiny(root, layers=LAYERS, width=32, key_value_heads=2)
    with torch.no_grad():
        for number, layer in enumerate(model.layers):
            into = layer.self_attn.o_proj.weight
            for head, part in enumerate(torch.chunk(into, ON_LAYER, dim=1)):
                part *= 30.0 * float((number, head) == PLANTED)
    model.network.save_pretrained(root)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("heads")
    load_tiny(root / "model", layers=LAYERS, width=32, key_value_heads=2)
    _plant(root / "planted")
    write_chosen(root / "questions.csv", draw_world(root / "world", 5)["ChooseAttr"][:4])
    for model in ("model", "planted"):
        assert main(["answers", *_job(root, model), "--output", str(root / f"answers-{model}")]) == 0
    return root


def _job(root: Path, model: str) -> list[str]:
    job = ["--questions", str(root / "questions.csv"), "--root", str(root / "world")]
    return [*job, "--model-path", str(root / model), "--prompt", "vicuna-v1", "--device", "cpu"]


def _run(
    root: Path, output: Path, *options: str, model: str = "model", flows: Sequence[str] = FLOWS
) -> tuple[pd.DataFrame, dict[str, object]]:
    answers = ["--answers", str(root / f"answers-{model}"), "--select", "all", "--flows", *flows]
    assert main(["heads", *_job(root, model), *answers, "--output", str(output), *options]) == 0
    return read_parquet(output / "questions.parquet", HEADS)


def test_every_head_of_every_layer_has_its_row(made: Path, tmp_path: Path) -> None:
    table, metadata = _run(made, tmp_path)
    assert len(table) == 4 * len(FLOWS) * LAYERS * ON_LAYER
    assert (metadata["heads"], metadata["layers"], metadata["selected"]) == (ON_LAYER, LAYERS, 4)
    assert 0 <= metadata["noise_floor"] <= 1e-6  # type: ignore[operator]
    for _, rows in table.groupby(["question_id", "flow"]):
        assert list(zip(rows["layer"], rows["head"], strict=True)) == list(np.ndindex(LAYERS, ON_LAYER))
    measured = table[table.edges > 0]
    change = (measured.p_knockout - measured.p_clean) / measured.p_clean * 100
    np.testing.assert_allclose(measured.change_percent, change, rtol=1e-9, atol=1e-9)
    assert measured.change_percent.abs().max() > 0.1
    assert table[table.edges == 0][["change_percent", "attention"]].isna().all(axis=None)
    assert measured.attention.between(0, 1).all()
    assert measured.attention.nunique() == len(measured)


def test_the_reference_makes_the_same_table(made: Path, tmp_path: Path) -> None:
    ours, _ = _run(made, tmp_path / "ours")
    theirs, _ = _run(made, tmp_path / "theirs", "--engine", "reference")
    np.testing.assert_allclose(ours.p_knockout, theirs.p_knockout, rtol=0, atol=2e-6)


def test_in_a_model_with_one_working_head_only_that_head_matters(made: Path, tmp_path: Path) -> None:
    table, _ = _run(made, tmp_path, model="planted")
    rows = table[table.flow == "image->last"]
    largest = (rows.p_knockout - rows.p_clean).abs().groupby([rows["layer"], rows["head"]]).max()
    assert largest.idxmax() == PLANTED
    assert largest[PLANTED] > 1e-3
    assert largest.drop(PLANTED).max() <= 1e-6


SUBSETS = ["--only-subsets", "--subsets", "8"]


def test_random_subsets_are_knocked_out_together(made: Path, tmp_path: Path) -> None:
    ours, metadata = _run(made, tmp_path / "ours", *SUBSETS)
    assert len(ours) == 4 * len(FLOWS) * 8
    assert (metadata["subsets"], metadata["share"], metadata["each"]) == (8, 0.5, False)
    assert ours["layer"].isna().all()
    assert ours["head"].isna().all()
    # A question's flows share its subsets; other questions have others.
    assert (ours.groupby(["question_id", "flow"])["subset"].agg(tuple).groupby("question_id").nunique() == 1).all()
    assert ours["subset"].nunique() > 2 * 8
    theirs, _ = _run(made, tmp_path / "theirs", *SUBSETS, "--engine", "reference")
    np.testing.assert_allclose(ours.p_knockout, theirs.p_knockout, rtol=0, atol=2e-6)


def test_only_subsets_with_the_one_working_head_change_anything(made: Path, tmp_path: Path) -> None:
    table, _ = _run(made, tmp_path, *SUBSETS, model="planted", flows=["image->last"])
    change = (table.p_knockout - table.p_clean).abs().to_numpy(dtype=float)
    with_it = read_subsets(table["subset"], (LAYERS, ON_LAYER))[:, *PLANTED]
    assert 0 < with_it.sum() < len(table)
    assert change[~with_it].max() <= 1e-6
    assert change[with_it].max() > 1e-3


def test_single_heads_and_subsets_of_some_layers(made: Path, tmp_path: Path) -> None:
    whole, _ = _run(made, tmp_path / "whole", "--subsets", "3")
    some, _ = _run(made, tmp_path / "some", "--subsets", "3", "--layers", "0", "2")
    assert not read_subsets(some["subset"].dropna(), (LAYERS, ON_LAYER))[:, 1].any()
    singles = whole[whole["layer"].isin([0, 2])].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        some[some["subset"].isna()].reset_index(drop=True), singles, check_exact=False, rtol=0, atol=1e-4
    )


def test_a_layer_that_the_model_lacks_and_nothing_to_do_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, message in (
        (["--layers", "1", "3"], "Layer 3 is outside"),
        (["--only-subsets"], "Neither each head alone nor random subsets"),
    ):
        answers = ["--answers", str(made / "answers-model"), "--select", "all", "--flows", *FLOWS]
        assert main(["heads", *_job(made, "model"), *answers, "--output", str(tmp_path), *options]) == 1
        assert message in capsys.readouterr().err


def test_heads_that_read_another_image(made: Path, tmp_path: Path) -> None:
    flows = ["image=swapped->last", "image=swapped->question"]
    ours, metadata = _run(made, tmp_path / "ours", "--subsets", "4", flows=flows)
    theirs, _ = _run(made, tmp_path / "theirs", "--subsets", "4", "--engine", "reference", flows=flows)
    np.testing.assert_allclose(ours.p_knockout, theirs.p_knockout, rtol=0, atol=2e-6)
    assert ours.change_percent.abs().max() > 0.1
    assert 0 < metadata["noise_floor"] <= 1e-6  # type: ignore[operator]
    planted, _ = _run(made, tmp_path / "planted", model="planted", flows=flows[:1])
    largest = (planted.p_knockout - planted.p_clean).abs().groupby([planted["layer"], planted["head"]]).max()
    assert largest[PLANTED] > 1e-3
    assert largest.drop(PLANTED).max() <= 1e-6


def test_a_killed_job_ends_with_the_same_bytes(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(made, tmp_path / "whole")
    run, calls = heads.knock_out_heads, []

    def killed(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(heads, "knock_out_heads", killed)
    with pytest.raises(KeyboardInterrupt):
        _run(made, tmp_path / "killed")
    assert (tmp_path / "killed" / "questions.journal.jsonl").exists()
    _run(made, tmp_path / "killed")
    whole, resumed = (tmp_path / name / "questions.parquet" for name in ("whole", "killed"))
    assert whole.read_bytes() == resumed.read_bytes()
    assert len(calls) == 3 + 2  # two of four questions were kept


def test_answers_to_another_prompt_are_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = ["--answers", str(made / "answers-model"), "--select", "all", "--flows", *FLOWS]
    options = [*_job(made, "planted"), *answers, "--output", str(tmp_path)]
    options[options.index("vicuna-v1")] = "llava-llama-3"
    assert main(["heads", *options]) != 0
    assert "were given to the prompt" in capsys.readouterr().err

"""Mean outputs of modules in a job: the means are those of the clean runs, and the reference makes the same table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from crossflow.cli.main import main
from crossflow.core.measures import KNOCKOUT
from crossflow.core.tables import read_parquet
from crossflow.data.chosen import write_chosen
from crossflow.data.images import Images
from crossflow.experiments.module_means import module_means, wanted_by
from tiny import draw_world, load_tiny, prepare_some

LAYERS = 2
FLOWS = ["attn:question", "attn=mean:question", "mlp=mean:last", "mlp=mean:newline"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("modules")
    load_tiny(root / "model", layers=LAYERS, width=32)
    write_chosen(root / "questions.csv", draw_world(root / "world", 4)["ChooseAttr"][:3])
    assert main(["answers", *_job(root), "--output", str(root / "answers")]) == 0
    return root


def _job(root: Path) -> list[str]:
    job = ["--questions", str(root / "questions.csv"), "--root", str(root / "world"), "--device", "cpu"]
    return [*job, "--model-path", str(root / "model"), "--prompt", "vicuna-v1"]


def _run(root: Path, output: Path, *options: str) -> pd.DataFrame:
    given = ["--answers", str(root / "answers"), "--select", "all", "--window", "1", "--flows", *FLOWS]
    assert main(["knockout", *_job(root), *given, "--output", str(output), *options]) == 0
    return read_parquet(output / "questions.parquet", KNOCKOUT)[0]


def test_the_means_are_those_of_the_clean_outputs(made: Path) -> None:
    model = load_tiny(made / "model")
    questions = draw_world(made / "again", 4)["ChooseAttr"][:3]
    wanted = wanted_by([*FLOWS, "mlp:question"])
    assert wanted == [("attn", "question"), ("mlp", "last"), ("mlp", "newline")]
    found = module_means(model, wanted, questions, lambda: Images(made / "world"), 0)
    # No prompt has a newline token.
    assert found.keys() == set(wanted[:2])
    outputs: list[torch.Tensor] = []
    handle = model.layers[1].self_attn.register_forward_hook(lambda *given: outputs.append(given[2][0][0]))
    kept = []
    for prepared in prepare_some(model, made / "world", questions):
        with torch.inference_mode():
            model.network(**prepared.inputs)
        kept.append(outputs[-1][prepared.positions["question"]])
    handle.remove()
    torch.testing.assert_close(found["attn", "question"][1], torch.cat(kept).mean(dim=0), rtol=0, atol=1e-6)


def test_the_reference_makes_the_same_table(made: Path, tmp_path: Path) -> None:
    ours, theirs = _run(made, tmp_path / "ours"), _run(made, tmp_path / "theirs", "--engine", "reference")
    np.testing.assert_allclose(ours.p_knockout, theirs.p_knockout, rtol=0, atol=2e-6)
    by_flow = ours.set_index("flow")
    assert by_flow.loc["mlp=mean:newline", "change_percent"].isna().all()
    assert (by_flow.loc["mlp=mean:newline", "edges"] == 0).all()
    assert (by_flow.loc["mlp=mean:last", "edges"] == 1).all()
    assert (by_flow.loc["attn:question", "attention"] == 0).all()
    changes = by_flow.loc[FLOWS[:3], "change_percent"].abs().groupby("flow").max()
    assert (changes > 1e-3).all()
    # The mean is nearer to what the layer puts out than nothing is.
    assert by_flow.loc["attn=mean:question"].change_percent.ne(by_flow.loc["attn:question"].change_percent).all()

"""Fusion depth through the engine: in a model that reads the image in one layer only, the depth is that layer."""

import pandas as pd
import pytest
import torch

from crossflow.analysis.fusion_tables import tables
from crossflow.analysis.results import Results
from crossflow.cli.main import main
from crossflow.data.chosen import write_chosen
from tiny import draw_world, load_tiny

LAYERS, PLANTED = 5, 2
QUESTIONS = 16
FLOWS = ["image->all", "image=swapped->all"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("planted")
    model = load_tiny(root / "model", layers=LAYERS, width=32, key_value_heads=2)
    with torch.no_grad():
        for number, layer in enumerate(model.layers):
            layer.self_attn.o_proj.weight *= 30.0 * (number == PLANTED)
    model.network.save_pretrained(root / "model")
    (root / "questions").mkdir()
    chosen = draw_world(root / "world", QUESTIONS)["ChooseAttr"][:QUESTIONS]
    write_chosen(root / "questions" / "ChooseAttr.csv", chosen)
    job = ["--questions", str(root / "questions/ChooseAttr.csv"), "--root", str(root / "world"), "--device", "cpu"]
    job += ["--model-path", str(root / "model"), "--prompt", "vicuna-v1"]
    answers = ["--baselines", "swapped", "--seed", "0", "--output", str(root / "answers/tiny")]
    assert main(["answers", *job, *answers]) == 0
    for window in ("top", "bottom"):
        options = ["--answers", str(root / "answers/tiny"), "--select", "all", "--window", window, "--flows", *FLOWS]
        assert main(["knockout", *job, *options, "--output", str(root / f"knockout/tiny/w{window}")]) == 0
    return Results(root, ("tiny:top", "tiny:bottom"), ("ChooseAttr",), 0)


@pytest.mark.long
def test_the_depth_is_the_planted_layer(results: Results) -> None:
    found = {name: pd.DataFrame(rows) for name, rows in tables(results).items()}
    shares = found["fusion"].set_index(["window", "flow", "measure", "layer"])["share"].sort_index()
    depths = found["fusion_depth"].set_index(["window", "flow", "measure", "point"])["depth"].sort_index()
    for window in ("top", "bottom"):
        # To read another image is to answer about it: nothing is left before the cut passes the layer, and then all.
        share = shares[window, "image=swapped->all", "probability"]
        left = [1.0 if (layer > PLANTED) == (window == "top") else 0.0 for layer in range(LAYERS + 1)]
        assert share.to_numpy() == pytest.approx(left, abs=1e-5)
        for percent in (20, 50, 80):
            point = f"{percent} %"
            swapped = depths[window, "image=swapped->all", "probability", point]
            assert swapped == pytest.approx(PLANTED + percent / 100, abs=1e-5)
            # No image is not another image: how much of what it gives is left differs, but not where it is read.
            assert PLANTED < depths[window, "image->all", "probability", point] < PLANTED + 1

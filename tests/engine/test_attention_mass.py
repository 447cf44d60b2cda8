"""The clean run's attention: that of transformers, per layer and head, and its share on a flow's edges."""

import numpy as np
import pytest
import torch

from crossflow.core.flows import parse_flow
from crossflow.engine.attention_mass import attention_mass, attention_weights, head_mass, mean_weights
from crossflow.engine.edges import edges_of
from crossflow.engine.forward import CleanRun, run_clean
from geometries import LAYERS, Loaded

FLOWS = ("image->question", "related->question", "question->last", "only:image->question->last")


@pytest.fixture(scope="module", params=["grouped", "anyres"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(tmp_path_factory.mktemp("attention"), request.param)


@pytest.fixture(scope="module")
def theirs(loaded: Loaded) -> torch.Tensor:
    """The weights that transformers returns: (layers, heads, positions, positions)."""
    network = loaded.model.network
    chosen = network.config._attn_implementation
    network.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            output = network(**loaded.prepared[0].inputs, output_attentions=True, use_cache=False)
    finally:
        network.set_attn_implementation(chosen)
    return torch.cat(output.attentions)


@pytest.fixture(scope="module")
def clean(loaded: Loaded) -> CleanRun:
    prepared = loaded.prepared[0]
    return run_clean(loaded.model, prepared, int(prepared.positions["all"][0]))


def test_weights_are_those_of_transformers_and_sum_to_1(clean: CleanRun, theirs: torch.Tensor) -> None:
    ours = torch.stack(list(attention_weights(clean)))
    assert ours.shape[:2] == (LAYERS, 4)
    torch.testing.assert_close(ours, theirs[:, :, clean.first :], rtol=0, atol=2e-6)
    torch.testing.assert_close(ours.sum(-1), torch.ones(ours.shape[:3]), rtol=0, atol=2e-6)


def test_weights_of_a_target_set_are_averaged_over_its_positions(clean: CleanRun, theirs: torch.Tensor) -> None:
    targets = clean.prepared.positions["question"]
    assert len(targets) > 1
    torch.testing.assert_close(mean_weights(clean, targets), theirs[:, :, targets].mean(2), rtol=0, atol=2e-6)


def test_the_mass_of_a_head_is_its_share_on_the_edges_and_their_mean_is_the_layers(
    clean: CleanRun, theirs: torch.Tensor
) -> None:
    positions = clean.prepared.positions
    flows = [edges_of(parse_flow(name), positions, 0, "") for name in FLOWS]
    found = head_mass(clean, flows)
    assert found.shape == (len(FLOWS), LAYERS, 4)
    for name, mass in zip(FLOWS[:3], found, strict=False):
        source, target = (positions[part] for part in name.split("->"))
        expected = theirs[:, :, target][..., source].sum(-1).mean(-1).double()
        torch.testing.assert_close(mass, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(attention_mass(clean, flows), found.mean(-1), rtol=1e-15)

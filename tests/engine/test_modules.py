"""Module knockouts: the engine against the definition, the definition against hooks of the test's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import Window, parse_flow
from crossflow.engine.edges import Row, count_edges, edges_of, rows_of
from crossflow.engine.forward import CleanRun, run_clean
from crossflow.engine.modules import Silenced
from crossflow.engine.reference import run_reference
from crossflow.engine.shared_prefix import run_knockouts
from crossflow.models.model import MultimodalModel, Prepared
from geometries import LAYERS, Loaded
from knocked import largest_difference, rows_for
from loaded_families import SIZES
from loaded_families import Loaded as LoadedFamily
from tiny_families import LAYERS as FAMILY_LAYERS

FLOWS = (
    "attn:question",
    "mlp:question",
    "attn:last",
    "mlp:last",
    "attn:question+mlp:last",
    "attn:last+image->question",
)
MEANS = ("attn=mean:question", "mlp=mean:last")


def _rows(model: MultimodalModel, prepared: Prepared, layers: int, width: int) -> tuple[CleanRun, list[Row]]:
    torch.manual_seed(0)
    size = model.network.config.get_text_config().hidden_size
    means = {key: torch.randn(layers, size) for key in (("attn", "question"), ("mlp", "last"))}
    rows: list[Row] = []
    for name in (*FLOWS, *MEANS):
        edges = edges_of(parse_flow(name), prepared.positions, 0, "1", means)
        rows += rows_of(name, edges, str(width), layers)
    return run_clean(model, prepared, min(row.start for row in rows)), rows


@pytest.mark.parametrize("width", [1, 3])
def test_the_engine_equals_the_reference(loaded: Loaded, width: int) -> None:
    prepared = loaded.prepared[0]
    clean, rows = _rows(loaded.model, prepared, LAYERS, width)
    ours, theirs = run_knockouts(loaded.model, clean, rows).logits, run_reference(loaded.model, clean, rows).logits
    assert largest_difference(ours, theirs) <= 2e-6
    for name in (*FLOWS, *MEANS):
        of_flow = theirs[[number for number, row in enumerate(rows) if row.flow == name]]
        assert largest_difference(of_flow, clean.logits.expand_as(of_flow)) > 1e-4, f"{name} does nothing"


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3"])
def test_in_todays_families_the_engine_equals_the_reference(folder: Path, name: str) -> None:
    family = LoadedFamily(name, folder)
    clean, rows = _rows(family.model, family.prepared[SIZES[0]], FAMILY_LAYERS, 3)
    ours, theirs = run_knockouts(family.model, clean, rows).logits, run_reference(family.model, clean, rows).logits
    assert largest_difference(ours, theirs) <= 2e-6
    assert largest_difference(theirs, clean.logits.expand_as(theirs)) > 1e-4


@contextmanager
def _zeroed(module: torch.nn.Module, positions: Any) -> Iterator[None]:
    def hook(_: torch.nn.Module, given: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, positions] = 0
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = module.register_forward_hook(hook)
    yield
    handle.remove()


@pytest.mark.parametrize(("flow", "name"), [("attn:question", "self_attn"), ("mlp:last", "mlp")])
def test_the_reference_sets_the_output_to_zero_and_no_other(loaded: Loaded, flow: str, name: str) -> None:
    model, prepared = loaded.model, loaded.prepared[0]
    part = parse_flow(flow).parts[0]
    edges = edges_of(parse_flow(flow), prepared.positions, 0, "1")
    clean = run_clean(model, prepared, int(prepared.positions[part.target][0]))
    for layer in range(LAYERS):
        (logits,) = run_reference(model, clean, [Row(flow, layer, Window(layer, layer), edges)]).logits
        with torch.inference_mode(), _zeroed(getattr(model.layers[layer], name), prepared.positions[part.target]):
            end = model.network(**prepared.inputs, use_cache=False).logits[0, -1]
        assert largest_difference(logits, end) <= 1e-6


def test_knockouts_of_edges_beside_those_of_modules_stay_as_they_are(grouped: Loaded) -> None:
    prepared = grouped.prepared[0]
    clean, rows = _rows(grouped.model, prepared, LAYERS, 3)
    plain = rows_for(prepared, LAYERS, 3, ["image->question", "question->last"])
    beside = run_knockouts(grouped.model, clean, [*rows, *plain]).logits[len(rows) :]
    assert largest_difference(beside, run_knockouts(grouped.model, clean, plain).logits) <= 1e-6


def test_attention_and_mlp_at_every_position_leave_the_embedding(grouped: Loaded) -> None:
    prepared = grouped.prepared[0]
    edges = edges_of(parse_flow("attn:last+mlp:last"), prepared.positions, 0, "1")
    clean = run_clean(grouped.model, prepared, int(prepared.positions["last"][0]))
    (logits,) = run_knockouts(grouped.model, clean, [Row("", 0, Window(0, LAYERS - 1), edges)]).logits
    with torch.inference_mode():
        alone = grouped.model.logits(grouped.model.norm(clean.layers[0].hidden[0, -1:]))[0]
    assert largest_difference(logits, alone) <= 1e-6


def test_outputs_are_counted_and_what_is_not_known_is_missing(grouped: Loaded) -> None:
    positions = grouped.prepared[0].positions
    edges = edges_of(parse_flow("attn:question"), positions, 0, "1")
    assert count_edges(edges) == len(positions["question"])
    both = edges_of(parse_flow("attn:last+image->question"), positions, 0, "1")
    assert count_edges(both) == 1 + len(positions["image"]) * len(positions["question"])
    assert edges_of(parse_flow("attn=mean:question"), positions, 0, "1") == ()
    assert edges_of(parse_flow("mlp:newline"), positions, 0, "1") == ()
    assert Silenced("attn", positions["last"]).extended_by(int(positions["last"][0]), 2).targets.tolist() == [
        int(positions["last"][0]) + step for step in range(3)
    ]


def test_a_layer_without_such_a_module_is_refused(grouped: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = grouped.prepared[0]
    clean, rows = _rows(grouped.model, prepared, LAYERS, 1)
    monkeypatch.setattr("crossflow.engine.modules._NAMES", {"attn": "mixer", "mlp": "mlp"})
    with pytest.raises(CrossflowError, match="decoder layers have no module mixer"):
        run_knockouts(grouped.model, clean, rows)

"""Knockouts in some heads only, against the definition and what they must mean."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crossflow.core.flows import Window
from crossflow.engine.edges import Edges, Row
from crossflow.engine.engines import ENGINES
from crossflow.engine.forward import full_forward, run_clean
from crossflow.engine.reference import run_reference
from crossflow.engine.shared_prefix import run_knockouts
from crossflow.models.attention import Call, Plain
from geometries import LAYERS, Loaded
from knocked import in_double, largest_difference, rows_for
from loaded_families import SIZES
from loaded_families import Loaded as LoadedFamily
from tiny_families import LAYERS as FAMILY_LAYERS

FLOWS = ("image->last", "image->question", "related->question", "question->last")


def _in_heads(rows: list[Row], heads: int, layers: int = LAYERS, seed: int = 0) -> list[Row]:
    """Each row in other random heads in each layer, which may be none."""
    generator = np.random.default_rng(seed)
    return [
        row._replace(heads=tuple(map(tuple, np.argwhere(generator.random((layers, heads)) < 0.4).tolist())))
        for row in rows
    ]


def _heads(loaded: Loaded | LoadedFamily) -> int:
    return int(loaded.model.network.config.get_text_config().num_attention_heads)


@pytest.mark.parametrize("width", [1, 3])
def test_the_engine_equals_the_reference(loaded: Loaded, width: int) -> None:
    prepared = loaded.prepared[0]
    # Rows in all heads run beside them.
    rows = rows_for(prepared, LAYERS, width, FLOWS)
    rows = _in_heads(rows, _heads(loaded)) + rows[:3]
    clean = run_clean(loaded.model, prepared, min(row.start for row in rows))
    ours, theirs = run_knockouts(loaded.model, clean, rows).logits, run_reference(loaded.model, clean, rows).logits
    assert largest_difference(ours, theirs) <= 2e-6
    assert largest_difference(theirs, clean.logits.expand_as(theirs)) > 0.001, "the knockouts do nothing"


@pytest.mark.parametrize("engine", ENGINES)
def test_all_heads_at_once_are_the_plain_knockout_and_no_head_is_the_clean_run(loaded: Loaded, engine: str) -> None:
    every = tuple((layer, head) for layer in range(LAYERS) for head in range(_heads(loaded)))
    with in_double(loaded.model, loaded.prepared[0]) as (prepared,):
        rows = rows_for(prepared, LAYERS, 3, FLOWS)
        clean = run_clean(loaded.model, prepared, min(row.start for row in rows))
        whole = [row._replace(heads=every) for row in rows]
        nothing = [row._replace(heads=()) for row in rows]
        ((plain, _), (all_heads, _), (no_head, _)) = (
            ENGINES[engine](loaded.model, [(clean, each)])[0] for each in (rows, whole, nothing)
        )
    assert largest_difference(all_heads, plain) <= 1e-12
    assert largest_difference(no_head, clean.logits.expand_as(no_head)) <= 1e-12


class _OneHead:
    """Plain products for one query head whose blocked edges have weight 0, word for word."""

    def __init__(self, edges: Edges, head: int, layer: int) -> None:
        self.edges = edges
        self.head = head
        self.layer = layer

    def attend(self, call: Call) -> torch.Tensor:
        mixed = Plain().attend(call)
        if call.layer == self.layer:
            group = call.query.shape[1] // call.key.shape[1]
            key, value = call.key[0, self.head // group], call.value[0, self.head // group]
            scores = call.query[0, self.head] @ key.T * call.scaling
            visible = call.visible().clone()
            sources, targets, _ = self.edges
            visible[np.ix_(targets, sources)] = False
            mixed[0, self.head] = torch.softmax(scores.masked_fill(~visible, -torch.inf), dim=-1) @ value
        return mixed


def test_a_single_head_is_the_query_head_of_that_number(loaded: Loaded) -> None:
    prepared = loaded.prepared[0]
    edges = Edges(prepared.positions["image"], prepared.positions["question"])
    rows = [
        Row("image->question", layer, Window(layer, layer), (edges,), ((layer, head),))
        for layer in (1, 3)
        for head in range(_heads(loaded))
    ]
    clean = run_clean(loaded.model, prepared, rows[0].start)
    ours = run_knockouts(loaded.model, clean, rows).logits
    by_hand = [full_forward(loaded.model, prepared, _OneHead(edges, row.heads[0][1], row.layer)).logits for row in rows]  # type: ignore[index]
    assert largest_difference(ours, torch.cat(by_hand)) <= 2e-6
    # No two heads do the same.
    assert len({round(float(value), 6) for value in ours[:, 0]}) == len(rows)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3"])
def test_in_todays_families_the_engine_equals_the_reference(folder: Path, name: str) -> None:
    family = LoadedFamily(name, folder)
    prepared = family.prepared[SIZES[0]]
    rows = _in_heads(rows_for(prepared, FAMILY_LAYERS, 2, FLOWS), _heads(family), FAMILY_LAYERS)
    clean = run_clean(family.model, prepared, min(row.start for row in rows))
    ours, theirs = run_knockouts(family.model, clean, rows).logits, run_reference(family.model, clean, rows).logits
    assert largest_difference(ours, theirs) <= 2e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_in_a_model_with_one_working_head_only_that_head_matters(folder: Path, engine: str) -> None:
    # Outputs of all other heads are multiplied by 0: the image can reach the last position through this head alone.
    loaded = Loaded(folder, "planted")
    heads, planted = _heads(loaded), (2, 1)
    with torch.no_grad():
        for number, layer in enumerate(loaded.model.layers):
            into = layer.self_attn.o_proj.weight
            width = into.shape[1] // heads
            for head in range(heads):
                into[:, head * width : (head + 1) * width] *= 30.0 * float((number, head) == planted)
    prepared = loaded.prepared[0]
    edges = (Edges(prepared.positions["image"], prepared.positions["all"]),)
    rows = [
        Row("image->all", layer, Window(layer, layer), edges, ((layer, head),))
        for layer in range(LAYERS)
        for head in range(heads)
    ]
    clean = run_clean(loaded.model, prepared, rows[0].start)
    ((logits, _),) = ENGINES[engine](loaded.model, [(clean, rows)])
    change = (torch.softmax(logits, -1) - torch.softmax(clean.logits, -1)).abs().amax(-1)
    found = {row.heads[0] for row, size in zip(rows, change.tolist(), strict=True) if row.heads and size > 1e-5}
    assert found == {planted}

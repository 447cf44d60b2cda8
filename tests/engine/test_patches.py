"""Patches of the residual stream: the engine against the definition, the definition against transformers' own states."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import Window
from crossflow.engine.edges import patched_row
from crossflow.engine.engines import ENGINES
from crossflow.engine.forward import CleanRun, run_clean_together
from crossflow.engine.patches import Patch
from crossflow.engine.reference import run_reference
from crossflow.engine.shared_prefix import run_knockouts
from crossflow.models.model import MultimodalModel, Prepared
from geometries import LAYERS, Loaded, with_other_pixels
from knocked import in_double, largest_difference, rows_for
from loaded_families import SIZES, middle, noise, question_about
from loaded_families import Loaded as LoadedFamily
from tiny_families import LAYERS as FAMILY_LAYERS

SETS = ("image", "related", "question", "instruction", "last")


def _runs(model: MultimodalModel, prepared: Prepared, other: Prepared) -> tuple[CleanRun, CleanRun]:
    first = int(prepared.positions["image"][0])
    own, pair = run_clean_together(model, [prepared, other], [first, first])
    return own, pair


def _patch(states: CleanRun, positions: np.ndarray) -> Patch:
    return Patch(torch.from_numpy(positions), states.entering, states.first)


@pytest.mark.parametrize("number", [0, 1])
def test_the_engine_equals_the_reference(loaded: Loaded, number: int) -> None:
    prepared = loaded.prepared[number]
    own, pair = _runs(loaded.model, prepared, with_other_pixels(prepared))
    found = {name: prepared.positions[name] for name in SETS if len(prepared.positions[name])}
    rows = [
        patched_row(_patch(pair, positions), int(positions[0]), layer)
        for positions in found.values()
        for layer in range(LAYERS + 1)
    ]
    ours, theirs = run_knockouts(loaded.model, own, rows).logits, run_reference(loaded.model, own, rows).logits
    assert largest_difference(ours, theirs) <= 2e-6
    assert largest_difference(theirs, own.logits.expand_as(theirs)) > 0.001, "the patches do nothing"


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3", "qwen3_vl"])
def test_in_todays_families_the_engine_equals_the_reference(folder: Path, name: str) -> None:
    family = LoadedFamily(name, folder)
    size = SIZES[0]
    prepared = family.prepared[size]
    other = family.model.prepare(question_about(middle(size)), noise(size, 1))
    own, pair = _runs(family.model, prepared, other)
    image = int(prepared.positions["image"][0])
    rows = [
        # Gemma 3's image tokens see one another, so that a suffix can only begin before all of them.
        patched_row(_patch(pair, prepared.positions[each]), min(image, int(prepared.positions[each][0])), layer)
        for each in SETS
        for layer in range(FAMILY_LAYERS + 1)
    ]
    ours, theirs = run_knockouts(family.model, own, rows).logits, run_reference(family.model, own, rows).logits
    assert largest_difference(ours, theirs) <= 2e-6
    assert largest_difference(theirs, own.logits.expand_as(theirs)) > 0.001, "the patches do nothing"


@contextmanager
def _replaced(module: torch.nn.Module, positions: np.ndarray, by: torch.Tensor) -> Iterator[None]:
    def hook(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = given[0].clone()
        hidden[:, positions] = by[:, positions]
        return hidden, *given[1:]

    handle = module.register_forward_pre_hook(hook)
    yield
    handle.remove()


def test_the_reference_replaces_transformers_own_states(loaded: Loaded) -> None:
    model, prepared = loaded.model, loaded.prepared[0]
    other = with_other_pixels(prepared)
    own, pair = _runs(model, prepared, other)
    with torch.inference_mode():
        states = model.network.base_model(**other.inputs, output_hidden_states=True, use_cache=False).hidden_states
        for name, layer in (("image", 0), ("related", 1), ("question", LAYERS - 1), ("last", LAYERS - 1)):
            positions = prepared.positions[name]
            with _replaced(model.layers[layer], positions, states[layer]):
                end = model.network(**prepared.inputs, use_cache=False).logits[0, -1]
            (logits,) = run_reference(model, own, [patched_row(_patch(pair, positions), 0, layer)]).logits
            assert largest_difference(logits, end) <= 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_its_own_states_change_nothing(loaded: Loaded, engine: str) -> None:
    with in_double(loaded.model, loaded.prepared[0]) as (prepared,):
        own, _ = _runs(loaded.model, prepared, prepared)
        positions = [prepared.positions[name] for name in SETS]
        rows = [
            patched_row(_patch(own, each), int(each[0]), layer) for each in positions for layer in range(LAYERS + 1)
        ]
        (reading,) = ENGINES[engine](loaded.model, [(own, rows)])
        assert largest_difference(reading.logits, own.logits.expand_as(reading.logits)) <= 1e-12


@pytest.mark.parametrize("engine", ENGINES)
def test_all_positions_before_any_layer_give_the_other_answer(loaded: Loaded, engine: str) -> None:
    with in_double(loaded.model, loaded.prepared[0]) as (prepared,):
        own, pair = _runs(loaded.model, prepared, with_other_pixels(prepared))
        # Before the image, both are the same.
        everything = np.arange(own.first, prepared.length)
        rows = [patched_row(_patch(pair, everything), own.first, layer) for layer in range(LAYERS + 1)]
        (reading,) = ENGINES[engine](loaded.model, [(own, rows)])
        assert largest_difference(reading.logits, pair.logits.expand_as(reading.logits)) <= 1e-12
        assert largest_difference(own.logits, pair.logits) > 0.001


@pytest.mark.parametrize("engine", ENGINES)
def test_after_the_last_layer_only_the_last_position_matters(grouped: Loaded, engine: str) -> None:
    with in_double(grouped.model, grouped.prepared[0]) as (prepared,):
        own, pair = _runs(grouped.model, prepared, with_other_pixels(prepared))
        found = [prepared.positions[name] for name in SETS]
        rows = [patched_row(_patch(pair, positions), int(positions[0]), LAYERS) for positions in found]
        (reading,) = ENGINES[engine](grouped.model, [(own, rows)])
        *others, last = reading.logits
        assert largest_difference(torch.stack(others), own.logits.expand(len(others), -1)) <= 1e-12
        assert largest_difference(last, pair.logits) <= 1e-12


def test_patches_and_knockouts_run_side_by_side(grouped: Loaded) -> None:
    prepared = grouped.prepared[0]
    own, pair = _runs(grouped.model, prepared, with_other_pixels(prepared))
    knockouts = rows_for(prepared, LAYERS, 3, ["image->question", "question->last"])
    patches = [
        patched_row(_patch(pair, prepared.positions[name]), int(prepared.positions[name][0]), layer)
        for name in ("question", "last")
        for layer in range(LAYERS + 1)
    ]
    together = run_knockouts(grouped.model, own, [*patches, *knockouts]).logits
    assert largest_difference(together[len(patches) :], run_knockouts(grouped.model, own, knockouts).logits) <= 1e-6
    assert largest_difference(together[: len(patches)], run_reference(grouped.model, own, patches).logits) <= 2e-6


def test_a_window_beyond_the_model_is_refused_unless_it_patches_what_leaves_the_model(grouped: Loaded) -> None:
    prepared = grouped.prepared[0]
    own, pair = _runs(grouped.model, prepared, with_other_pixels(prepared))
    row = patched_row(_patch(pair, prepared.positions["last"]), int(prepared.positions["last"][0]), LAYERS)
    for outside in (row._replace(patch=None), row._replace(window=Window(LAYERS + 1, LAYERS))):
        with pytest.raises(CrossflowError, match="outside the model's layers"):
            run_knockouts(grouped.model, own, [outside])

"""Substitution: targets that read a donor's keys and values, against the definition and what it must mean."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from crossflow.core.flows import Window, parse_flow
from crossflow.engine.blocking import Blocking
from crossflow.engine.donors import Donor, MeanDonor
from crossflow.engine.edges import Edges, Row, edges_of, rows_of
from crossflow.engine.engines import ENGINES
from crossflow.engine.forward import CleanRun, full_forward, run_clean, run_clean_together
from crossflow.engine.reference import run_reference
from crossflow.engine.shared_prefix import run_knockouts
from crossflow.models.attention import Call, Plain, attend
from crossflow.models.model import MultimodalModel, Prepared
from geometries import LAYERS, Loaded, with_other_pixels
from knocked import in_double, largest_difference, rows_for
from loaded_families import SIZES, middle, noise, question_about
from loaded_families import Loaded as LoadedFamily
from tiny_families import LAYERS as FAMILY_LAYERS

FLOWS = ("image=swapped->question", "related=swapped->question", "question=swapped->last", "image=swapped->all")
MEANS = ("image=mean->question", "other=mean->all")


def _mean(*donors: Donor, prepared: Prepared) -> Donor:
    image = prepared.positions["image"]
    mean = MeanDonor(int(image[0]), int(image[-1]) + 1)
    for donor in donors:
        mean.add(donor)
    return mean.mean()


def _with_donors(model: MultimodalModel, prepared: Prepared, other: Prepared, first: int) -> CleanRun:
    """A clean run that may read another prompt's keys and values, or the mean of both prompts'."""
    clean, donor = run_clean_together(model, [prepared, other], [first, prepared.length - 1])
    mean = _mean(clean.as_donor, donor.as_donor, prepared=prepared)
    return replace(clean, donors={"own": clean.as_donor, "swapped": donor.as_donor, "mean": mean})


def _reading_itself(rows: list[Row]) -> list[Row]:
    return [row._replace(edges=tuple(each._replace(donor="own") for each in row.edges)) for row in rows]


@pytest.mark.parametrize("width", [1, 3])
def test_the_engine_equals_the_reference(loaded: Loaded, width: int) -> None:
    for prepared in loaded.prepared[:2]:
        rows = rows_for(prepared, LAYERS, width, [*FLOWS, *MEANS, "image->question"])
        clean = _with_donors(loaded.model, prepared, with_other_pixels(prepared), min(row.start for row in rows))
        ours, theirs = run_knockouts(loaded.model, clean, rows).logits, run_reference(loaded.model, clean, rows).logits
        assert largest_difference(ours, theirs) <= 2e-6
        assert largest_difference(theirs, clean.logits.expand_as(theirs)) > 0.001, "the substitutions do nothing"


@pytest.mark.parametrize("engine", ENGINES)
def test_reading_its_own_keys_and_values_changes_nothing(loaded: Loaded, engine: str) -> None:
    with in_double(loaded.model, loaded.prepared[0]) as (prepared,):
        rows = _reading_itself(rows_for(prepared, LAYERS, 3, FLOWS))
        clean = _with_donors(loaded.model, prepared, prepared, min(row.start for row in rows))
        ((logits, _),) = ENGINES[engine](loaded.model, [(clean, rows)])
    assert largest_difference(logits, clean.logits.expand_as(logits)) <= 1e-12


def test_reading_only_another_image_in_all_layers_is_answering_about_that_image(loaded: Loaded) -> None:
    prepared = loaded.prepared[0]
    other = with_other_pixels(prepared)
    (row,) = rows_for(prepared, LAYERS, 2 * LAYERS, ["image=swapped->all"])[:1]
    assert row.window == Window(0, LAYERS - 1)
    clean = _with_donors(loaded.model, prepared, other, row.start)
    about_the_other = full_forward(loaded.model, other, Plain()).logits
    assert largest_difference(run_knockouts(loaded.model, clean, [row]).logits, about_the_other) <= 2e-6
    assert largest_difference(about_the_other[0], clean.logits) > 0.001


class _Overwriting:
    """For targets, the keys and values at the sources are overwritten by the donor's: substitution word for word."""

    def __init__(self, edges: Edges, donor: Donor, window: Window) -> None:
        self.edges = edges
        self.donor = donor
        self.window = window

    def attend(self, call: Call) -> torch.Tensor:
        mixed = Plain().attend(call)
        if call.layer in self.window:
            sources, targets, _ = self.edges
            key, value = call.key.clone(), call.value.clone()
            key[0, :, sources] = self.donor.layers[call.layer].key[:, sources]
            value[0, :, sources] = self.donor.layers[call.layer].value[:, sources]
            visible = call.visible()[targets]
            mixed[:, :, targets] = attend(call.query[:, :, targets], key, value, visible[None], call.scaling)
        return mixed


def test_the_reference_is_what_overwriting_keys_and_values_gives(grouped: Loaded) -> None:
    prepared = grouped.prepared[0]
    rows = rows_for(prepared, LAYERS, 3, FLOWS)
    clean = _with_donors(grouped.model, prepared, with_other_pixels(prepared), min(row.start for row in rows))
    for row in rows:
        (edges,) = row.edges
        plain = full_forward(grouped.model, prepared, _Overwriting(edges, clean.donors["swapped"], row.window)).logits
        ours = full_forward(grouped.model, prepared, Blocking.of(row, clean.donors)).logits
        assert largest_difference(ours, plain) <= 2e-6


def test_the_keys_and_values_of_a_donor_are_those_of_transformers_own_cache(loaded: Loaded) -> None:
    prepared = loaded.prepared[0]
    donor = run_clean(loaded.model, prepared, prepared.length - 1).as_donor
    with torch.inference_mode():
        cache = loaded.model.network(**prepared.inputs, use_cache=True).past_key_values
    for layer, (key, value) in enumerate(donor.layers):
        assert torch.allclose(key, cache.layers[layer].keys[0], rtol=0, atol=1e-6)
        assert torch.allclose(value, cache.layers[layer].values[0], rtol=0, atol=1e-6)


def test_the_mean_of_donors_is_the_mean_at_each_position(grouped: Loaded) -> None:
    donors = [run_clean(grouped.model, each, each.length - 1).as_donor for each in grouped.prepared]
    image = grouped.prepared[0].positions["image"]
    mean = _mean(*donors, prepared=grouped.prepared[0])
    places = torch.from_numpy(image)
    for layer in range(LAYERS):
        expected = torch.stack([donor.layers[layer].key[:, places] for donor in donors]).mean(0)
        assert torch.allclose(mean.at(layer, places).key, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["qwen2_5_vl", "gemma3", *(pytest.param(each, marks=pytest.mark.long) for each in ("qwen3_vl", "internvl"))]
)
def test_in_todays_families_the_engine_equals_the_reference(folder: Path, name: str) -> None:
    family = LoadedFamily(name, folder)
    size = SIZES[0]
    prepared = family.prepared[size]
    other = family.model.prepare(question_about(middle(size)), noise(size, seed=1))
    rows = rows_for(prepared, FAMILY_LAYERS, 2, [*FLOWS, *MEANS])
    clean = _with_donors(family.model, prepared, other, min(row.start for row in rows))
    ours, theirs = run_knockouts(family.model, clean, rows).logits, run_reference(family.model, clean, rows).logits
    assert largest_difference(ours, theirs) <= 2e-6
    with in_double(family.model, prepared, other) as (prepared, other):
        clean = _with_donors(family.model, prepared, other, min(row.start for row in rows))
        nothing = run_knockouts(family.model, clean, _reading_itself(rows)).logits
    assert largest_difference(nothing, clean.logits.expand_as(nothing)) <= 1e-12


def test_blocked_and_substituted_edges_add_up(grouped: Loaded) -> None:
    prepared = grouped.prepared[0]
    name = "image=swapped->question+question->last"
    edges = edges_of(parse_flow(name), prepared.positions, 0, "")
    assert [each.donor for each in edges] == ["swapped", None]
    rows = list(rows_of(name, edges, "3", LAYERS))
    clean = _with_donors(grouped.model, prepared, with_other_pixels(prepared), min(row.start for row in rows))
    ours, theirs = run_knockouts(grouped.model, clean, rows).logits, run_reference(grouped.model, clean, rows).logits
    assert largest_difference(ours, theirs) <= 2e-6


def test_a_target_may_read_nothing_but_a_donor(grouped: Loaded) -> None:
    # A knockout of these edges is refused, because no key would be left.
    prepared = grouped.prepared[0]
    last = prepared.positions["last"]
    row = Row("everything->last", 1, Window(1, 2), (Edges(np.arange(prepared.length), last, "swapped"),))
    clean = _with_donors(grouped.model, prepared, with_other_pixels(prepared), int(last[0]))
    ours, theirs = run_knockouts(grouped.model, clean, [row]).logits, run_reference(grouped.model, clean, [row]).logits
    assert largest_difference(ours, theirs) <= 2e-6

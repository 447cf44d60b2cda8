"""Sinks: exactly the planted ones are found, by the rule of transformers' own states; and flows of them are exact."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import SINK_SETS, parse_flow
from crossflow.engine import sinks
from crossflow.engine.edges import count_edges, edges_of
from crossflow.engine.forward import run_clean_together
from crossflow.engine.reference import run_reference
from crossflow.engine.shared_prefix import run_knockouts
from crossflow.engine.sinks import THRESHOLD, find_sinks, middle_states
from crossflow.experiments.sinks import SinkSets, with_sinks
from crossflow.models.model import MultimodalModel, Prepared
from geometries import GEOMETRIES, LAYERS, Loaded, with_other_pixels
from knocked import largest_difference, rows_for
from loaded_families import SIZES
from loaded_families import Loaded as LoadedFamily
from planted_sinks import DIMENSION, MASSIVE, WIDTH, load_wide, plant
from tiny import draw_world, prepare_some
from tiny_families import LAYERS as FAMILY_LAYERS

FLOWS = (
    "image_sinks->last",
    "image_without_sinks->last",
    "text_sinks->question",
    "image_sinks~random1->question",
    "only:image_sinks->last",
    "image_sinks->question+related->last",
    "image_sinks=swapped->question",
)
BEGIN = "<s>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sinks")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[MultimodalModel, list[Prepared]]:
    """A model 512 wide, and prompts: two questions about one image, one about another."""
    model = load_wide(folder / "wide")
    questions = [question for each in draw_world(folder / "world", 3).values() for question in each]
    first = questions[0]
    other = next(each for each in questions if each.image_id == first.image_id and each.question != first.question)
    elsewhere = next(each for each in questions if each.image_id != first.image_id)
    return model, prepare_some(model, folder / "world", [first, other, elsewhere])


@pytest.fixture
def planted(loaded: tuple[MultimodalModel, list[Prepared]]) -> tuple[MultimodalModel, list[Prepared]]:
    """The same with its weights restored afterwards."""
    model, prompts = loaded
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    yield model, prompts
    model.network.load_state_dict(before)


def _by_definition(model: MultimodalModel, prepared: Prepared) -> tuple[list[int], list[int]]:
    """Sink dimensions and sinks, in NumPy from the states that transformers returns."""
    with torch.inference_mode():
        states = model.network(**prepared.inputs, output_hidden_states=True).hidden_states
    middle = states[math.ceil((len(states) - 1) / 2)][0].double().numpy()
    phi = np.abs(middle) / np.sqrt((middle**2).mean(axis=1, keepdims=True))
    dimensions = [d for d in range(phi.shape[1]) if phi[0, d] >= 20]
    return dimensions, [i for i in range(len(phi)) if any(phi[i, d] >= 20 for d in dimensions)]


def test_exactly_the_planted_tokens_are_sinks(planted: tuple[MultimodalModel, list[Prepared]]) -> None:
    model, prompts = planted
    plant(model, [BEGIN, "the"])
    chosen = [3, 17, 35]

    def overwrite(module: torch.nn.Module, given: object, features: torch.Tensor) -> torch.Tensor:
        features[:, chosen, DIMENSION] = -MASSIVE
        return features

    handle = model.network.model.multi_modal_projector.register_forward_hook(overwrite)
    try:
        found = find_sinks(model, prompts)
        assert [_by_definition(model, prompt) for prompt in prompts] == [
            (each.dimensions.tolist(), each.positions.tolist()) for each in found
        ]
        (positions, *_) = (each.positions for each in with_sinks(model, prompts))
    finally:
        handle.remove()
    ids = prompts[0].inputs["input_ids"][0].numpy()
    words = np.flatnonzero(np.isin(ids, model.processor.tokenizer.convert_tokens_to_ids([BEGIN, "the"])))
    assert found[0].dimensions.tolist() == [DIMENSION]
    assert len(words) > 1
    assert positions["text_sinks"].tolist() == words.tolist()
    assert positions["image_sinks"].tolist() == (positions["image"][0] + np.array(chosen)).tolist()
    rest = np.setdiff1d(positions["image"], positions["image_sinks"])
    assert positions["image_without_sinks"].tolist() == np.setdiff1d(rest, positions["padding"]).tolist()


def test_two_questions_about_an_image_have_the_same_visual_sinks(
    planted: tuple[MultimodalModel, list[Prepared]],
) -> None:
    model, prompts = planted
    plant(model, [BEGIN], visual=100.0)
    one, other, elsewhere = (each.positions for each in with_sinks(model, prompts))
    assert one.length != other.length
    assert 0 < len(one["image_sinks"]) < len(one["image"])
    assert one["image_sinks"].tolist() == other["image_sinks"].tolist()
    assert one["image_sinks"].tolist() != elsewhere["image_sinks"].tolist()


def test_a_control_has_as_many_tokens_of_the_rest_of_the_image(
    planted: tuple[MultimodalModel, list[Prepared]],
) -> None:
    model, prompts = planted
    plant(model, [BEGIN], visual=60.0)
    (prepared, *_) = with_sinks(model, prompts)
    positions = prepared.positions
    for flow in ("image_sinks->last", "image_sinks->question"):
        (own,) = edges_of(parse_flow(flow), positions, 0, "1")
        (control,) = edges_of(parse_flow(flow.replace("->", "~random1->")), positions, 0, "1")
        assert own.sources.tolist() == positions["image_sinks"].tolist()
        assert len(np.unique(control.sources)) == len(own.sources) > 1
        assert set(control.sources) <= set(positions["image_without_sinks"])
        assert count_edges([own]) == count_edges([control]) == len(own.sources) * len(own.targets)


def test_a_model_without_a_sink_dimension_or_too_narrow_has_empty_sets(
    loaded: tuple[MultimodalModel, list[Prepared]], folder: Path
) -> None:
    assert THRESHOLD**2 > 32
    narrow = Loaded(folder, "full")
    plant(narrow.model, [BEGIN])
    for model, prompts in (loaded, (narrow.model, narrow.prepared)):
        assert WIDTH > THRESHOLD**2
        for prepared in with_sinks(model, prompts):
            assert all(len(prepared.positions[name]) == 0 for name in SINK_SETS)
            assert edges_of(parse_flow("image_without_sinks->last"), prepared.positions, 0, "1") == ()


def test_a_set_that_was_not_computed_is_refused(loaded: tuple[MultimodalModel, list[Prepared]]) -> None:
    prepared = loaded[1][0]
    for name in SINK_SETS:
        for flow in (f"{name}->last", f"last->{name}", f"only:{name}->last", f"image->last+{name}~random1->last"):
            assert parse_flow(flow).needs_sinks
            with pytest.raises(CrossflowError, match=f"{name} follows from a forward of the model that was not run"):
                edges_of(parse_flow(flow), prepared.positions, 0, "1")


def test_only_flows_of_sinks_cost_a_forward(
    loaded: tuple[MultimodalModel, list[Prepared]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = loaded
    ran: list[int] = []
    run = sinks.run_packed
    monkeypatch.setattr(sinks, "run_packed", lambda *given: ran.append(given[-1]) or run(*given))
    same = SinkSets(model, ["image->last", "related~moved->question", "only:image->last"], "ChooseAttr").added_to(
        prompts
    )
    assert all(one is other for one, other in zip(same, prompts, strict=True))
    assert not ran
    assert len(SinkSets(model, ["image->last", "image->last+text_sinks->last"], "x").added_to(prompts)) == len(prompts)
    assert ran == [2], "one packed forward through two of three layers"


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_engine_equals_the_reference(folder: Path, geometry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # These models are 32 wide: no state exceeds 5.7 times its RMS.
    monkeypatch.setattr(sinks, "THRESHOLD", 4.0)
    tiny = Loaded(folder, geometry)
    plant(tiny.model, [BEGIN, "the"], visual=10.0)
    (prepared,) = with_sinks(tiny.model, tiny.prepared[:1])
    assert all(len(prepared.positions[name]) > 1 for name in SINK_SETS)
    rows = rows_for(prepared, LAYERS, 2, FLOWS)
    assert {row.flow for row in rows} == set(FLOWS)
    clean, donor = run_clean_together(
        tiny.model,
        [prepared, with_other_pixels(prepared)],
        [min(row.start for row in rows), prepared.length - 1],
    )
    clean = replace(clean, donors={"swapped": donor.as_donor})
    ours, theirs = run_knockouts(tiny.model, clean, rows).logits, run_reference(tiny.model, clean, rows).logits
    assert largest_difference(ours, theirs) <= 2e-6
    assert largest_difference(theirs, clean.logits.expand_as(theirs)) > 0.001, "the knockouts do nothing"


@pytest.mark.parametrize("name", ["internvl", "qwen2_5_vl", "gemma3"])
def test_in_todays_families_the_states_are_transformers_own(folder: Path, name: str) -> None:
    family = LoadedFamily(name, folder)
    prompts = [family.prepared[size] for size in SIZES]
    for prepared, ours in zip(prompts, middle_states(family.model, prompts), strict=True):
        with torch.inference_mode():
            states = family.model.network(**prepared.inputs, output_hidden_states=True).hidden_states
        torch.testing.assert_close(ours, states[FAMILY_LAYERS // 2][0], rtol=1e-4, atol=1e-4)

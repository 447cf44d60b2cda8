"""The engine against the definition, and both against what a knockout must mean."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import Window
from crossflow.engine import shared_prefix as engine_module
from crossflow.engine.blocking import image_removed
from crossflow.engine.edges import Edges, Row
from crossflow.engine.engines import ENGINES
from crossflow.engine.forward import full_forward, run_clean
from crossflow.engine.reference import run_reference
from crossflow.engine.shared_prefix import run_knockouts
from crossflow.models.attention import Plain
from crossflow.models.model import MultimodalModel, Prepared
from geometries import LAYERS, Loaded, with_other_pixels
from knocked import largest_difference, no_op, rows_for


def _probabilities(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits.double(), dim=-1)


def _starts(prepared: Prepared) -> list[int]:
    return [int(prepared.positions["question"][0]), int(prepared.positions["last"][0])]


def test_reference_with_no_edge_is_the_clean_forward_bit_for_bit(loaded: Loaded) -> None:
    for prepared in loaded.prepared:
        clean = run_clean(loaded.model, prepared, _starts(prepared)[0])
        (logits,) = run_reference(loaded.model, clean, [no_op(start, LAYERS) for start in _starts(prepared)[:1]]).logits
        assert torch.equal(logits, clean.logits)
        assert torch.equal(full_forward(loaded.model, prepared, Plain()).logits[0], clean.logits)


def test_the_engine_knocking_out_nothing_changes_a_probability_by_at_most_1e_6(loaded: Loaded) -> None:
    for prepared in loaded.prepared:
        clean = run_clean(loaded.model, prepared, _starts(prepared)[0])
        logits = run_knockouts(loaded.model, clean, [no_op(start, LAYERS) for start in _starts(prepared)]).logits
        assert largest_difference(logits, clean.logits.expand_as(logits)) <= 1e-6


@pytest.mark.parametrize("width", [1, 2, 3, 4, LAYERS])
def test_the_engine_equals_the_reference(loaded: Loaded, width: int) -> None:
    # Windows of all these widths are cut at both ends, at the first and the last centre layers.
    for prepared in loaded.prepared:
        rows = rows_for(prepared, LAYERS, width)
        clean = run_clean(loaded.model, prepared, _starts(prepared)[0])
        ours, theirs = run_knockouts(loaded.model, clean, rows).logits, run_reference(loaded.model, clean, rows).logits
        assert largest_difference(ours, theirs) <= 2e-6
        assert largest_difference(theirs, clean.logits.expand_as(theirs)) > 0.01, "the knockouts do nothing"


def _in_fp32(model: MultimodalModel) -> MultimodalModel:
    network = copy.deepcopy(model.network).float()
    return dataclasses.replace(model, network=network, settings=dataclasses.replace(model.settings, dtype="float32"))


@pytest.mark.parametrize(
    "name", ["grouped", *(pytest.param(name, marks=pytest.mark.long) for name in ("full", "single"))]
)
def test_in_bf16_the_engine_is_as_near_to_fp32_as_full_forwards_are(folder: Path, name: str) -> None:
    loaded = Loaded(folder, name, "bfloat16")
    exact = _in_fp32(loaded.model)
    ours, theirs, true, worst = [], [], [], 0.0
    for prepared in loaded.prepared:
        first, rows = _starts(prepared)[0], rows_for(prepared, LAYERS, 3)
        pixels = {"pixel_values": prepared.inputs["pixel_values"].float()}
        in_fp32 = dataclasses.replace(prepared, inputs=prepared.inputs | pixels)
        clean = run_clean(loaded.model, prepared, first)
        ours.append(_probabilities(run_knockouts(loaded.model, clean, rows).logits))
        theirs.append(_probabilities(run_reference(loaded.model, clean, rows).logits))
        true.append(_probabilities(run_reference(exact, run_clean(exact, in_fp32, first), rows).logits))
        zeros = [no_op(row.start, LAYERS)._replace(window=row.window) for row in rows]
        nothing = run_knockouts(loaded.model, clean, zeros).logits
        worst = max(worst, largest_difference(nothing, clean.logits.expand_as(nothing)))
    engine, reference, truth = (torch.cat(part) for part in (ours, theirs, true))
    noise = max(worst, float((reference - truth).abs().max()))
    print(name, float((engine - reference).abs().max()), noise)
    assert 0 < (engine - reference).abs().max() <= 2 * noise
    assert (engine - truth).square().mean().sqrt() <= 1.25 * (reference - truth).square().mean().sqrt()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_engine_equals_the_reference_for_any_sets_and_window(full: Loaded, data: st.DataObject) -> None:
    prepared = full.prepared[0]
    first = int(prepared.positions["image"][-1]) - 2  # a few visual tokens are targets too
    length = prepared.positions.length
    rows = []
    for number in range(3):
        targets = sorted(data.draw(st.sets(st.integers(first, length - 1), min_size=1, max_size=6)))
        # Position 0 is never blocked, so every target keeps a key.
        sources = sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=20)))
        begin = data.draw(st.integers(0, LAYERS - 1))
        window = Window(begin, data.draw(st.integers(begin, LAYERS - 1)))
        rows.append(Row(f"flow {number}", begin, window, (Edges(np.array(sources, dtype=int), np.array(targets)),)))
    clean = run_clean(full.model, prepared, first)
    ours, theirs = run_knockouts(full.model, clean, rows).logits, run_reference(full.model, clean, rows).logits
    assert largest_difference(ours, theirs) <= 2e-6


def test_without_any_edge_from_the_image_the_answer_does_not_depend_on_its_pixels(loaded: Loaded) -> None:
    for prepared in loaded.prepared:
        other = with_other_pixels(prepared)
        seeing = [full_forward(loaded.model, shown, Plain()).logits[0] for shown in (prepared, other)]
        assert largest_difference(*seeing) > 1e-3
        blind = [full_forward(loaded.model, shown, image_removed(shown)).logits[0] for shown in (prepared, other)]
        assert torch.equal(*blind)
        for name, engine in ENGINES.items():
            rows = rows_for(prepared, LAYERS, 2 * LAYERS, ["image->all"])[:1]
            cleans = [run_clean(loaded.model, shown, rows[0].start) for shown in (prepared, other)]
            assert rows[0].window == Window(0, LAYERS - 1)
            knocked_out = [engine(loaded.model, [(clean, rows)])[0].logits for clean in cleans]
            assert torch.equal(*knocked_out), name
            assert largest_difference(knocked_out[0][0], blind[0]) <= 2e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_without_a_legal_key_is_refused(engine: str, full: Loaded) -> None:
    prepared = full.prepared[0]
    last = prepared.positions["last"]
    clean = run_clean(full.model, prepared, int(last[0]))
    row = Row("everything->last", 1, Window(1, 2), (Edges(np.arange(prepared.positions.length), last),))
    with pytest.raises(CrossflowError, match="no key to attend to"):
        ENGINES[engine](full.model, [(clean, [row])])


@pytest.mark.parametrize("engine", ENGINES)
def test_an_exception_in_the_middle_leaves_the_model_untouched(
    engine: str, full: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = full.prepared[0]
    rows = rows_for(prepared, LAYERS, 3)
    clean = run_clean(full.model, prepared, _starts(prepared)[0])
    middle = full.model.layers[LAYERS // 2]

    def hooks() -> list[int]:
        return [len(layer._forward_pre_hooks) + len(layer._forward_hooks) for layer in full.model.layers]

    before = hooks()
    with monkeypatch.context() as patch:
        patch.setattr(middle.mlp, "forward", lambda hidden: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ENGINES[engine](full.model, [(clean, rows)])
        with pytest.raises(ZeroDivisionError):
            run_clean(full.model, prepared, _starts(prepared)[0])
    assert torch.equal(full_forward(full.model, prepared, Plain()).logits[0], clean.logits)
    assert hooks() == before


def test_rows_come_back_in_their_order_when_a_batch_does_not_fit(
    full: Loaded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = full.prepared[0]
    rows = rows_for(prepared, LAYERS, 3)[::-1]
    clean = run_clean(full.model, prepared, _starts(prepared)[0])
    expected = run_knockouts(full.model, clean, rows).logits
    whole = engine_module._run_suffixes

    def of_little_memory(model: MultimodalModel, batch: Sequence[engine_module.Knockout]) -> object:
        if len(batch) > 3:
            raise torch.OutOfMemoryError
        return whole(model, batch)

    monkeypatch.setattr(engine_module, "_run_suffixes", of_little_memory)
    assert largest_difference(run_knockouts(full.model, clean, rows).logits, expected) <= 1e-6
    assert "halved" in caplog.text

    monkeypatch.setattr(engine_module, "_run_suffixes", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError))
    with pytest.raises(CrossflowError, match="does not fit into the memory"):
        run_knockouts(full.model, clean, rows)


def test_a_model_that_reads_ahead_is_refused_by_the_engine_and_not_by_the_reference(
    full: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = full.prepared[0]
    for layer in full.model.layers:
        monkeypatch.setattr(layer.self_attn, "is_causal", False)
    clean = run_clean(full.model, prepared, _starts(prepared)[0])
    rows = rows_for(prepared, LAYERS, 3)[:2]
    with pytest.raises(CrossflowError, match="use engine: reference"):
        run_knockouts(full.model, clean, rows)
    assert run_reference(full.model, clean, rows).logits.isfinite().all()


def test_a_target_before_the_recorded_part_is_refused(full: Loaded) -> None:
    prepared = full.prepared[0]
    clean = run_clean(full.model, prepared, _starts(prepared)[1])
    with pytest.raises(CrossflowError, match="recorded are those from"):
        run_knockouts(full.model, clean, rows_for(prepared, LAYERS, 3, ["image->question"]))


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_a_cache_of_the_clean_run_is_never_given_to_the_suffixes(full: Loaded, name: str) -> None:
    """Transformers 5.24 renamed the argument; a suffix that wrote into the cache would attend to the clean run's keys."""
    prepared, seen = full.prepared[0], []
    clean = run_clean(full.model, prepared, _starts(prepared)[0])
    arguments = [layer | {name: object()} for layer in clean.feed.arguments]
    spoilt = dataclasses.replace(clean, feed=dataclasses.replace(clean.feed, arguments=arguments))
    handles = [
        layer.register_forward_pre_hook(lambda module, given, named: seen.append(set(named)), with_kwargs=True)
        for layer in full.model.layers
    ]
    row = no_op(_starts(prepared)[0], LAYERS)
    found = run_knockouts(full.model, spoilt, [row]).logits
    for handle in handles:
        handle.remove()
    assert seen
    assert not any({"past_key_values", "cache"} & names for names in seen)
    assert torch.equal(found, run_knockouts(full.model, clean, [row]).logits)

"""Today's families: what each model is given, what its positions are, and that the engine is exact."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageChops
from transformers import (
    AutoModelForImageTextToText,
    Idefics3ImageProcessorPil,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import BASIC_SETS, Window
from crossflow.core.records import Box
from crossflow.engine.blocking import image_removed
from crossflow.engine.edges import Edges, Row
from crossflow.engine.forward import full_forward, run_clean
from crossflow.engine.reference import run_reference
from crossflow.engine.shared_prefix import run_knockouts
from crossflow.experiments.answers import answer, answer_together
from crossflow.experiments.logit_lens import last_states
from crossflow.models.attention import Plain
from crossflow.models.model import DTYPES, MultimodalModel, Prepared
from full_answers import answer_by_full_forwards, assert_begins_as
from knocked import largest_difference, no_op, rows_for
from loaded_families import SIZES, Loaded, middle, noise, question_about
from tiny_families import FAMILIES, LAYERS, SIGLIP, TEXT, load, write

# Images are resampled with at most six pixels of theirs on each side.
REACH = 6


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(request.param, tmp_path_factory.mktemp("family"))


def test_inputs_are_those_of_the_familys_own_processor(loaded: Loaded) -> None:
    for size, prepared in loaded.prepared.items():
        text = prepared.question.question + " \nAnswer the question using a single word or phrase."
        conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        processor = loaded.model.processor
        rendered = processor.apply_chat_template(conversation, add_generation_prompt=True)
        # Where the template writes the begin-of-text token, their tokenizer is not to add another.
        begins = loaded.family.begins is not None and rendered.startswith(loaded.family.begins)
        theirs = processor(images=[noise(size)], text=[rendered], return_tensors="pt", add_special_tokens=not begins)
        assert prepared.inputs.keys() == theirs.keys()
        for name, value in theirs.items():
            assert torch.equal(prepared.inputs[name], torch.as_tensor(value)), name


def test_no_image_has_more_visual_tokens_than_planned(loaded: Loaded) -> None:
    model, (known, _) = loaded.model, SIZES
    of_any, of_one = model.sizes, model.sizes_for([known])

    def visual(size: tuple[int, int]) -> int:
        tokens = model.prepare(question_about(), noise(size)).inputs["input_ids"]
        return int((tokens == model.network.config.image_token_id).sum())

    counts = [visual((wide, high)) for wide in (60, 250, 700) for high in (60, 250)]
    assert max(counts) <= of_any.visual == visual(of_any.largest)
    assert visual(known) <= of_one.visual == visual(of_one.largest)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_and_buffers_of_another_type_are_those_that_transformers_loads(loaded: Loaded, dtype: str) -> None:
    folder = loaded.model.settings.path
    ours = load(folder, dtype=dtype).network
    theirs = AutoModelForImageTextToText.from_pretrained(folder, dtype=DTYPES[dtype])
    for kind in ("named_parameters", "named_buffers"):
        expected = dict(getattr(theirs, kind)())
        found = dict(getattr(ours, kind)())
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype, name
            assert torch.equal(found[name], value), name


def test_a_clean_forward_is_the_networks_own(loaded: Loaded) -> None:
    network = copy.deepcopy(loaded.model.network)
    network.set_attn_implementation("eager")
    for prepared in loaded.prepared.values():
        with torch.inference_mode():
            theirs = network(**prepared.inputs).logits[0, -1]
        ours = full_forward(loaded.model, prepared, Plain()).logits[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_basic_sets_are_a_partition_with_the_images_frame_in_system_and_separator(loaded: Loaded) -> None:
    tokenizer = loaded.model.processor.tokenizer
    for prepared in loaded.prepared.values():
        positions, ids = prepared.positions, prepared.inputs["input_ids"][0]
        assert np.concatenate([positions[name] for name in BASIC_SETS]).tolist() == list(range(positions.length))
        assert all(len(positions[name]) for name in BASIC_SETS)
        assert tokenizer.decode(ids[positions["question"]]).strip() == prepared.question.question
        assert tokenizer.decode(ids[positions["system"][-1]]) == loaded.family.opens
        assert tokenizer.decode(ids[positions["separator"][0]]) == loaded.family.closes
        visual = ids == loaded.model.network.config.image_token_id
        assert set(np.flatnonzero(visual)) <= set(positions["image"])
        assert visual[positions["image"][[0, -1]]].all()
        # What is not a visual token shows nothing.
        shows = np.setdiff1d(positions["image"], positions["newline"])
        assert set(shows) <= set(np.flatnonzero(visual))
        assert set(positions["related"]) | set(positions["other"]) == set(shows)
        assert set(positions["base"]) | set(positions["grid"]) == set(shows)


def test_the_engine_equals_the_reference(loaded: Loaded) -> None:
    worst = 0.0
    for prepared in loaded.prepared.values():
        rows = rows_for(prepared, LAYERS, 1) + [
            row._replace(flow=row.flow + " 3") for row in rows_for(prepared, LAYERS, 3)
        ]
        clean = run_clean(loaded.model, prepared, int(prepared.positions["question"][0]))
        ours, theirs = run_knockouts(loaded.model, clean, rows).logits, run_reference(loaded.model, clean, rows).logits
        worst = max(worst, largest_difference(ours, theirs))
        assert largest_difference(theirs, clean.logits.expand_as(theirs)) > 0.01, "the knockouts do nothing"
    print(f"{loaded.name}: engine and reference differ by {worst:.1e}")
    assert worst <= 2e-6


def test_a_knockout_of_nothing_changes_nothing(loaded: Loaded) -> None:
    for prepared in loaded.prepared.values():
        starts = [int(prepared.positions[name][0]) for name in ("question", "last")]
        clean = run_clean(loaded.model, prepared, starts[0])
        (by_reference,) = run_reference(loaded.model, clean, [no_op(starts[0], LAYERS)]).logits
        assert torch.equal(by_reference, clean.logits)
        logits = run_knockouts(loaded.model, clean, [no_op(start, LAYERS) for start in starts]).logits
        floor = largest_difference(logits, clean.logits.expand_as(logits))
        print(f"{loaded.name}: noise floor {floor:.1e}")
        assert floor <= 1e-6


def test_with_the_image_removed_the_answer_does_not_depend_on_its_pixels(loaded: Loaded) -> None:
    size = SIZES[0]
    images = [noise(size, seed) for seed in (0, 1)]
    prepared = [loaded.model.prepare(question_about(middle(size)), image) for image in images]
    seeing = [full_forward(loaded.model, shown, Plain()).logits[0] for shown in prepared]
    assert largest_difference(*seeing) > 1e-3
    blind = [full_forward(loaded.model, shown, image_removed(shown)).logits[0] for shown in prepared]
    assert torch.equal(*blind)
    answers = [hidden for _, hidden in answer_together(loaded.model, prepared, [True, True])]
    assert answers[0] is not None and answers[1] is not None
    assert answers[0].tokens == answers[1].tokens
    assert len(answers[0].tokens) > 1, "the generated positions are to be blind too"
    torch.testing.assert_close(torch.softmax(blind[0].double(), -1), answers[0].probabilities, rtol=0, atol=1e-6)


def test_answers_given_together_are_those_of_full_forwards(loaded: Loaded) -> None:
    prompts = list(loaded.prepared.values())
    for prepared, pair in zip(prompts, answer_together(loaded.model, prompts, [True] * len(prompts)), strict=True):
        for ours, mode_of in zip(pair, (lambda prompt: Plain(), image_removed), strict=True):
            assert ours is not None
            theirs = answer_by_full_forwards(loaded.model, prepared, mode_of)
            assert_begins_as(ours, theirs)


def test_the_states_behind_an_answer_are_those_of_the_clean_run(loaded: Loaded) -> None:
    prompts = list(loaded.prepared.values())
    answered = answer_together(loaded.model, prompts, [True] * len(prompts))
    for (seeing, hidden), expected in zip(answered, last_states(loaded.model, prompts), strict=True):
        assert hidden is not None
        assert hidden.states is None
        assert seeing.states is not None
        assert seeing.states.shape == (LAYERS + 1, expected.shape[1])
        torch.testing.assert_close(seeing.states, expected, rtol=1e-5, atol=1e-5)


def test_an_answer_leaves_nothing_behind_in_the_model(loaded: Loaded) -> None:
    """The Qwen models keep the last image's positions, for the tokens that they generate."""
    wide, tall = loaded.prepared.values()
    before = full_forward(loaded.model, wide, Plain()).logits[0]
    first = answer(loaded.model, tall)
    assert torch.equal(full_forward(loaded.model, wide, Plain()).logits[0], before)
    again = answer(loaded.model, tall)
    assert (again.tokens, again.text) == (first.tokens, first.text)


@pytest.mark.parametrize("rule", ["published", "overlap"])
@pytest.mark.parametrize("size", SIZES)
def test_related_tokens_lie_in_the_box_and_others_do_not(loaded: Loaded, size: tuple[int, int], rule: str) -> None:
    box = middle(size)
    model = dataclasses.replace(loaded.model, settings=dataclasses.replace(loaded.model.settings, patches=rule))
    prepared = model.prepare(question_about(box), noise(size))
    places = loaded.family.places(prepared, size)
    related = prepared.visual.related
    assert len(places) == len(related)
    nothing = np.isnan(places).any(1)
    assert (nothing <= ~related).all()
    left, top, right, bottom = np.where(np.isnan(places), -1e9, places).T
    x, y = (left + right) / 2, (top + bottom) / 2
    inside = (x > box.x + 3) & (x < box.x + box.w - 3) & (y > box.y + 3) & (y < box.y + box.h - 3)
    clear = (left > box.x + box.w + REACH) | (right < box.x - REACH)
    clear |= (top > box.y + box.h + REACH) | (bottom < box.y - REACH)
    assert inside.any() and clear.any()
    assert related[inside].all()
    assert not related[clear].any()


def test_the_base_shows_the_image_once_and_the_grid_shows_it_again(loaded: Loaded) -> None:
    for size, prepared in loaded.prepared.items():
        visual, places = prepared.visual, loaded.family.places(prepared, size)
        assert visual.base.any()
        for shown in (visual.base, ~visual.base & ~visual.newline):
            if not shown.any():
                continue
            left, top, right, bottom = places[shown].T
            # A tower may leave out what remains after the last whole patch: here, 4 of 88 pixels.
            least = np.array(size) * 84 / 88 - 1e-6
            assert (left.min(), top.min()) == (0, 0)
            assert (np.array([right.max(), bottom.max()]) >= least).all()
            assert least.prod() <= ((right - left) * (bottom - top)).sum() <= size[0] * size[1] + 1e-6


def _blinkered(model: MultimodalModel) -> MultimodalModel:
    """The same model with a vision tower whose patches do not see one another."""
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "vis" in name and "att" in name:
                parameter.zero_()
    return dataclasses.replace(model, network=network)


def _features(model: MultimodalModel, prepared: Prepared) -> torch.Tensor:
    """What enters the decoder at the image's positions."""
    return run_clean(model, prepared, 0).layers[0].hidden[0, prepared.positions["image"]]


@pytest.mark.parametrize("size", SIZES)
def test_related_tokens_are_those_whose_features_change_with_themiddle(loaded: Loaded, size: tuple[int, int]) -> None:
    model, box, image = _blinkered(loaded.model), middle(size), noise(size)
    changed = image.copy()
    corners = (box.x, box.y, box.x + box.w + 1, box.y + box.h + 1)
    changed.paste(ImageChops.invert(image.crop(corners)), corners)
    before, after = (model.prepare(question_about(box), shown) for shown in (image, changed))
    differs = ((_features(model, before) - _features(model, after)).abs().amax(-1) > 1e-5).numpy()
    around = Box(box.x - REACH, box.y - REACH, box.w + 2 * REACH, box.h + 2 * REACH)
    related, near = before.visual.related, model.prepare(question_about(around), image).visual.related
    assert related.any() and not near.all()
    assert differs[related].all()
    assert not differs[~near].any()


@pytest.mark.parametrize("loaded", ["qwen3_vl"], indirect=True)
def test_features_that_the_model_adds_to_the_targets_between_its_layers_are_added(loaded: Loaded) -> None:
    prepared = loaded.prepared[SIZES[0]]
    image, question = prepared.positions["image"], prepared.positions["question"]
    rows = [
        Row("into the image", 1, Window(0, 2), (Edges(np.arange(2), image[3:5]),)),
        Row("into the image", 2, Window(1, 2), (Edges(np.arange(2), image[3:5]),)),
        Row("image->question", 1, Window(0, 2), (Edges(image, question),)),
    ]
    clean = run_clean(loaded.model, prepared, int(image[3]))
    added = [entering for entering in clean.feed.entering[1:] if entering is not None]
    assert added and all(float(entering[0, image[3] :].abs().max()) > 1e-2 for entering in added)
    theirs = run_reference(loaded.model, clean, rows).logits
    assert largest_difference(theirs[:1], clean.logits[None]) > 1e-4
    assert largest_difference(run_knockouts(loaded.model, clean, rows).logits, theirs) <= 2e-6


@pytest.mark.parametrize("loaded", ["gemma3"], indirect=True)
def test_targets_in_a_image_that_is_read_in_both_directions_are_for_the_reference(loaded: Loaded) -> None:
    prepared = loaded.prepared[SIZES[0]]
    image = prepared.positions["image"]
    rows = [Row("into the image", 1, Window(0, 2), (Edges(np.arange(2), image[3:5]),))]
    clean = run_clean(loaded.model, prepared, int(image[3]))
    with pytest.raises(CrossflowError, match="^7: positions before the targets attend to later ones.*reference"):
        run_knockouts(loaded.model, clean, rows)
    assert largest_difference(run_reference(loaded.model, clean, rows).logits[0], clean.logits) > 1e-4


@pytest.mark.parametrize("loaded", ["gemma3"], indirect=True)
def test_a_image_that_is_cut_into_several_is_refused(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded.model.processor.image_processor, "do_pan_and_scan", True)
    monkeypatch.setattr(loaded.model.processor.image_processor, "pan_and_scan_min_crop_size", 10)
    monkeypatch.setattr(loaded.model.processor.image_processor, "pan_and_scan_max_num_crops", 4)
    monkeypatch.setattr(loaded.model.processor.image_processor, "pan_and_scan_min_ratio_to_activate", 1.2)
    with pytest.raises(CrossflowError, match="pan and scan.*set do_pan_and_scan to false"):
        loaded.model.prepare(question_about(middle(SIZES[0])), noise(SIZES[0]))


def test_paligemma_is_refused_because_its_question_is_read_in_both_directions(tmp_path: Path) -> None:
    config = PaliGemmaConfig(
        vision_config=SIGLIP,
        text_config=TEXT | {"model_type": "gemma", "vocab_size": 20, "head_dim": 16},
        image_token_index=19,
        projection_dim=64,
    )
    network = PaliGemmaForConditionalGeneration(config).eval()
    ids = torch.tensor([[19] * 36 + [1, 2, 3, 4], [19] * 36 + [1, 2, 3, 5]])
    pixels = torch.zeros(2, 3, 84, 84)
    with torch.inference_mode():
        hidden = network.model(input_ids=ids, pixel_values=pixels, token_type_ids=torch.zeros_like(ids))[0]
    assert (hidden[0, :-1] - hidden[1, :-1]).abs().amax() > 1e-6, "only the last token is another"

    config.save_pretrained(tmp_path)
    with pytest.raises(CrossflowError, match="type 'paligemma' are refused: .*prefix attention.*targets.$"):
        load(tmp_path)


def test_square_padding_is_refused_where_it_is_not_the_familys(loaded: Loaded) -> None:
    with pytest.raises(CrossflowError, match="does not support image: pad"):
        load(loaded.model.settings.path, image="pad")


def test_smolvlm_without_num2words_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if getattr(Idefics3ImageProcessorPil, "is_dummy", False):
        pytest.skip("this transformers gives the family's image processor only with torchvision (5.17 does)")
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    write(tmp_path, FAMILIES["smolvlm"])
    with pytest.raises(CrossflowError, match="cannot be loaded .Package `num2words` is required") as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)

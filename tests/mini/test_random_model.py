"""Random models: real architectures, complete folders, answers that depend on image and question."""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaNextForConditionalGeneration,
    LlavaProcessor,
)

from crossflow.core.errors import CrossflowError
from crossflow.mini.drawing import draw_image
from crossflow.mini.questions import CATEGORIES, answers
from crossflow.mini.random_model import Geometry, build_model, build_processor, build_tokenizer, mini_world_words, save
from crossflow.mini.scenes import draw_scene
from crossflow.mini.world import questions_about
from crossflow.models.prompts import render, repeated, tokenize
from crossflow.study.inputs import MODEL_FILES

FILES = set(MODEL_FILES)  # the outputs of the rule


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random-llava")
    save(folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    network: Any = LlavaForConditionalGeneration.from_pretrained(folder)
    return network.eval()


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return LlavaProcessor.from_pretrained(folder)


def _load_automatically(folder: Path) -> Any:
    load: Any = AutoProcessor.from_pretrained
    return load(folder, backend="pil")


def test_the_folder_holds_the_six_files_and_no_others(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES


def test_the_same_seed_writes_the_same_bytes_and_another_one_other_weights(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    save(tmp_path / "same", seed=0)
    save(tmp_path / "other", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name in FILES:
        assert (tmp_path / "same" / name).read_bytes() == (folder / name).read_bytes()
    other = {name for name in FILES if (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()}
    assert other == {"model.safetensors"}


def test_the_weights_come_back_as_they_were_built(model: Any) -> None:
    built = build_model(Geometry(), build_tokenizer(mini_world_words()), seed=0).state_dict()
    loaded = model.state_dict()
    assert loaded.keys() == built.keys()
    assert all(torch.equal(loaded[name], built[name]) for name in built)


def test_processor_tokenizer_and_image_processor_come_back_as_they_were_built(folder: Path, processor: Any) -> None:
    built = build_processor(Geometry(), build_tokenizer(mini_world_words()))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8))
    text = render("vicuna-v1", "Is the ball red or blue?", processor).text
    expected = built(images=image, text=text, return_tensors="np")
    for loaded in (processor, _load_automatically(folder)):
        assert isinstance(loaded, LlavaProcessor)
        given = loaded(images=image, text=text, return_tensors="np")
        assert given.keys() == expected.keys()
        assert all(np.array_equal(given[name], expected[name]) for name in expected)
    pixels = LlavaImageProcessorPil.from_pretrained(folder)(image, return_tensors="np")["pixel_values"]
    assert np.array_equal(pixels, expected["pixel_values"])
    assert AutoTokenizer.from_pretrained(folder)(text).input_ids == built.tokenizer(text).input_ids


def test_a_image_that_is_not_square_is_padded(processor: Any) -> None:
    wide = Image.new("RGB", (90, 45), (255, 0, 0))
    pixels = processor.image_processor(wide, do_normalize=False, return_tensors="np")["pixel_values"][0]
    assert pixels.shape == (3, 72, 72)
    # Rows 0 to 17 and 54 to 71 are padding; resampling reaches two rows over the edges.
    assert pixels[0, :16].max() < 0.5 and pixels[0, 20:52].min() > 0.99 and pixels[0, 56:].max() < 0.5


def test_the_tokenizer_knows_every_question_of_the_six_categories(processor: Any) -> None:
    for index in range(100):
        scene = draw_scene(seed=4, index=index)
        for ask, *_ in CATEGORIES.values():
            question = ask(scene, Random(index))
            if question is None:
                continue
            tokens = tokenize(render("vicuna-v1", question.question, processor), processor, repeated(processor, 36))
            assert processor.tokenizer.unk_token_id not in tokens.ids
            assert tokens.ids[0] == processor.tokenizer.bos_token_id
            assert (tokens.ids == processor.image_token_id).sum() == 36


def test_every_answer_is_one_token_in_lower_case_and_another_one_capitalised(processor: Any) -> None:
    tokenizer = processor.tokenizer
    spoken = [form for answer in answers() for form in (answer, answer.capitalize())]
    ids = [tokenizer(form, add_special_tokens=False).input_ids for form in spoken]
    assert all(len(one) == 1 and one != [tokenizer.unk_token_id] for one in ids)
    assert len({one[0] for one in ids}) == len(spoken) == 2 * len(answers())


def test_offsets_are_those_of_the_words() -> None:
    tokenizer = build_tokenizer(["ball", "red", "?"])
    text = "red  ball?cube"
    encoded = tokenizer(text, return_offsets_mapping=True)
    pieces = [text[start:stop] for start, stop in encoded.offset_mapping]
    assert pieces == ["", "red", "ball", "?", "cube"]
    assert encoded.tokens()[-1] == "<unk>"


def _probabilities(model: Any, processor: Any, index: int, blind: bool = False) -> torch.Tensor:
    scene = draw_scene(seed=4, index=index)
    prompt = render("vicuna-v1", questions_about(scene)[0].question, processor)
    inputs = processor(images=draw_image(scene)[0], text=prompt.text, return_tensors="pt")
    if blind:
        inputs["pixel_values"] = torch.zeros_like(inputs["pixel_values"])
    with torch.no_grad():
        probabilities: torch.Tensor = model(**inputs).logits[0, -1].softmax(-1)
    return probabilities


def test_answers_differ_between_questions_and_hang_on_the_image(model: Any, processor: Any) -> None:
    answered, changes = [], []
    for index in range(20):
        clean = _probabilities(model, processor, index)
        token = int(clean.argmax())
        answered.append(token)
        changes.append(float(_probabilities(model, processor, index, blind=True)[token] / clean[token] - 1))
    assert len(set(answered)) >= 6
    assert np.median(np.abs(changes)) > 0.2


@pytest.mark.parametrize("key_value_heads", [4, 2, 1])
@pytest.mark.parametrize("architecture", ["llava", "llava_next"])
def test_both_architectures_run_with_full_grouped_and_single_key_value_heads(
    architecture: str, key_value_heads: int
) -> None:
    geometry = Geometry(
        architecture=architecture, layers=2, key_value_heads=key_value_heads, image_size=24, vision_layers=2
    )
    tokenizer = build_tokenizer(mini_world_words())
    processor = build_processor(geometry, tokenizer)
    network = build_model(geometry, tokenizer, seed=0)
    assert network.model.language_model.layers[0].self_attn.k_proj.out_features == 16 * key_value_heads
    image = Image.new("RGB", (40, 20), (9, 99, 200))
    inputs = processor(images=image, text="USER: <image>\nred?", return_tensors="pt")
    with torch.no_grad():
        logits = network(**inputs).logits
    # Two by two patches of one tile; anyres adds a grid of two by four with a newline after each row.
    visual = 4 if architecture == "llava" else 4 + 2 * (4 + 1)
    assert (inputs["input_ids"] == processor.image_token_id).sum() == visual
    assert logits.shape == (1, inputs["input_ids"].shape[1], len(tokenizer))
    assert logits.isfinite().all()


def test_an_anyres_model_comes_back_with_its_newline_and_its_pinpoints(tmp_path: Path) -> None:
    geometry = Geometry(architecture="llava_next", layers=1, image_size=24, vision_layers=2)
    save(tmp_path, seed=0, geometry=geometry)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    loaded = LlavaNextForConditionalGeneration.from_pretrained(tmp_path)
    built = build_model(geometry, build_tokenizer(mini_world_words()), seed=0)
    assert torch.equal(loaded.model.image_newline, built.model.image_newline)
    assert loaded.model.image_newline.std() > 0.5
    pinpoints = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
    assert loaded.config.image_grid_pinpoints == pinpoints
    assert _load_automatically(tmp_path).image_processor.image_grid_pinpoints == pinpoints


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(CrossflowError, match="'mamba'.*choose from llava, llava_next"):
        build_model(Geometry(architecture="mamba"), build_tokenizer([]), seed=0)

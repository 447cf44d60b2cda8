"""Loading a model: what it is given, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from crossflow.core.errors import CrossflowError
from crossflow.core.progress import progress_of
from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.engine.blocking import Blocking, image_removed
from crossflow.engine.forward import full_forward, run_clean
from crossflow.experiments.answers import answer, answer_together
from crossflow.models import loading
from crossflow.models.attention import NAME, Plain
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings, MultimodalModel
from crossflow.models.weights import stored_dtype
from full_answers import answer_by_full_forwards, assert_begins_as
from tiny import CPU, load_tiny

QUESTION = ChosenQuestion(
    "1", "1", "ChooseAttr", "chooseAttr", "Is the ball red or blue?", "red", "red", "blue",
    (ChosenObject("object", "1", "ball", Box(10, 5, 20, 20)),),
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for name in ("llava", "llava_next"):
        load_tiny(root / name, architecture=name, layers=2, width=32)
    return {name: root / name for name in ("llava", "llava_next")}


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A model folder that a test may break."""
    return Path(shutil.copytree(folders["llava"], tmp_path / "model"))


def _image(size: tuple[int, int] = (90, 60)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _load(folder: Path, **settings: str) -> MultimodalModel:
    return load_model(ModelSettings(folder, "vicuna-v1", **settings), CPU)


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["llava", "llava_next"])
@pytest.mark.parametrize("size", [(90, 60), (33, 120), (72, 72)])
def test_inputs_are_those_of_the_models_own_processor(
    folders: dict[str, Path], name: str, size: tuple[int, int]
) -> None:
    model = _load(folders[name])
    prepared = model.prepare(QUESTION, _image(size))
    text = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
        f"and polite answers to the user's questions. USER: <image>\n{QUESTION.question} \nAnswer the question using a "
        "single word or phrase. ASSISTANT:"
    )
    theirs = model.processor(images=_image(size), text=text, return_tensors="pt")
    assert prepared.inputs.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(prepared.inputs[key], torch.as_tensor(value)), key
    assert len(prepared.positions["image"]) == int((theirs["input_ids"] == model.processor.image_token_id).sum())


@pytest.mark.parametrize("size", [(90, 60), (33, 120)])
def test_a_tiled_model_held_to_one_tile_reads_the_towers_features_of_the_padded_image(
    folders: dict[str, Path], size: tuple[int, int]
) -> None:
    model, tiled = _load(folders["llava_next"], image="pad"), _load(folders["llava_next"])
    prepared, tiles = model.prepare(QUESTION, _image(size)), tiled.prepare(QUESTION, _image(size))
    patches = (model.tile // model.patch_size) ** 2
    assert [len(prepared.positions[name]) for name in ("image", "base", "grid", "newline")] == [patches, patches, 0, 0]
    assert len(tiles.positions["image"]) > 2 * patches
    # By hand, from the parts of the model that tiles.
    network = tiled.network.model
    with torch.inference_mode():
        seen = network.vision_tower(prepared.inputs["pixel_values"], output_hidden_states=True).hidden_states
        features = network.multi_modal_projector(seen[tiled.network.config.vision_feature_layer][:, 1:])[0]
        states = network.get_input_embeddings()(prepared.inputs["input_ids"])
        states[0, prepared.positions["image"]] = features
        expected = network.language_model(inputs_embeds=states).last_hidden_state
        found = model.network.model(**prepared.inputs).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_one_tile_folder_with_newlines_is_still_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["llava_next"], tmp_path / "model"))
    _edit(folder / "config.json", model_type="llava")
    with pytest.raises(CrossflowError, match="image_newline"):
        _load(folder)


def test_only_the_decoder_attends_through_the_project(folders: dict[str, Path]) -> None:
    model = _load(folders["llava"])
    assert model.network.config.text_config._attn_implementation == NAME
    assert model.network.config.vision_config._attn_implementation == "sdpa"
    assert not model.network.training


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_a_clean_forward_is_the_models_own(folders: dict[str, Path], name: str) -> None:
    from transformers import AutoModelForImageTextToText

    model = _load(folders[name])
    prepared = model.prepare(QUESTION, _image())
    network = AutoModelForImageTextToText.from_pretrained(folders[name], attn_implementation="eager")
    with torch.inference_mode():
        theirs = network(**prepared.inputs).logits[0, -1]
    nothing = Blocking([])
    torch.testing.assert_close(full_forward(model, prepared, nothing).logits[0], theirs, rtol=1e-5, atol=1e-5)


def test_image_pad_overrides_a_processor_that_crops(folder: Path) -> None:
    """The ports ship a CLIP processor, which takes do_pad and ignores it."""
    processor = json.loads((folder / "processor_config.json").read_text())
    images = processor.pop("image_processor") | {"image_processor_type": "CLIPImageProcessor"}
    del images["do_pad"]
    (folder / "processor_config.json").write_text(json.dumps(processor))
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    cropped, padded = _load(folder), _load(folder, image="pad")
    assert not cropped.prepare(QUESTION, _image()).visual.padding.any()
    visual = padded.prepare(QUESTION, _image()).visual
    assert visual.padding.reshape(6, 6)[[0, -1]].all()
    assert not visual.padding.reshape(6, 6)[1:-1].any()


def test_decoding_is_greedy_whatever_the_folder_says(folders: dict[str, Path], folder: Path) -> None:
    expected = answer(model := _load(folders["llava"]), model.prepare(QUESTION, _image()))
    _edit(
        folder / "generation_config.json",
        do_sample=True, temperature=5.0, top_k=3, num_beams=3, repetition_penalty=3.0, max_new_tokens=2, min_new_tokens=9,
    )  # fmt: skip
    model = _load(folder)
    found = answer(model, model.prepare(QUESTION, _image()))
    assert (found.text, found.tokens) == (expected.text, expected.tokens)
    assert found.tokens[0] == int(found.probabilities.argmax())


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_a_blind_answer_never_looks_at_the_image(folders: dict[str, Path], name: str) -> None:
    model = _load(folders[name])
    one, other = (model.prepare(QUESTION, image) for image in (_image(), _image().rotate(180)))
    assert answer(model, one).tokens != answer(model, other).tokens
    blind = [hidden for _, hidden in answer_together(model, [one, other], [True, True])]
    assert blind[0] is not None and blind[1] is not None
    assert blind[0].tokens == blind[1].tokens
    torch.testing.assert_close(blind[0].probabilities, blind[1].probabilities, rtol=0, atol=1e-7)
    assert len(blind[0].tokens) > 1, "the generated positions are to be blind too"
    logits = full_forward(model, one, image_removed(one)).logits[0]
    torch.testing.assert_close(torch.softmax(logits.double(), -1), blind[0].probabilities, rtol=0, atol=1e-6)


def test_a_mask_of_scores_instead_of_edges_is_refused(folder: Path) -> None:
    """0 would mean "attend" there, and everything else "do not"."""
    model = _load(folder)
    prepared = model.prepare(QUESTION, _image())

    def with_scores(_: object, given: tuple, named: dict) -> tuple[tuple, dict]:
        scores = torch.full((1, 1, *2 * named["position_embeddings"][0].shape[-2:-1]), -torch.inf).triu(1)
        return given, named | {"attention_mask": scores}

    handle = model.layers[1].register_forward_pre_hook(with_scores, with_kwargs=True)
    said = r"Layer 1 requests an attention mask of shape .* and type torch.float32; a boolean mask"
    with pytest.raises(CrossflowError, match=said):
        answer(model, prepared)
    with pytest.raises(CrossflowError, match=said):
        run_clean(model, prepared, 0)
    handle.remove()
    assert answer(model, prepared).tokens


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_a_blind_answer_goes_on_from_the_end_of_the_image(
    folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _load(folders[name])
    prompts = [model.prepare(QUESTION, image) for image in (_image(), _image().rotate(90, expand=True))]
    lengths: list[int] = []
    kind = type(model.layers[0])
    forward = kind.forward

    def counted(self: torch.nn.Module, hidden: torch.Tensor, **arguments: object) -> object:
        if self is model.layers[0]:
            lengths.append(hidden.shape[1])
        return forward(self, hidden, **arguments)

    # Not the instance's attribute, which feeding a model sets and removes.
    monkeypatch.setattr(kind, "forward", counted)
    together = answer_together(model, prompts, [True, False])
    after = prompts[0].length - int(prompts[0].positions["image"][-1]) - 1
    assert lengths[:2] == [sum(prompt.length for prompt in prompts), 2 + after]
    monkeypatch.undo()
    assert together[1][1] is None
    for prompt, (seeing, _) in zip(prompts, together, strict=True):
        assert_begins_as(seeing, answer_by_full_forwards(model, prompt, lambda longer: Plain()))
    blind = together[0][1]
    assert blind is not None
    assert_begins_as(blind, answer_by_full_forwards(model, prompts[0], image_removed))


def test_logits_are_fp32_in_half_precision_too(folders: dict[str, Path]) -> None:
    model = _load(folders["llava"], dtype="bfloat16")
    logits = full_forward(model, model.prepare(QUESTION, _image()), Blocking([])).logits[0]
    assert logits.dtype == torch.float32
    # A logit rounded to bf16 would have its last 16 bits empty.
    assert (logits.view(torch.int32) & 0xFFFF).any()


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrossflowError, match="has no config.json"):
        _load(tmp_path)


def test_an_unknown_architecture_is_refused_by_name(folder: Path) -> None:
    _edit(folder / "config.json", model_type="mllama", architectures=["MllamaForConditionalGeneration"])
    with pytest.raises(CrossflowError, match="type 'mllama' are not supported; supported types are llava, llava_next"):
        _load(folder)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_configuration_that_is_none_is_named(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(CrossflowError, match=r"config\.json is not a valid model configuration"):
        _load(folder)


def test_missing_weights_are_refused_and_never_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CrossflowError, match=r"lacks 1 weights, the first of which is .*down_proj\.weight"):
        _load(folder)


def test_a_weight_that_is_not_a_number_or_infinite_in_the_asked_type_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    for value, dtype in ((float("nan"), "float32"), (1e6, "float16")):
        weights[name][0, 0] = value
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(CrossflowError, match=r"has NaN or infinite values in the weight .*down_proj\.weight"):
            _load(folder, dtype=dtype)
    assert _load(folder).network


def test_weights_of_several_types_keep_all_their_digits(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight") and "vision" not in name)
    mixed = {each: weight if each == name else weight.bfloat16() for each, weight in weights.items()}
    save_file(mixed, folder / "model.safetensors", {"format": "pt"})
    down = _load(folder).layers[int(name.split(".layers.")[1].split(".")[0])].mlp.down_proj.weight
    assert torch.equal(down, weights[name])
    assert not torch.equal(down, weights[name].bfloat16().float())


def test_the_stored_type_is_that_of_all_weights_and_of_no_position_ids(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = {name: weight.half() for name, weight in load_file(path).items()}
    ids = {"model.vision_tower.embeddings.position_ids": torch.arange(37)[None]}
    save_file(weights | ids, path, {"format": "pt"})
    assert stored_dtype(folder) == torch.float16
    assert _load(folder).network.dtype == torch.float32
    name, weight = next(iter(weights.items()))
    for other in (torch.bfloat16, torch.float64):
        save_file(weights | {name: weight.to(other)}, path, {"format": "pt"})
        assert stored_dtype(folder) is None
    save_file({name: weight.double() for name, weight in weights.items()}, path, {"format": "pt"})
    assert stored_dtype(folder) is None


def test_the_bar_counts_every_byte_of_the_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def spied(name: str, total: int, **options: object) -> tqdm:
        counted.append(total)
        bar = progress_of(name, total, **options)
        update = bar.update
        monkeypatch.setattr(bar, "update", lambda size: counted.append(-size) or update(size))
        return bar

    monkeypatch.setattr(loading, "progress_of", spied)
    _load(folder, dtype="bfloat16")
    assert counted[0] == sum(weight.nbytes for weight in load_file(folder / "model.safetensors").values())
    assert sum(counted) == 0


def _add(folder: Path, source: str, target: str) -> list[str]:
    """Copy weights whose name contains ``source`` under other names; the names that were added."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    added = {name.replace(source, target): tensor for name, tensor in weights.items() if source in name}
    assert added
    assert not added.keys() & weights.keys()
    save_file(weights | {name: tensor.clone() for name, tensor in added.items()}, path, metadata={"format": "pt"})
    return sorted(added)


def _names(folder: Path) -> list[str]:
    return sorted(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize(
    "kind",
    [
        "norm of the tower",
        "bias in the decoder",
        "projector's norm",
        "layers beyond the configuration's",
        "layers of the tower",
    ],
)
def test_weights_without_a_place_are_refused(folder: Path, kind: str) -> None:
    if kind == "bias in the decoder":
        (name,) = (n for n in _names(folder) if n.endswith("layers.1.self_attn.q_proj.weight") and "vision" not in n)
        added = _add(folder, name, name.replace("weight", "bias"))
    elif kind == "norm of the tower":
        (name,) = (n for n in _names(folder) if n.endswith("vision_tower.post_layernorm.weight"))
        added = _add(folder, name, name.replace("post_layernorm", "norm"))
    elif kind == "projector's norm":
        (name,) = (n for n in _names(folder) if n.endswith("linear_1.bias"))
        added = _add(folder, name, name.replace("linear_1.bias", "norm.weight"))
    else:
        part = "text_config" if kind.startswith("layers beyond") else "vision_config"
        config = json.loads((folder / "config.json").read_text())
        config[part]["num_hidden_layers"] -= 1
        (folder / "config.json").write_text(json.dumps(config))
        dropped = f"layers.{config[part]['num_hidden_layers']}."
        added = [n for n in _names(folder) if dropped in n and ("vision" in n) == (part == "vision_config")]
    with pytest.raises(CrossflowError, match=f"holds {len(added)} weights that its config.json has no place for"):
        _load(folder)


def test_a_second_copy_of_the_towers_weights_changes_nothing(folder: Path) -> None:
    before = _load(folder)
    added = _add(folder, "vision_tower.", "vision_tower.vision_tower.")
    after = _load(folder)
    assert added
    prepared = before.prepare(QUESTION, _image())
    assert answer(after, prepared).tokens == answer(before, prepared).tokens


def test_an_adapter_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CrossflowError, match="holds an adapter"):
        _load(folder)


def test_truncated_weights_are_one_sentence(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CrossflowError, match="cannot be loaded") as raised:
        _load(folder)
    assert "\n" not in str(raised.value)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CrossflowError, match="cannot be loaded"):
        _load(folder)


def test_anyres_is_refused_where_the_processor_does_not_tile(folder: Path) -> None:
    with pytest.raises(CrossflowError, match="does not tile"):
        _load(folder, image="anyres")


def test_a_tower_that_feeds_its_cls_token_is_refused(folder: Path) -> None:
    _edit(folder / "config.json", vision_feature_select_strategy="full")
    with pytest.raises(CrossflowError, match="CLS token"):
        _load(folder)

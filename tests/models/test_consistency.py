"""Parts of a model's folder that do not belong together are refused when it is loaded, each in one sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from crossflow.core.errors import CrossflowError
from crossflow.mini import random_model
from crossflow.models.consistency import TEXT_MODELS
from crossflow.models.loading import load_model, sketch_model
from crossflow.models.model import ModelSettings
from crossflow.models.weights import require_weights_of
from crossflow.verify.model_check import checks
from loaded_families import middle, noise, question_about
from spoiling import edit_image_processor, edit_json
from tiny import CPU, load_tiny
from tiny_families import FAMILIES, write

SIZE = (230, 150)
GEOMETRY = random_model.Geometry(layers=2, width=32)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("llava", "llava_next"):
        load_tiny(root / name, architecture=name, layers=2, width=32)
    return root


def _copied(written: Path, name: str, to: Path) -> Path:
    if not (written / name).exists():
        write(written / name, FAMILIES[name])
    return Path(shutil.copytree(written / name, to / name))


def _settings(folder: Path) -> ModelSettings:
    tiny = folder.name.startswith("llava") and folder.name != "llava_onevision"
    return ModelSettings(folder, "vicuna-v1" if tiny else "chat-template", patches="overlap")


def _long(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.long)


def _refused(folder: Path) -> str:
    """What is said, alike with weights and without."""
    with pytest.raises(CrossflowError) as loading:
        load_model(_settings(folder), CPU)
    with pytest.raises(CrossflowError) as sketching:
        sketch_model(_settings(folder), CPU)
    assert str(loading.value) == str(sketching.value)
    assert "\n" not in str(loading.value)
    return str(loading.value)


@pytest.mark.parametrize(
    ("name", "key", "value", "said", "expected"),
    [
        ("llava_next", "image_grid_pinpoints", [[72, 144]], "image_grid_pinpoints [[72, 144]]", "[[72, 144], [144, 72]"),
        ("llava_onevision", "image_grid_pinpoints", [[88, 88]], "image_grid_pinpoints [[88, 88]]", "[[88, 88], [88, 176]"),
        ("llava", "crop_size", {"height": 84, "width": 84}, "tiles of 84 x 84 pixels", "image_size 72"),
        ("llava", "size", {"shortest_edge": 60}, "tiles of 60 x 60 pixels", "image_size 72"),
        _long("llava_onevision", "size", {"height": 84, "width": 84}, "tiles of 84 x 84 pixels", "image_size 88"),
        _long("gemma3", "size", {"height": 84, "width": 112}, "tiles of 112 x 84 pixels", "image_size 112"),
        _long("internvl", "size", {"height": 112, "width": 112}, "tiles of 112 x 112 pixels", "image_size 84"),
        ("qwen2_vl", "patch_size", 16, "patch_size 16", "patch_size 14"),
        _long("qwen2_vl", "merge_size", 1, "merge_size 1", "spatial_merge_size 2"),
        _long("qwen2_vl", "temporal_patch_size", 1, "temporal_patch_size 1", "temporal_patch_size 2"),
    ],
)  # fmt: skip
def test_an_image_processor_of_another_model_is_refused_with_both_values(
    written: Path, tmp_path: Path, name: str, key: str, value: Any, said: str, expected: str
) -> None:
    folder = _copied(written, name, tmp_path)
    edit_image_processor(folder, key, value)
    if key == "size" and name == "llava":
        edit_image_processor(folder, "do_center_crop", False)
    message = _refused(folder)
    ours, _, theirs = message.partition(", but its config.json says ")
    assert said in ours
    assert expected in theirs


def test_a_processor_that_knows_another_patch_size_is_refused(written: Path, tmp_path: Path) -> None:
    folder = _copied(written, "llava", tmp_path)
    edit_json(folder / "processor_config.json", "patch_size", 14)
    assert "the processor has patch_size 14, but its config.json says vision_config.patch_size 12" in _refused(folder)


def test_an_image_processor_that_makes_no_tiles_is_refused_where_the_model_expects_some(
    written: Path, tmp_path: Path
) -> None:
    folder = _copied(written, "llava_next", tmp_path)
    edit_image_processor(folder, "image_processor_type", "CLIPImageProcessor")
    edit_image_processor(folder, "image_grid_pinpoints", None)
    assert "the image processor has image_grid_pinpoints None, but its config.json says" in _refused(folder)


def _write(folder: Path, vision: Any, text: Any, strategy: str = "default") -> None:
    """A tiny LLaVA of any tower and text model."""
    tokenizer = random_model.build_tokenizer(random_model.mini_world_words())
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    network = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision(**sizes, image_size=72, patch_size=12),
            text_config=AutoConfig.for_model(
                text, **sizes, **ids, vocab_size=len(tokenizer), num_key_value_heads=4, max_position_embeddings=512
            ),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            vision_feature_select_strategy=strategy,
        )
    )
    random_model._fill(network, 0)
    network.save_pretrained(folder)
    random_model.build_processor(GEOMETRY, tokenizer).save_pretrained(folder)


def test_a_tower_without_a_class_token_may_not_drop_one(tmp_path: Path) -> None:
    _write(tmp_path / "llava", SiglipVisionConfig, "llama")
    message = _refused(tmp_path / "llava")
    assert "of type 'siglip_vision_model', makes 36 features of a tile" in message
    assert "strategy 'default' keeps 35, but a tile has 36 patches" in message


@pytest.mark.parametrize("layer", [-9, 7, [-2, 9]])
def test_features_of_a_layer_that_the_tower_lacks_are_refused(written: Path, tmp_path: Path, layer: object) -> None:
    folder = _copied(written, "llava", tmp_path)
    edit_json(folder / "config.json", "vision_feature_layer", layer)
    assert "in config.json is no layer of the vision tower, which has 3." in _refused(folder)


def test_a_tower_with_a_class_token_may_not_keep_it(written: Path, tmp_path: Path) -> None:
    folder = _copied(written, "llava_onevision", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=88, patch_size=14
    ).to_dict()
    (folder / "config.json").write_text(json.dumps(config))
    assert "makes 37 features of a tile, of which vision_feature_select_strategy 'full' keeps 37" in _refused(folder)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("phi", "it has no part named norm"),
        ("gpt_neox", "it has no part named norm"),
        ("gemma2", "it caps attention scores, attn_logit_softcapping 50.0"),
    ],
)
def test_a_text_model_without_the_expected_parts_is_refused(tmp_path: Path, kind: str, reason: str) -> None:
    _write(tmp_path / "llava", CLIPVisionConfig, kind)
    message = _refused(tmp_path / "llava")
    assert f"of type {kind!r}, is not supported ({reason}); supported are gemma, " in message


@pytest.mark.long
@pytest.mark.parametrize("kind", TEXT_MODELS)
def test_every_text_model_that_is_named_passes_the_checks(tmp_path: Path, kind: str) -> None:
    _write(tmp_path / "llava", CLIPVisionConfig, kind)
    model = load_model(_settings(tmp_path / "llava"), CPU)
    failed = [check for check in checks(model, question_about(middle(SIZE)), noise(SIZE), 1) if not check.passed]
    assert not failed


def _with_weights(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    path.unlink()
    save_file(weights, path, {"format": "pt"})


def _rename(weights: dict[str, torch.Tensor]) -> None:
    name = next(name for name in sorted(weights) if name.endswith("up_proj.weight"))
    weights[name.replace("up_proj", "up")] = weights.pop(name)


def _reshape(weights: dict[str, torch.Tensor]) -> None:
    name = next(name for name in sorted(weights) if name.endswith("up_proj.weight"))
    weights[name] = torch.zeros(3, 5)


SPOILT = {
    "missing": (
        lambda weights: weights.pop(next(name for name in sorted(weights) if name.endswith("down_proj.weight"))),
        "lacks 1 weights, the first of which is ",
    ),
    "extra": (lambda weights: weights.update({"model.language_model.more.weight": torch.zeros(3)}), "no place for"),
    "renamed": (_rename, "lacks 1 weights"),
    "of another shape": (_reshape, "1 weights of another shape .*up_proj.weight: 3 x 5 instead of "),
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("name", ["llava", pytest.param("qwen2_vl", marks=pytest.mark.long)])
def test_the_headers_of_the_weights_tell_what_loading_them_would(
    written: Path, tmp_path: Path, name: str, how: str
) -> None:
    folder = _copied(written, name, tmp_path)
    require_weights_of(sketch_model(_settings(folder), CPU))
    change, message = SPOILT[how]
    _with_weights(folder, change)
    said = []
    for attempt in (
        lambda: require_weights_of(sketch_model(_settings(folder), CPU)),
        lambda: load_model(_settings(folder), CPU),
    ):
        with pytest.raises(CrossflowError, match=message) as raised:
            attempt()
        said.append(str(raised.value))
    assert said[0] == said[1]
    assert not any("\n" in each for each in said)

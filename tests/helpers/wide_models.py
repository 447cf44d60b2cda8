"""Models of true width with a few layers, and questions of true length, for tests that look at shapes alone.

Sizes are those of the published config.json files; what is not named here is the architecture's default in transformers.
LLaVA's are `crossflow.verify.true_sizes`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, Gemma3Config, Qwen2_5_VLConfig, Qwen2VLImageProcessorPil
from transformers.initialization import no_init_weights
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from crossflow.core.records import ChosenQuestion
from crossflow.models import attention
from crossflow.models.architectures import ARCHITECTURES
from crossflow.models.model import DTYPES, ModelSettings, MultimodalModel, Prepared
from crossflow.models.positions import Positions
from crossflow.models.visual_tokens import VisualTokens
from crossflow.verify.speed import AFTER, IMAGE, QUESTION, RELATED, SEPARATOR, SYSTEM
from crossflow.verify.true_sizes import true_config

LAYERS = 4
TOWER_LAYERS = 3


def _llava(slug: str) -> Any:
    config = true_config(slug, LAYERS)
    config.vision_config.num_hidden_layers = TOWER_LAYERS
    return config


def _qwen2_5_vl() -> Any:
    text = {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": LAYERS,
        "num_attention_heads": 28, "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    vision = {
        "depth": TOWER_LAYERS, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        "window_size": 112, "fullatt_block_indexes": [1],
    }  # fmt: skip
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision)


def _gemma3(width: int, intermediate: int, heads: int, kv_heads: int) -> Any:
    text = {
        "vocab_size": 262208, "hidden_size": width, "intermediate_size": intermediate, "num_hidden_layers": LAYERS,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 256, "query_pre_attn_scalar": 256,
        "sliding_window": 1024, "layer_types": ["sliding_attention"] * (LAYERS - 1) + ["full_attention"],
    }  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16,
        "num_hidden_layers": TOWER_LAYERS, "image_size": 896, "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip
    return Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=256)


def _one_tile(config: Any) -> tuple[int, dict[str, Tensor]]:
    vision = config.vision_config
    visual = (vision.image_size // vision.patch_size) ** 2
    return visual, {"pixel_values": torch.zeros(1, 3, vision.image_size, vision.image_size)}


def _pooled(config: Any) -> tuple[int, dict[str, Tensor]]:
    return config.mm_tokens_per_image, _one_tile(config)[1]


def _anyres(config: Any) -> tuple[int, dict[str, Tensor]]:
    (width, height), side = IMAGE, config.vision_config.image_size
    tiles = image_size_to_num_patches((height, width), config.image_grid_pinpoints, side)
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(config)
    patches = (side // config.vision_config.patch_size) ** 2
    visual = len(ARCHITECTURES["llava_next"].pack(network, torch.zeros(tiles, patches, 1), IMAGE))
    pixels = torch.zeros(1, tiles, 3, side, side)
    return visual, {"pixel_values": pixels, "image_sizes": torch.tensor([[height, width]])}


def _merged(config: Any) -> tuple[int, dict[str, Tensor]]:
    """The image is squashed to whole tokens of two by two patches of 14 pixels, two frames each."""
    vision = config.vision_config
    token = vision.patch_size * vision.spatial_merge_size
    columns, rows = (round(side / token) * vision.spatial_merge_size for side in IMAGE)
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = {"pixel_values": torch.zeros(rows * columns, patch), "image_grid_thw": torch.tensor([[1, rows, columns]])}
    return rows * columns // vision.spatial_merge_size**2, pixels


@dataclass(frozen=True)
class Wide:
    """One model.

    Attributes:
        config: Makes its configuration.
        image: From the configuration to the number of visual tokens of an image of `IMAGE` and the image's inputs.
        dtype: Type of its weights.
        kinds: The input that marks visual tokens, if the model has one.
    """

    config: Callable[[], Any]
    image: Callable[[Any], tuple[int, dict[str, Tensor]]]
    dtype: str = "float16"
    kinds: str | None = None


WIDE = {
    "llava15-7b": Wide(lambda: _llava("llava15-7b"), _one_tile),
    "llava15-13b": Wide(lambda: _llava("llava15-13b"), _one_tile),
    "llava16-vicuna-7b": Wide(lambda: _llava("llava16-vicuna-7b"), _anyres),
    "llama3-llava-next-8b": Wide(lambda: _llava("llama3-llava-next-8b"), _anyres),
    "qwen25-vl-7b": Wide(_qwen2_5_vl, _merged, "bfloat16", "mm_token_type_ids"),
    "gemma3-4b": Wide(lambda: _gemma3(2560, 10240, 8, 4), _pooled, "bfloat16", "token_type_ids"),
    "gemma3-12b": Wide(lambda: _gemma3(3840, 15360, 16, 8), _pooled, "bfloat16", "token_type_ids"),
}


def _question(wide: Wide, config: Any, number: int) -> Prepared:
    """A prompt of random words with as many tokens as a usual question has; each is a token longer than the last."""
    visual, inputs = wide.image(config)
    cuts = np.cumsum([0, SYSTEM, visual, SEPARATOR, QUESTION + number, AFTER - 1, 1]).tolist()
    names = ("system", "image", "separator", "question", "instruction", "last")
    sets = {name: np.arange(cuts[i], cuts[i + 1]) for i, name in enumerate(names)}
    related = np.zeros(visual, dtype=bool)
    related[visual // 3 : visual // 3 + RELATED] = True
    sets["related"], sets["other"] = sets["image"][related], sets["image"][~related]
    sets["padding"], sets["all"] = sets["image"][:0], np.arange(cuts[2], cuts[-1])
    tokens = torch.randint(10, 31000, (1, cuts[-1]), generator=torch.Generator().manual_seed(number))
    tokens[0, sets["image"]] = config.image_token_id
    if hasattr(config, "vision_start_token_id"):
        tokens[0, sets["image"][0] - 1] = config.vision_start_token_id
    inputs["pixel_values"] = inputs["pixel_values"].to(DTYPES[wide.dtype])
    inputs |= {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if wide.kinds:
        inputs[wide.kinds] = (tokens == config.image_token_id).long()
    nothing = np.zeros(visual, dtype=bool)
    return Prepared(
        ChosenQuestion(str(number), "none", "", "", "", "", None, None, ()),
        inputs,
        Positions(cuts[-1], sets, np.arange(0)),
        VisualTokens(related, nothing, nothing, ~nothing, nothing),
    )


def build_wide(name: str, device: torch.device) -> MultimodalModel:
    """A model on a device, with arbitrary weights; under fake tensors they take no memory."""
    wide, config = WIDE[name], WIDE[name].config()
    with torch.device(device), no_init_weights():
        network = AutoModelForImageTextToText.from_config(
            config,
            dtype=DTYPES[wide.dtype],
            attn_implementation={"text_config": attention.NAME, "vision_config": "sdpa"},
        )
    settings = ModelSettings(Path(name), "vicuna-v1", dtype=wide.dtype, max_new_tokens=2)
    tokenizer = SimpleNamespace(eos_token_id=2, pad_token_id=1, decode=lambda tokens, **_: "")
    # Only Qwen's memory depends on the image processor.
    processor = SimpleNamespace(tokenizer=tokenizer, image_processor=Qwen2VLImageProcessorPil())
    return MultimodalModel(settings, network.eval(), processor, ARCHITECTURES[config.model_type], device)


def wide_questions(name: str, count: int) -> list[Prepared]:
    """Questions for a model, on the CPU."""
    wide, config = WIDE[name], WIDE[name].config()
    return [_question(wide, config, number) for number in range(count)]

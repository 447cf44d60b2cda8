"""Tiny random models of today's families, as folders with the files that their makers publish.

Each family is built from transformers' own configuration classes, with its special tokens, chat template and image
processor. `Family.places` says where on the image each visual token lies. It is worked out from the published
geometry, without the project's own code, so that tests can compare.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    GotOcr2ImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

# Transformers' own namespace gives these two only with torchvision, up to 5.17.
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from crossflow.mini.random_model import _fill
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings, MultimodalModel, Prepared
from tiny import CPU

LAYERS = 4
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
Places = Callable[[Prepared, tuple[int, int]], np.ndarray]


@dataclass(frozen=True)
class Family:
    """How one family is built, and what is known about its prompts and its geometry.

    Attributes:
        network: From the tokenizer to a network.
        images: Its image processor.
        special: Its special tokens; the first is the visual token.
        template: Its chat template.
        opens, closes: Tokens just before the first visual token and just after the last.
        places: From a prepared question and the image's width and height to the rectangle of each position of the
            image, ``(positions, 4)``: left, top, right, bottom in pixels; not a number where nothing is shown.
        named: Attributes of the tokenizer that name special tokens.
        processor: Content of processor_config.json.
        begins: The begin-of-text token.
        adds: Does the tokenizer put it before a text?
    """

    network: Callable[[PreTrainedTokenizerFast], Any]
    images: Any
    special: tuple[str, ...]
    template: str
    opens: str
    closes: str
    places: Places
    named: dict[str, str] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    begins: str | None = None
    adds: bool = True


def _tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """A small byte-level BPE tokenizer: no word is unknown to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<end>", *family.special, *([family.begins] if family.begins else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=330 + len(special), special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["Is the ball red or blue? Answer the question using a single word."], trainer)
    if family.begins and family.adds:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.begins} $A", special_tokens=[(family.begins, special.index(family.begins))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=family.begins,
        eos_token="<end>",
        pad_token="<pad>",
        extra_special_tokens=family.named,
    )


def write(folder: Path, family: Family, seed: int = 0) -> None:
    """Write a model's folder: the weights come from a seed."""
    tokenizer = _tokenizer(family)
    with torch.random.fork_rng(devices=[]):
        network = family.network(tokenizer)
    _fill(network, seed)
    embedding = network.get_input_embeddings().weight
    if network.get_output_embeddings().weight is embedding:
        # Large embeddings would outweigh what the layers add, and small ones alone leave all answers equally likely.
        with torch.no_grad():
            embedding /= TEXT["hidden_size"] ** 0.5
            network.model.language_model.norm.weight += 3
    network.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    family.images.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(family.template)
    if family.processor:
        (folder / "processor_config.json").write_text(json.dumps(family.processor))


def load(folder: Path, **settings: Any) -> MultimodalModel:
    return load_model(ModelSettings(folder, **{"prompt": "chat-template", "patches": "overlap", **settings}), CPU)


def _ids(tokenizer: PreTrainedTokenizerFast, **names: str) -> dict[str, int]:
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def grid(columns: int, rows: int, corners: tuple[float, float, float, float]) -> np.ndarray:
    """Rectangles of a grid's cells, row by row, inside a rectangle given by left, top, right, bottom."""
    left, top, right, bottom = corners
    x, y = np.linspace(left, right, columns + 1), np.linspace(top, bottom, rows + 1)
    return np.array([(x[c], y[r], x[c + 1], y[r + 1]) for r in range(rows) for c in range(columns)])


QWEN_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>")
QWEN_SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}" + QWEN_SYSTEM + "<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Six rotary frequencies of the eight go to height and width.
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}


def _qwen_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return _ids(
        tokenizer,
        image_token_id="<|image_pad|>",
        video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    )


def _qwen_places(prepared: Prepared, size: tuple[int, int]) -> np.ndarray:
    """The image is squashed to whole tokens, which are two by two patches in reading order."""
    _, rows, columns = prepared.inputs["image_grid_thw"][0].tolist()
    return grid(columns // 2, rows // 2, (0, 0, *size))


def _qwen2_vl(tokenizer: PreTrainedTokenizerFast) -> Any:
    vision = {"depth": 3, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "hidden_size": TEXT["hidden_size"]}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": MROPE}
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(vision_config=vision, text_config=text, **_qwen_ids(tokenizer))
    )


def _qwen2_5_vl(tokenizer: PreTrainedTokenizerFast) -> Any:
    vision = {
        "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": TEXT["hidden_size"],
        # Windows of two by two tokens, and one layer that sees the whole image.
        "window_size": 56, "fullatt_block_indexes": [1],
    }  # fmt: skip
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": MROPE}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(vision_config=vision, text_config=text, **_qwen_ids(tokenizer))
    )


def _qwen3_vl(tokenizer: PreTrainedTokenizerFast) -> Any:
    vision = {
        "depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": TEXT["hidden_size"],
        # The features of these layers are added after the first two decoder layers.
        "deepstack_visual_indexes": [0, 2],
    }  # fmt: skip
    rope = MROPE | {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope, "head_dim": 16}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(vision_config=vision, text_config=text, **_qwen_ids(tokenizer))
    )


def _qwen(network: Callable[[PreTrainedTokenizerFast], Any], template: str = QWEN_TEMPLATE, patch: int = 14) -> Family:
    return Family(
        network,
        Qwen2VLImageProcessorPil(patch_size=patch),
        QWEN_TOKENS,
        template,
        "<|vision_start|>",
        "<|vision_end|>",
        _qwen_places,
    )


TILE = 84
# Six by six patches a tile, in a tower without a CLS token.
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": TILE, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
# As in the published models, a tile is a little more than its patches: four pixels remain at its end.
LARGER = TILE + 4
PINPOINTS = [[LARGER * rows, LARGER * columns] for rows in (1, 2) for columns in (1, 2)]


def _onevision(tokenizer: PreTrainedTokenizerFast) -> Any:
    return LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config=SIGLIP | {"image_size": LARGER},
            text_config=TEXT | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
            image_grid_pinpoints=PINPOINTS,
            # Two tiles' patches are the most: the wide image's grid of eight by twelve patches is interpolated.
            vision_aspect_ratio="anyres_max_2",
            **_ids(tokenizer, image_token_index="<image>", video_token_index="<video>"),
        )
    )


def _onevision_places(prepared: Prepared, size: tuple[int, int]) -> np.ndarray:
    """The squashed image, then the un-padded grid with a newline after each row."""
    whole = (0, 0, size[0] * TILE / LARGER, size[1] * TILE / LARGER)
    rows = len(prepared.positions["newline"])
    cells = grid((len(prepared.visual) - 36) // rows - 1, rows, whole).reshape(rows, -1, 4)
    newlines = np.full((rows, 1, 4), np.nan)
    return np.concatenate([grid(6, 6, whole), np.concatenate([cells, newlines], axis=1).reshape(-1, 4)])


ONEVISION_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _gemma3(tokenizer: PreTrainedTokenizerFast) -> Any:
    text = TEXT | {
        "vocab_size": len(tokenizer), "head_dim": 16, "query_pre_attn_scalar": 16,
        # Shorter than the distance from the question to the image's beginning.
        "sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
    }  # fmt: skip
    ids = _ids(
        tokenizer,
        image_token_index="<image_soft_token>",
        boi_token_index="<start_of_image>",
        eoi_token_index="<end_of_image>",
    )
    vision = SIGLIP | {"image_size": 112}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(vision_config=vision, text_config=text, mm_tokens_per_image=16, **ids)
    )


GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' }}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% else %}{{ item['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def _internvl(tokenizer: PreTrainedTokenizerFast) -> Any:
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": TILE, "patch_size": 14,
    }  # fmt: skip
    return InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config=vision,
            text_config=TEXT | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
            image_seq_length=9,
            tie_word_embeddings=False,
            **_ids(tokenizer, image_token_id="<IMG_CONTEXT>"),
        )
    )


def _internvl_places(prepared: Prepared, size: tuple[int, int]) -> np.ndarray:
    """Tiles of three by three tokens that cut the squashed image in reading order, then the whole image."""
    columns, rows = {7: (3, 2), 3: (1, 2)}[len(prepared.inputs["pixel_values"])]
    tiles = [grid(3, 3, tuple(tile)) for tile in grid(columns, rows, (0, 0, *size))]
    return np.concatenate([*tiles, grid(3, 3, (0, 0, *size))])


INTERNVL_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ content['text'] }}{% endif %}{% endfor %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


def _idefics(kind: Any, config: Any) -> Callable[[PreTrainedTokenizerFast], Any]:
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": TILE, "patch_size": 14,
    }  # fmt: skip

    def build(tokenizer: PreTrainedTokenizerFast) -> Any:
        text = TEXT | {"model_type": "llama", "vocab_size": len(tokenizer)}
        return kind(config(vision_config=vision, text_config=text, **_ids(tokenizer, image_token_id="<image>")))

    return build


def _idefics_places(prepared: Prepared, size: tuple[int, int]) -> np.ndarray:
    """Two by two tiles that cut the squashed image, then the whole of it; marks between them, newlines at the ends."""
    corners = [*grid(2, 2, (0, 0, *size)), np.array([0, 0, *size])]
    # After a tile: the frame's mark and the next tile's; a newline after a row, and another before the whole.
    marks = [2, 3, 2, 4, 0]
    tiles = [(grid(3, 3, tuple(tile)), np.full((count, 4), np.nan)) for tile, count in zip(corners, marks, strict=True)]
    return np.concatenate([part for tile in tiles for part in tile])


def _idefics_family(
    network: Callable[[PreTrainedTokenizerFast], Any], images: Any, name: str, start: str, adds: bool
) -> Family:
    marks = tuple(f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6))
    return Family(
        network,
        images(size={"longest_edge": 2 * TILE}, max_image_size={"longest_edge": TILE}),
        ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", start, *marks),
        start + IDEFICS_TEMPLATE,
        "<row_1_col_1>",
        "<fake_token_around_image>",
        _idefics_places,
        processor={"processor_class": name, "image_seq_len": 9},
        begins=start,
        adds=adds,
    )


IDEFICS_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


FAMILIES = {
    "idefics3": _idefics_family(
        _idefics(Idefics3ForConditionalGeneration, Idefics3Config),
        Idefics3ImageProcessorPil,
        "Idefics3Processor",
        "<|begin_of_text|>",
        adds=True,
    ),
    "smolvlm": _idefics_family(
        _idefics(SmolVLMForConditionalGeneration, SmolVLMConfig),
        SmolVLMImageProcessorPil,
        "SmolVLMProcessor",
        "<|im_start|>",
        adds=False,
    ),
    "internvl": Family(
        _internvl,
        # The folder says nothing about tiles: it is their processor that asks for them.
        GotOcr2ImageProcessorPil(size={"height": TILE, "width": TILE}, max_patches=6),
        ("<IMG_CONTEXT>", "<img>", "</img>", "<video>", "<|im_start|>", "<|im_end|>"),
        INTERNVL_TEMPLATE,
        "<img>",
        "</img>",
        _internvl_places,
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        processor={"processor_class": "InternVLProcessor", "image_seq_length": 9},
    ),
    "gemma3": Family(
        _gemma3,
        Gemma3ImageProcessorPil(size={"height": 112, "width": 112}),
        ("<image_soft_token>", "<start_of_image>", "<end_of_image>", "<start_of_turn>", "<end_of_turn>"),
        GEMMA_TEMPLATE,
        "<start_of_image>",
        "<end_of_image>",
        # The squashed image; tokens are means of two by two patches.
        lambda prepared, size: grid(4, 4, (0, 0, *size)),
        named={"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        processor={"processor_class": "Gemma3Processor", "image_seq_length": 16},
        begins="<bos>",
    ),
    "llava_onevision": Family(
        _onevision,
        LlavaOnevisionImageProcessorPil(size={"height": LARGER, "width": LARGER}, image_grid_pinpoints=PINPOINTS),
        ("<image>", "<video>", "<|im_start|>", "<|im_end|>"),
        ONEVISION_TEMPLATE,
        " ",
        "\n",
        _onevision_places,
        processor={
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": 36,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_2",
        },
    ),
    "qwen2_vl": _qwen(_qwen2_vl),
    "qwen2_5_vl": _qwen(_qwen2_5_vl),
    "qwen3_vl": _qwen(_qwen3_vl, QWEN_TEMPLATE.replace(QWEN_SYSTEM, ""), patch=16),
}

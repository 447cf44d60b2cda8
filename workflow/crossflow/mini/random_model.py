"""Tiny multimodal LLMs of real architectures with random weights, as folders in Hugging Face format.

They are untrained, but have every part that a knockout touches: a CLIP vision tower, a projector, a Llama decoder, a
processor and a tokenizer with character offsets. The weights are large enough to make attention uneven: answers differ
between questions, and blocking attention changes probabilities by tens of percent.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from crossflow.core.errors import CrossflowError
from crossflow.mini.questions import answers, vocabulary
from crossflow.models.prompts import render

_UNKNOWN, _BEGIN, _END, _PAD, _IMAGE = "<unk>", "<s>", "</s>", "<pad>", "<image>"
# A word, or one punctuation mark; special tokens such as the image's marker are split off before.
_PIECES = r"\w+|[^\w\s]"
_LONGEST_PROMPT = 2048


@dataclass(frozen=True)
class Geometry:
    """The shape of a tiny model.

    Attributes:
        architecture: ``llava`` (one square tile) or ``llava_next`` (a base tile and a grid of tiles).
        layers: Decoder layers.
        width: Width of the decoder.
        heads: Attention heads of the decoder.
        key_value_heads: Its key and value heads: ``heads``, or a divisor of it for grouped heads.
        image_size: Side of a tile, in pixels.
        patch_size: Side of a patch, in pixels: ``(image_size / patch_size) ** 2`` visual tokens per tile.
        vision_width: Width of the vision tower.
        vision_layers: Layers of the vision tower; visual tokens come from the last but one.
    """

    architecture: str = "llava"
    layers: int = 8
    width: int = 64
    heads: int = 4
    key_value_heads: int = 4
    image_size: int = 72
    patch_size: int = 12
    vision_width: int = 64
    vision_layers: int = 3

    @property
    def pinpoints(self) -> list[list[int]]:
        """Heights and widths of the grids of tiles, in LLaVA-1.6's proportions."""
        proportions = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
        return [[self.image_size * tall, self.image_size * wide] for tall, wide in proportions]


def mini_world_words() -> list[str]:
    """Words of the mini world's questions, of its answers (lower case and capitalised) and of the prompt."""
    prompt = render("vicuna-v1", "", SimpleNamespace(image_token=_IMAGE)).text.replace(_IMAGE, " ")
    spoken = [form for answer in answers() for form in (answer, answer.capitalize())]
    return sorted({*vocabulary(), *spoken, *re.findall(_PIECES, prompt)})


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each word and mark, case kept, and ``<unk>`` for all others.

    It adds ``<s>`` before a text, as Llama's tokenizers do, and gives character offsets.

    Args:
        words: Words and single marks; order and repetition don't matter.
    """
    reserved = [_UNKNOWN, _BEGIN, _END, _PAD, _IMAGE]
    tokens = [*reserved, *sorted(set(words) - set(reserved))]
    tokenizer = Tokenizer(WordLevel({token: number for number, token in enumerate(tokens)}, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A", special_tokens=[(_BEGIN, tokens.index(_BEGIN))]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token=_UNKNOWN,
        bos_token=_BEGIN,
        eos_token=_END,
        pad_token=_PAD,
        extra_special_tokens={"image_token": _IMAGE},
    )


class _Family(NamedTuple):
    """The transformers classes of an architecture, and whether it tiles images."""

    config: Any
    network: Any
    processor: Any
    image_processor: Any
    tiles: bool


_FAMILIES = {
    "llava": _Family(LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, LlavaImageProcessorPil, False),
    "llava_next": _Family(
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextProcessor,
        LlavaNextImageProcessorPil,
        True,
    ),
}


def _family(geometry: Geometry) -> tuple[_Family, dict[str, Any]]:
    if geometry.architecture not in _FAMILIES:
        raise CrossflowError(
            f"Unknown architecture {geometry.architecture!r} of a random model; choose from {', '.join(_FAMILIES)}."
        )
    family = _FAMILIES[geometry.architecture]
    return family, {"image_grid_pinpoints": geometry.pinpoints} if family.tiles else {}


def build_processor(geometry: Geometry, tokenizer: PreTrainedTokenizerFast) -> Any:
    """The processor of an architecture; images are padded to a square (``llava``) or tiled.

    Raises:
        CrossflowError: the architecture is unknown.
    """
    family, tiling = _family(geometry)
    side = geometry.image_size
    images = family.image_processor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, do_pad=True, **tiling
    )
    return family.processor(
        images,
        tokenizer,
        patch_size=geometry.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _fill(network: nn.Module, seed: int) -> None:
    """Draw all weights from a seed: outputs are about as large as inputs, and attention is uneven."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 and ("norm" in name or name.endswith("bias")):
            continue
        looked_up = parameter.ndim == 1 or (parameter.ndim == 2 and "embed" in name)
        spread = 1.0 if looked_up else 1.4 / math.sqrt(math.prod(parameter.shape[1:]))
        nn.init.normal_(parameter, std=spread, generator=generator)


def build_model(geometry: Geometry, tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    """A network in fp32 with weights from a seed; torch's own random state does not change.

    Raises:
        CrossflowError: the architecture is unknown.
    """
    family, tiling = _family(geometry)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=geometry.width,
        intermediate_size=2 * geometry.width,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        num_key_value_heads=geometry.key_value_heads,
        max_position_embeddings=_LONGEST_PROMPT,
        **ids,
    )
    vision = CLIPVisionConfig(
        hidden_size=geometry.vision_width,
        intermediate_size=2 * geometry.vision_width,
        num_hidden_layers=geometry.vision_layers,
        num_attention_heads=4,
        image_size=geometry.image_size,
        patch_size=geometry.patch_size,
        projection_dim=geometry.vision_width,
    )
    config = family.config(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(_IMAGE),
        image_seq_length=(geometry.image_size // geometry.patch_size) ** 2,
        **tiling,
    )
    with torch.random.fork_rng(devices=[]):
        network = family.network(config)
    _fill(network, seed)
    network.generation_config.update(do_sample=False, **ids)
    return network.eval()


def save(folder: Path, seed: int, geometry: Geometry | None = None) -> None:
    """Build a model with its processor, for the mini world and the ``vicuna-v1`` prompt, and write both into a folder.

    Args:
        folder: Gets config.json, generation_config.json, model.safetensors, processor_config.json,
            tokenizer.json and tokenizer_config.json.
        seed: Seed of the weights.
        geometry: The model's shape; by default, that of `Geometry`.
    """
    geometry = geometry or Geometry()
    tokenizer = build_tokenizer(mini_world_words())
    build_model(geometry, tokenizer, seed).save_pretrained(folder)
    build_processor(geometry, tokenizer).save_pretrained(folder)


def write_random_llava(output: Path, seed: int) -> None:
    """Build a tiny LLaVA with random weights, for tests.

    Args:
        output: Folder of the model.
        seed: Seed of the weights.
    """
    save(output, seed)

"""The published models at their true sizes, from published numbers, without weights or model folders.

Sizes of Vicuna 7B and 13B, Llama 3 8B and CLIP ViT-L/14-336, vocabularies with the ports' added tokens; images as in
LLaVA 1.5 and 1.6. For planning and benchmarks only: jobs read the model's own folder.
"""

from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaNextConfig

_VICUNA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
_VICUNA_13B = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
_CLIP: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_TEXTS: dict[str, dict[str, Any]] = {
    "llava15-7b": _VICUNA_7B | {"vocab_size": 32064},
    "llava15-13b": _VICUNA_13B | {"vocab_size": 32064},
    "llava16-vicuna-7b": _VICUNA_7B | {"vocab_size": 32064},
    "llama3-llava-next-8b": _VICUNA_7B | {"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128320},
    # Not in the study: the largest size that is planned for.
    "llava16-vicuna-13b": _VICUNA_13B | {"vocab_size": 32064},
}
TRUE_SIZES = tuple(_TEXTS)


def is_tiled(slug: str) -> bool:
    """Whether a model sees images in tiles (*anyres*)."""
    return not slug.startswith("llava15")


def true_config(
    slug: str, layers: int | None = None, width: int | None = None, tower: bool = True, side: int | None = None
) -> Any:
    """The transformers configuration of a model of `TRUE_SIZES`.

    Args:
        slug: The model.
        layers: Fewer decoder layers than it has.
        width: A narrower decoder of the same proportions; a multiple of the width of a head.
        tower: Whether to keep its vision tower; otherwise a tiny one for images of the same size.
        side: Side of a tile in pixels; None = the model's own.
    """
    sizes = _TEXTS[slug]
    full, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    width = width or full
    group = heads // sizes.get("num_key_value_heads", heads)
    own_heads = width * heads // full
    text = LlamaConfig(
        hidden_size=width,
        intermediate_size=sizes["intermediate_size"] * width // full,
        num_hidden_layers=layers or sizes["num_hidden_layers"],
        num_attention_heads=own_heads,
        num_key_value_heads=max(1, own_heads // group),
        vocab_size=sizes["vocab_size"],
    )
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    seen = {"image_size": side or _CLIP["image_size"]}
    vision = CLIPVisionConfig(**(_CLIP | ({} if tower else small) | seen))
    if is_tiled(slug):
        return LlavaNextConfig(text_config=text, vision_config=vision, image_grid_pinpoints=_PINPOINTS)
    return LlavaConfig(text_config=text, vision_config=vision)

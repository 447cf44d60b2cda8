"""Do the parts of a model's folder belong to one model? Compared before any weight is read.

Configuration, image processor and tokenizer are files of their own, and one of another model raises no error by itself,
or only for some images. Everything here works on a model without weights, and shapes no number: it only refuses.
"""

from typing import Any

import torch
from PIL import Image
from torch import nn

from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.models.model import MultimodalModel
from crossflow.models.visual_tokens import ToTiles

TEXT_MODELS = ("gemma", "gemma3_text", "llama", "mistral", "mixtral", "olmo2", "phi3", "qwen2", "qwen3")
"""Text models with the parts that knockouts need; others may have them, too."""

# Attribute of a processor or its image processor, and the key of the configuration that must agree where both say it.
_SAID_TWICE = {
    "patch_size": "vision_config.patch_size",
    "merge_size": "vision_config.spatial_merge_size",
    "temporal_patch_size": "vision_config.temporal_patch_size",
}
_PINPOINTS = "image_grid_pinpoints"
# A processor may treat each aspect in its own way.
_ASPECTS = ((96, 64), (64, 96), (80, 80))


def text_model_refused(path: Any, kind: str, reason: str) -> CrossflowError:
    return CrossflowError(
        f"The text model in {path}, of type {kind!r}, is not supported ({reason}); supported are "
        f"{', '.join(TEXT_MODELS)} and others that have decoder layers followed by one norm."
    )


def _require_text_model(model: MultimodalModel) -> None:
    """Refuse a text model without the parts that knockouts and the logit lens read."""
    decoder, config = model.decoder, model.network.config.get_text_config()
    lacking = [name for name in ("layers", "norm") if not isinstance(getattr(decoder, name, None), nn.Module)]
    if lacking:
        raise text_model_refused(model.settings.path, config.model_type, f"it has no part named {lacking[0]}")
    if getattr(config, "attn_logit_softcapping", None) is not None:
        reason = f"it caps attention scores, attn_logit_softcapping {config.attn_logit_softcapping}"
        raise text_model_refused(model.settings.path, config.model_type, reason)


def _require_image_token(model: MultimodalModel) -> None:
    """Refuse a tokenizer without the token that the model replaces by the image."""
    processor, network = model.processor, model.network
    wanted, tokenizer = network.config.image_token_id, processor.tokenizer
    # The image token of Gemma 3's processor is another one: the token that begins an image.
    known = (getattr(holder, "image_token_id", None) for holder in (tokenizer, processor))
    found = next((token for token in known if token is not None), None)
    if found is None:
        found = tokenizer.convert_tokens_to_ids(processor.image_token)
    if found != wanted or found >= network.get_input_embeddings().num_embeddings:
        raise CrossflowError(
            f"{model.settings.path}: the tokenizer writes an image as token {found}, but the model expects it as token "
            f"{wanted}; the folder's tokenizer is of another model."
        )


def _plain(value: Any) -> Any:
    """Without the difference between lists and tuples."""
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _of_another(model: MultimodalModel, said: str, expected: str) -> CrossflowError:
    return CrossflowError(
        f"{model.settings.path}: {said}, but its config.json says {expected}; one of the two is of another model."
    )


def _require_same_geometry(model: MultimodalModel) -> None:
    """Refuse a processor that says another thing than the configuration about patches and grids of tiles."""
    processor, config = model.processor, model.network.config
    for name, key in _SAID_TWICE.items():
        expected = model.configured(key)
        for holder in (processor, processor.image_processor):
            said = getattr(holder, name, None)
            if said is not None and expected is not None and said != expected:
                raise _of_another(model, f"the processor has {name} {said}", f"{key} {expected}")
    said, expected = (_plain(getattr(holder, _PINPOINTS, None)) for holder in (processor.image_processor, config))
    if said != expected:
        raise _of_another(model, f"the image processor has {_PINPOINTS} {said}", f"{_PINPOINTS} {expected}")


def _require_tiles(model: MultimodalModel) -> None:
    """Refuse an image processor whose tiles are not those of the vision tower."""
    to_tiles, key = ToTiles(model.processor.image_processor, model.architecture.tiling), model.architecture.tile
    for size in _ASPECTS:
        try:
            high, wide = to_tiles(Image.new("RGB", size)).shape[-2:]
        except BrokenQuestion as reason:
            raise CrossflowError(
                f"{model.settings.path}: for an image of {size[0]} x {size[1]} pixels, {reason}."
            ) from reason
        if (high, wide) != (model.tile, model.tile):
            made = f"the image processor makes tiles of {wide} x {high} pixels of an image of {size[0]} x {size[1]}"
            raise _of_another(model, made, f"{key} {model.tile}")


def _require_a_feature_per_patch(model: MultimodalModel) -> None:
    """Refuse a selection of the tower's features that drops a patch, keeps what is none, or names no layer."""
    strategy = getattr(model.network.config, "vision_feature_select_strategy", None)
    if strategy is None:
        return
    tower = model.network.base_model.vision_tower
    pixels = torch.zeros(1, 3, model.tile, model.tile, device="meta", dtype=tower.dtype)
    with torch.inference_mode():
        states = tower(pixels, output_hidden_states=True).hidden_states
    chosen = model.network.config.vision_feature_layer
    for layer in [chosen] if isinstance(chosen, int) else chosen:
        if not -len(states) <= layer < len(states):
            raise CrossflowError(
                f"{model.settings.path}: vision_feature_layer {layer} in config.json is no layer of the vision tower, "
                f"which has {len(states) - 1}."
            )
    features = states[0].shape[1]
    kept, patches = features - (strategy == "default"), (model.tile // model.patch_size) ** 2
    if kept != patches:
        kind = model.configured("vision_config.model_type")
        raise CrossflowError(
            f"{model.settings.path}: the vision tower, of type {kind!r}, makes {features} features of a tile, of which "
            f"vision_feature_select_strategy {strategy!r} keeps {kept}, but a tile has "
            f"{patches} patches: the strategy in config.json is not right for this tower."
        )


def require_consistent(model: MultimodalModel) -> None:
    """Refuse a model whose parts do not belong together.

    Args:
        model: A model without weights.

    Raises:
        CrossflowError: the text model lacks parts; or the processor, the tokenizer or the selection of features is not
            that of the configuration.
    """
    _require_text_model(model)
    _require_image_token(model)
    _require_same_geometry(model)
    _require_tiles(model)
    _require_a_feature_per_patch(model)

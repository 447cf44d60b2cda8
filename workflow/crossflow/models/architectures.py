"""The supported architectures: one table, and how each handles an image.

A new architecture is one entry of `ARCHITECTURES`. The ``_pack`` functions put labels of patches into the order of the
visual tokens (`crossflow.models.visual_tokens`), with the model's own code.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossflow.core.errors import CrossflowError
from crossflow.models.prompts import Expansion, repeated
from crossflow.models.visual_tokens import PLAIN, Tiling

Size = tuple[int, int]
Images = Callable[[Any, Any, Sequence[Size]], Iterator[tuple[int, Size]]]


def _pack_one_tile(model: Any, labels: Tensor, size: Size) -> Tensor:
    return labels[0]


def _one_tile(config: Any, image_processor: Any, known: Sequence[Size]) -> Iterator[tuple[int, Size]]:
    yield 1, (config.vision_config.image_size, config.vision_config.image_size)


def _anyres(config: Any, image_processor: Any, known: Sequence[Size]) -> Iterator[tuple[int, Size]]:
    """An image that fills its grid of tiles has no padding to remove, hence the most visual tokens."""
    side = config.vision_config.image_size
    for height, width in config.image_grid_pinpoints:
        yield 1 + (height // side) * (width // side), (width, height)


def _cut(config: Any, image_processor: Any, known: Sequence[Size]) -> Iterator[tuple[int, Size]]:
    """Every grid of tiles that an image may be cut into."""
    side, most = image_processor.size["height"], image_processor.max_patches
    for columns in range(1, most + 1):
        for rows in range(1, most // columns + 1):
            width, height = columns * side, rows * side
            yield image_processor.get_number_of_image_patches(height, width, {"crop_to_patches": True}), (width, height)


def _split(config: Any, image_processor: Any, known: Sequence[Size]) -> Iterator[tuple[int, Size]]:
    """The longest edge is the same for every image; a square has the most tiles."""
    side = image_processor.size["longest_edge"]
    tiles, *_ = image_processor.get_number_of_image_patches(side, side)
    yield max(1, tiles), (side, side)


def _free(config: Any, image_processor: Any, known: Sequence[Size]) -> Iterator[tuple[int, Size]]:
    """The job's own images: those of the most allowed pixels would have many thousands of tokens."""

    def patches(sizes: Sequence[Size]) -> Iterator[tuple[int, Size]]:
        for width, height in sizes:
            with suppress(ValueError):  # too long and narrow: its question is left out later
                yield image_processor.get_number_of_image_patches(height, width), (width, height)

    side = math.isqrt(image_processor.size["longest_edge"])
    yield from list(patches(known)) or patches([(side, side)])


def _newline(labels: Tensor) -> Tensor:
    newline = torch.zeros(labels.shape[-1])
    newline[-1] = 1
    return newline


def _pack_anyres(model: Any, labels: Tensor, size: Size) -> Tensor:
    width, height = size
    packed, _ = model.model.pack_image_features(
        [labels],
        torch.tensor([[height, width]]),
        vision_feature_select_strategy="default",
        image_newline=_newline(labels),
    )
    return torch.as_tensor(packed[0])


def _pack_anyres_shrunk(model: Any, labels: Tensor, size: Size) -> Tensor:
    # A grid with more patches than ``vision_aspect_ratio`` allows is interpolated: its tokens mix several patches.
    width, height = size
    packed, _ = model.model.pack_image_features(
        [labels],
        torch.tensor([[height, width]]),
        image_newline=_newline(labels),
        vision_aspect_ratio=model.config.vision_aspect_ratio,
    )
    return torch.as_tensor(packed[0])


def _patches_as_tiles(image_processor: Any, processed: Any) -> np.ndarray:
    """Each patch as its own tile: processors that return patches flatten (3, frames, side, side)."""
    pixels, side = processed["pixel_values"], image_processor.patch_size
    # All frames of a still image are equal.
    return np.asarray(pixels.reshape(len(pixels), 3, image_processor.temporal_patch_size, side, side)[:, :, 0])


_WHOLE = Tiling(_patches_as_tiles, base=slice(None))


def _pack_merged(model: Any, labels: Tensor, size: Size) -> Tensor:
    # The image processor puts the patches of one token next to one another.
    merged = model.config.vision_config.spatial_merge_size**2
    return labels.reshape(-1, merged, labels.shape[-1]).amax(1)


def _pack_pooled(model: Any, labels: Tensor, size: Size) -> Tensor:
    tiles, patches, kinds = labels.shape
    side = math.isqrt(patches)
    pooled = model.model.multi_modal_projector.avg_pool(labels.transpose(1, 2).reshape(tiles, kinds, side, side))
    return torch.as_tensor(pooled.flatten(2).transpose(1, 2).reshape(-1, kinds))


_LAST = slice(-1, None)


def _every_tile(image_processor: Any, processed: Any) -> np.ndarray:
    return np.asarray(processed["pixel_values"])


def _apart(labels: Tensor) -> Tensor:
    """Each kind of label as a feature of width 1: (kinds * tiles, patches, 1)."""
    return labels.permute(2, 0, 1).reshape(-1, labels.shape[1], 1)


def _together(shuffled: Tensor, kinds: int) -> Tensor:
    """The inverse of `_apart`, after a pixel shuffle that concatenated the features of merged patches."""
    return shuffled.amax(-1).reshape(kinds, -1).T


def _pack_shuffled_grid(model: Any, labels: Tensor, size: Size) -> Tensor:
    _, patches, kinds = labels.shape
    side = math.isqrt(patches)
    cells = _apart(labels).reshape(-1, side, side, 1)
    return _together(model.model.pixel_shuffle(cells, scale_factor=model.config.downsample_ratio), kinds)


def _pack_shuffled_row(model: Any, labels: Tensor, size: Size) -> Tensor:
    connector = model.model.connector
    return _together(connector.pixel_shuffle(_apart(labels), connector.scale_factor), labels.shape[-1])


def _expand_repeated(processor: Any, processed: Any, visual_tokens: int, visual: int) -> Expansion:
    return repeated(processor, visual_tokens)


def _expand_framed(processor: Any, processed: Any, visual_tokens: int, visual: int) -> Expansion:
    """The visual tokens with what the processor puts around the image and between its tiles."""
    return Expansion(processor.replace_image_token(processed, image_idx=0), visual)


def _expand_uncut(processor: Any, processed: Any, visual_tokens: int, visual: int) -> Expansion:
    if processed["num_crops"][0]:
        raise CrossflowError(
            "The model's image processor cuts an image into several (pan and scan), which is not supported: set "
            "do_pan_and_scan to false in the folder's preprocessor_config.json."
        )
    return _expand_framed(processor, processed, visual_tokens, visual)


@dataclass(frozen=True)
class Architecture:
    """Where an architecture's parts are, and how it handles an image.

    Attributes:
        pack: The model's own packing of labels ``(tiles, patches, labels)`` to visual tokens ``(tokens, labels)``,
            given the image's width and height. A token made of several patches has the labels of all of them.
        decoder: Dotted path to the text decoder, which has ``layers`` and ``norm``.
        head: Dotted path to the output embedding.
        patch_size: Dotted path, in the configuration, to the side of a patch in pixels.
        tile: Dotted path, in the configuration, to the side of a tile in pixels.
        selects: The ``vision_feature_select_strategy`` for which the packing is right; others are refused.
        tiling: How an image reaches the vision tower.
        expand: What replaces the image's marker, given the processor, the output of the image processor, the number of
            visual tokens and their id.
        images: The tiles and the size (width, height) of the images with the most tokens, given the configuration, the
            image processor and the sizes of a job's images, if they are known.
        processor: Name of the processor class in transformers, if `AutoProcessor` would require torchvision.
        pads: Whether ``image: pad`` is allowed.
        stacks: Whether visual tokens are ordinary embeddings, and the vision tower can encode the tiles of several
            images in one call.
    """

    pack: Callable[[Any, Tensor, Size], Tensor]
    decoder: str = "model.language_model"
    head: str = "lm_head"
    patch_size: str = "vision_config.patch_size"
    tile: str = "vision_config.image_size"
    selects: str = "default"
    tiling: Tiling = PLAIN
    expand: Callable[[Any, Any, int, int], Expansion] = _expand_repeated
    images: Images = _one_tile
    processor: str | None = None
    pads: bool = False
    stacks: bool = False


_IDEFICS = Architecture(
    _pack_shuffled_row,
    decoder="model.text_model",
    tiling=PLAIN._replace(base=_LAST, options={"return_row_col_info": True}),
    expand=_expand_framed,
    images=_split,
)
_QWEN = Architecture(_pack_merged, tile="vision_config.patch_size", tiling=_WHOLE, images=_free)
ARCHITECTURES = {
    "llava": Architecture(_pack_one_tile, pads=True, stacks=True),
    "llava_next": Architecture(_pack_anyres, images=_anyres, stacks=True),
    # The image's positions attend to one another in both directions, so the engine refuses targets among them.
    "gemma3": Architecture(_pack_pooled, expand=_expand_uncut),
    "idefics3": _IDEFICS,
    "smolvlm": replace(_IDEFICS, processor="SmolVLMProcessor"),
    "internvl": Architecture(
        _pack_shuffled_grid,
        tiling=Tiling(_every_tile, base=_LAST, options={"crop_to_patches": True}),
        expand=_expand_framed,
        images=_cut,
        processor="InternVLProcessor",
    ),
    "llava_onevision": Architecture(
        _pack_anyres_shrunk, selects="full", images=_anyres, processor="LlavaOnevisionProcessor"
    ),
    "qwen2_vl": replace(_QWEN, processor="Qwen2VLProcessor"),
    "qwen2_5_vl": replace(_QWEN, processor="Qwen2_5_VLProcessor"),
    "qwen3_vl": replace(_QWEN, processor="Qwen3VLProcessor"),
}

# Architectures that cannot be knocked out, and why; the reason ends a sentence.
REFUSED = {
    "paligemma": "its prompt is read in both directions (prefix attention), so a knockout also changes the positions "
    "before its targets",
}

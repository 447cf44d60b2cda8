"""Are a folder's weights those of its configuration, no fewer and no more?

Transformers only logs weights that it leaves out or makes up. The rule is the same for loaded weights and for the
headers of safetensors files, which tell names and shapes without any weight being read.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import logging

from crossflow.core.errors import CrossflowError
from crossflow.models.folder import blaming_folder, shards_of
from crossflow.models.model import MultimodalModel

# Buffers that every network computes itself.
_COMPUTED = ("inv_freq", "position_ids")
# By safetensors' names.
_STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LEFT_OUT = "left_out"
"""Key of a configuration: the names of weights that the network has no place for, and does not need."""
_VISION = {"vision_tower", "vision_model", "visual"}


def _inside_tower(name: str) -> str | None:
    """The name of a weight inside the vision tower; None for a weight of another part."""
    parts = name.split(".")
    places = [place for place, part in enumerate(parts) if part in _VISION]
    return ".".join(parts[places[-1] + 1 :]) if places else None


def _require_placed(path: Path, network: nn.Module, unexpected: Collection[str]) -> None:
    """Refuse weights that the network has no place for; a second copy of the vision tower's weights is harmless."""
    harmless = {_inside_tower(name) for name, _ in network.named_parameters()} - {None}
    expected = {*_COMPUTED, *getattr(network.config, LEFT_OUT, ())}
    lost = sorted(
        name for name in unexpected if name.rpartition(".")[2] not in expected and _inside_tower(name) not in harmless
    )
    if lost:
        raise CrossflowError(
            f"{path} holds {len(lost)} weights that its config.json has no place for, such as {lost[0]}; the "
            "configuration is of another model."
        )


def require_all_placed(path: Path, network: nn.Module, loading: Mapping[str, Any]) -> None:
    """Refuse weights that are missing, without a place, or of another shape than their place.

    Args:
        path: The model's folder.
        network: The network into which they were loaded.
        loading: What transformers reports about the loading, with mismatched sizes ignored: its own error for them
            names no weight.

    Raises:
        CrossflowError: weights are missing, without a place, or of another shape.
    """
    if mismatched := sorted(loading["mismatched_keys"]):
        name, *shapes = mismatched[0]
        found, expected = (" x ".join(map(str, shape)) for shape in shapes)
        raise CrossflowError(
            f"{path} holds {len(mismatched)} weights of another shape than in its config.json, such as {name}: "
            f"{found} instead of {expected}; the configuration is of another model."
        )
    if missing := sorted(loading["missing_keys"]):
        raise CrossflowError(f"{path} lacks {len(missing)} weights, the first of which is {missing[0]}.")
    _require_placed(path, network, loading["unexpected_keys"])


def require_finite(path: Path, name: str, weight: Tensor) -> None:
    """Refuse a weight with NaN or infinite values, which would spoil every answer.

    Raises:
        CrossflowError: it has some.
    """
    # Unlike torch.isfinite, the extremes need no copy of the weight; with a NaN, both are NaN.
    if weight.numel() and not torch.stack(torch.aminmax(weight.detach())).isfinite().all():
        raise CrossflowError(f"{path} has NaN or infinite values in the weight {name}: the weights are unusable.")


@contextmanager
def silence() -> Iterator[None]:
    """No bar and no report of transformers inside the block, where it reads no weights."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _headers(path: Path) -> Iterator[tuple[str, list[int], str]]:
    """Name, shape and type of each weight, from the headers of the files.

    Raises:
        CrossflowError: the index of the weights is broken, or names a file outside the folder.
    """
    for file_name in sorted(shards_of(path)):
        with safe_open(path / file_name, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                part = file.get_slice(name)
                yield name, part.get_shape(), part.get_dtype()


def stored_dtype(path: Path) -> torch.dtype | None:
    """The type of a folder's weights, whole numbers aside; None if they are of several types, or of another one.

    Raises:
        CrossflowError: the index of the weights is broken, or names a file outside the folder.
    """
    types = {dtype for _, _, dtype in _headers(path) if not dtype.startswith(("I", "U"))}
    return _STORED.get(types.pop()) if len(types) == 1 else None


def _outlined(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Name -> a tensor of the weight's shape that takes no memory."""
    return {name: torch.zeros((), dtype=dtype).expand(shape) for name, shape, _ in _headers(path)}


def require_weights_of(sketch: MultimodalModel) -> None:
    """Refuse a folder whose weights do not fit its configuration, by the headers of its files.

    Args:
        sketch: The model without weights.

    Raises:
        CrossflowError: weights are missing, without a place, or of another shape.
    """
    path, network = sketch.settings.path, sketch.network
    with blaming_folder(path), silence():
        _, loading = type(network).from_pretrained(
            None,
            config=network.config,
            state_dict=_outlined(path, network.dtype),
            dtype=network.dtype,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    require_all_placed(path, network, loading)

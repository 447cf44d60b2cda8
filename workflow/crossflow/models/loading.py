"""Loading a model's network and processor from a folder in Hugging Face format.

Only safetensors are read, nothing is downloaded, and no code of the folder runs. A model whose ``model_type`` is not in
`crossflow.models.architectures` is refused. Every decoder layer of a loaded model attends through
`crossflow.models.attention`; the vision tower keeps its own attention.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from crossflow.core.errors import CrossflowError
from crossflow.models import attention
from crossflow.models.architectures import ARCHITECTURES, REFUSED
from crossflow.models.folder import shards_of
from crossflow.models.memory import Sizes
from crossflow.models.model import DTYPES, ModelSettings, MultimodalModel
from crossflow.models.processors import load_processor


def _read_config(path: Path) -> dict[str, Any]:
    """The configuration of a model, refused if its architecture is not supported or it has an adapter."""
    _require_no_adapter(path)
    file = path / "config.json"
    if not file.is_file():
        raise CrossflowError(f"{path} has no config.json: give a model's folder in Hugging Face format.")
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        model_type = str(config["model_type"])
        # Transformers ignores a file that it cannot read; answers would then end at other tokens.
        if (generation := path / "generation_config.json").is_file():
            file = generation
            json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CrossflowError(f"{file} is not a valid model configuration ({error!r}).") from error
    if model_type in REFUSED:
        raise CrossflowError(f"{path}: models of type {model_type!r} are refused: {REFUSED[model_type]}.")
    if model_type not in ARCHITECTURES:
        raise CrossflowError(
            f"{path}: models of type {model_type!r} are not supported; supported types are {', '.join(ARCHITECTURES)}."
        )
    known = ARCHITECTURES[model_type].selects
    strategy = config.get("vision_feature_select_strategy", known)
    if strategy != known:
        raise CrossflowError(
            f"{path} selects other features of the vision tower, or its CLS token too (vision_feature_select_strategy "
            f"{strategy!r}); only {known!r} is known."
        )
    return config


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    """Turn any error from the model's files into one sentence; the package tokenizers raises even a plain Exception."""
    try:
        yield
    except CrossflowError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split("\n")[:2]) or type(error).__name__
        raise CrossflowError(f"The model in {path} cannot be loaded ({reason.strip(' .,')}).") from error


def _require_image_token(processor: Any, network: Any, path: Path) -> None:
    """Refuse a tokenizer without the token that the model replaces by the image."""
    wanted, tokenizer = network.config.image_token_id, processor.tokenizer
    # The image token of Gemma 3's processor is another one: the token that begins an image.
    known = (getattr(holder, "image_token_id", None) for holder in (tokenizer, processor))
    found = next((token for token in known if token is not None), None)
    if found is None:
        found = tokenizer.convert_tokens_to_ids(processor.image_token)
    if found != wanted or found >= network.get_input_embeddings().num_embeddings:
        raise CrossflowError(
            f"{path}: the tokenizer writes an image as token {found}, but the model expects it as token {wanted}; the "
            "folder's tokenizer belongs to another model."
        )


def _require_finite(path: Path, network: nn.Module) -> None:
    """Refuse NaN or infinite weights, which would spoil every answer."""
    for name, weight in network.named_parameters():
        # Unlike torch.isfinite, the extremes need no copy of the weight; with a NaN, both are NaN.
        if weight.numel() and not torch.stack(torch.aminmax(weight.detach())).isfinite().all():
            raise CrossflowError(f"{path} has NaN or infinite values in the weight {name}: the weights are unusable.")


# Buffers that every network computes itself.
_COMPUTED = ("inv_freq", "position_ids")
_VISION = {"vision_tower", "vision_model", "visual"}


def _inside_tower(name: str) -> str | None:
    """The name of a weight inside the vision tower; None for a weight of another part."""
    parts = name.split(".")
    places = [place for place, part in enumerate(parts) if part in _VISION]
    return ".".join(parts[places[-1] + 1 :]) if places else None


def _require_placed(path: Path, network: nn.Module, unexpected: Collection[str]) -> None:
    """Refuse weights that the network lacks; a second copy of the vision tower's weights is harmless."""
    harmless = {_inside_tower(name) for name, _ in network.named_parameters()} - {None}
    lost = sorted(
        name for name in unexpected if name.rpartition(".")[2] not in _COMPUTED and _inside_tower(name) not in harmless
    )
    if lost:
        raise CrossflowError(
            f"{path} holds {len(lost)} weights that its config.json has no place for, such as {lost[0]}; the "
            "configuration is of another model."
        )


def _require_no_adapter(path: Path) -> None:
    if (path / "adapter_config.json").is_file():
        raise CrossflowError(
            f"{path} holds an adapter (adapter_config.json), which would not be applied: merge it into the weights "
            "(merge_and_unload of the package peft), and delete the file."
        )


def sketch_model(settings: ModelSettings, device: torch.device) -> MultimodalModel:
    """A model without weights, from its configuration alone: it prepares questions but cannot answer them.

    Raises:
        CrossflowError: the folder is missing or incomplete, or its architecture is unknown.
    """
    architecture = ARCHITECTURES[_read_config(settings.path)["model_type"]]
    with _loading(settings.path):
        processor = load_processor(settings.path, settings.image, architecture)
        config = AutoConfig.from_pretrained(settings.path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            network = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
                config, dtype=DTYPES[settings.dtype], trust_remote_code=False
            )
    _require_image_token(processor, network, settings.path)
    return MultimodalModel(settings, network, processor, architecture, device)


def read_outline(settings: ModelSettings) -> tuple[Any, Sizes | None]:
    """A model's processor and its sizes; the sizes are None if the architecture's memory is not planned.

    Raises:
        CrossflowError: as `sketch_model`.
    """
    sketch = sketch_model(settings, torch.device("cpu"))
    return sketch.processor, sketch.sizes


def load_model(settings: ModelSettings, device: torch.device) -> MultimodalModel:
    """Load a model from its folder.

    Raises:
        CrossflowError: the folder is missing or incomplete, its architecture is unknown, it holds an adapter, or
            weights are missing, without a place, NaN or infinite.
    """
    architecture = ARCHITECTURES[_read_config(settings.path)["model_type"]]
    with _loading(settings.path):
        shards_of(settings.path)
        processor = load_processor(settings.path, settings.image, architecture)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            settings.path,
            dtype=DTYPES[settings.dtype],
            attn_implementation={"text_config": attention.NAME, "vision_config": "sdpa"},
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    network, loading = loaded
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise CrossflowError(f"{settings.path} lacks {len(missing)} weights, the first of which is {missing[0]}.")
    _require_placed(settings.path, network, loading["unexpected_keys"])
    _require_image_token(processor, network, settings.path)
    network = network.eval().to(device)
    _require_finite(settings.path, network)
    return MultimodalModel(settings, network, processor, architecture, device)

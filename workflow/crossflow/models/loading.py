"""Loading a model's network and processor from a folder in Hugging Face format.

Only safetensors are read, nothing is downloaded, and no code of the folder runs. A model whose ``model_type`` is not in
`crossflow.models.architectures` is refused. Every decoder layer of a loaded model attends through
`crossflow.models.attention`; the vision tower keeps its own attention.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText

from crossflow.core.errors import CrossflowError
from crossflow.core.progress import progress_of
from crossflow.models import attention
from crossflow.models.architectures import ARCHITECTURES, REFUSED
from crossflow.models.consistency import require_consistent
from crossflow.models.folder import blaming_folder
from crossflow.models.model import DTYPES, ModelSettings, MultimodalModel
from crossflow.models.processors import load_processor
from crossflow.models.weights import LEFT_OUT, require_all_placed, require_finite, silence, stored_dtype


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


def _require_no_adapter(path: Path) -> None:
    if (path / "adapter_config.json").is_file():
        raise CrossflowError(
            f"{path} holds an adapter (adapter_config.json), which would not be applied: merge it into the weights "
            "(merge_and_unload of the package peft), and delete the file."
        )


def _config_of(settings: ModelSettings) -> Any:
    """The transformers configuration of a model.

    A LLaVA-1.6 that sees one padded tile (``image: pad``) computes what a LLaVA-1.5 with its weights does: there is no
    grid, and no row of a grid that a newline token would end. The published program calls this *noHD_noPad*.
    """
    config = AutoConfig.from_pretrained(settings.path, local_files_only=True, trust_remote_code=False)
    if (config.model_type, settings.image) != ("llava_next", "pad"):
        return config
    kept = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    return AutoConfig.for_model("llava", **kept, **{LEFT_OUT: ["image_newline"]})


def sketch_model(settings: ModelSettings, device: torch.device) -> MultimodalModel:
    """A model without weights, from its configuration alone: it prepares questions but cannot answer them.

    Raises:
        CrossflowError: the folder is missing or incomplete, its architecture is unknown, it holds an adapter, or its
            parts do not belong together (`crossflow.models.consistency`).
    """
    _read_config(settings.path)
    with blaming_folder(settings.path):
        config = _config_of(settings)
        architecture = ARCHITECTURES[config.model_type]
        processor = load_processor(settings.path, settings.image, architecture)
        with torch.device("meta"):
            network = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
                config, dtype=DTYPES[settings.dtype], trust_remote_code=False
            )
        sketch = MultimodalModel(settings, network, processor, architecture, device)
        require_consistent(sketch)
    return sketch


def _held(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]


def _move(path: Path, network: nn.Module, sketch: nn.Module, device: torch.device) -> None:
    """Move weights that are still mapped files to a device, and check them there.

    Each is read once, becomes what it is in ``sketch``, and is let go before the next, so that no second copy of the
    whole is made: neither in the host's memory nor on the device.
    """
    kinds = {name: held.dtype for name, held in _held(sketch)}
    total = sum(weight.nbytes for weight in network.parameters())
    with progress_of("weights", total, unit="B", delay=1) as progress:
        for name, held in _held(network):
            size = held.nbytes
            held.data = held.data.to(device, kinds[name])
            if isinstance(held, nn.Parameter):
                require_finite(path, name, held)
                progress.update(size)


def load_network(settings: ModelSettings, sketch: nn.Module, device: torch.device) -> nn.Module:
    """Load the network of a model's folder, with a bar of the bytes that are read.

    Args:
        settings: The model.
        sketch: The same network without weights, of the asked type.
        device: Where to.

    Raises:
        CrossflowError: weights are missing, without a place, NaN or infinite.
    """
    path, asked = settings.path, next(sketch.parameters()).dtype
    with blaming_folder(path), silence():
        # Of the files' own type, transformers maps the weights and reads none of them.
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            path,
            config=_config_of(settings),
            dtype=stored_dtype(path) or asked,
            attn_implementation={"text_config": attention.NAME, "vision_config": "sdpa"},
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    network, loading = loaded
    require_all_placed(path, network, loading)
    _move(path, network, sketch, device)
    found: nn.Module = network.eval()
    return found


def with_weights(sketch: MultimodalModel) -> MultimodalModel:
    """The model of a sketch, with its weights on the sketch's device.

    Raises:
        CrossflowError: as `load_network`.
    """
    return replace(sketch, network=load_network(sketch.settings, sketch.network, sketch.device))


def load_model(settings: ModelSettings, device: torch.device) -> MultimodalModel:
    """Load a model from its folder.

    Raises:
        CrossflowError: as `sketch_model` and `load_network`.
    """
    return with_weights(sketch_model(settings, device))

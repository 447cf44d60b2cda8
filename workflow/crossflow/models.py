"""Loading a multimodal LLM, and the few parts of it that knockouts need.

One table, `crossflow.architectures`, says where the parts of each architecture are. A model whose ``model_type`` is not
in the table is refused. Every decoder layer of a loaded model attends through `crossflow.attention`; the vision tower
keeps its own attention.
"""

import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText

from crossflow import attention
from crossflow.architectures import ARCHITECTURES, REFUSED, Architecture
from crossflow.errors import CrossflowError
from crossflow.gqa import Box, ChosenQuestion
from crossflow.hub import shards_of
from crossflow.memory import CONVERTED_AT_ONCE, Sizes
from crossflow.patches import VisualTokens, visual_tokens
from crossflow.positions import Positions, positions_of
from crossflow.processors import load_processor
from crossflow.prompts import TokenizedPrompt, render, tokenize

# Positions of the picture are told apart by these; a model that misses them falls back on text positions, silently.
_KINDS_OF_TOKENS = {"mm_token_type_ids", "token_type_ids"}
_OF_TOKENS = {"input_ids", "attention_mask"} | _KINDS_OF_TOKENS
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ModelSettings:
    """One entry of ``models`` in params.yaml, with the folder in which its files are.

    Attributes:
        path: Folder in Hugging Face format.
        prompt: ``vicuna-v1``, ``llava-llama-3`` or ``chat-template``.
        image: ``processor`` (as the folder says), ``pad`` (square padding) or ``anyres`` (an error if the folder's
            processor does not tile).
        patches: ``published`` or ``overlap``.
        dtype: A key of `DTYPES`.
        max_new_tokens: Length at which an answer is cut.
    """

    path: Path
    prompt: str
    image: str = "processor"
    patches: str = "published"
    dtype: str = "float32"
    max_new_tokens: int = 16


def _follow(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name)
    return root


def _side(length: int | Sequence[int]) -> int:
    """The side of a patch; some configurations give its height and its width."""
    return length if isinstance(length, int) else length[0]


def sizes_of(network: Any, architecture: Architecture) -> Sizes | None:
    """What a model's memory follows from; None for an architecture whose memory is not planned.

    Args:
        network: The transformers model; it may be on torch's meta device.
        architecture: Its entry of `ARCHITECTURES`.
    """
    if architecture.pictures is None:
        return None
    vision = network.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    return Sizes.of(
        network,
        [
            (tiles, len(architecture.pack(network, torch.zeros(tiles, patches, 1), size)))
            for tiles, size in architecture.pictures(network.config)
        ],
    )


def outline_of(config: Any, dtype: torch.dtype) -> Sizes | None:
    """What a model's memory follows from, from its configuration alone; see `sizes_of`."""
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    return sizes_of(network, ARCHITECTURES[config.model_type])


@dataclass(frozen=True)
class Prepared:
    """One question, ready for the model.

    Attributes:
        question: The question.
        inputs: Keyword arguments of the model's forward, batch of one, on the model's device.
        positions: The prompt's position sets.
        visual: What the visual tokens show.
        answer: Tokens whose probability is read off the end of the prompt, the first at its last position; all but the
            last of them follow the prompt in ``inputs``. Without any, only the last position is read.
    """

    question: ChosenQuestion
    inputs: dict[str, Tensor]
    positions: Positions
    visual: VisualTokens
    answer: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Number of positions that the model sees."""
        return int(self.inputs["input_ids"].shape[1])

    def to(self, device: torch.device) -> "Prepared":
        """The same on another device; from pinned memory nobody waits for the copy."""
        return replace(self, inputs={name: value.to(device, non_blocking=True) for name, value in self.inputs.items()})

    def pin_memory(self) -> "Prepared":
        """The same in memory that a GPU copies from by itself; `torch.utils.data` calls this."""
        return replace(self, inputs={name: value.pin_memory() for name, value in self.inputs.items()})

    def answered_by(self, tokens: Sequence[int]) -> "Prepared":
        """The same prompt followed by an answer, so that the whole of it can be scored (*teacher forcing*)."""
        given = self.inputs["input_ids"].new_tensor([list(tokens[:-1])])
        further = {"input_ids": given, "attention_mask": torch.ones_like(given)}
        inputs = {
            name: torch.cat([value, further.get(name, torch.zeros_like(given))], dim=1) if name in _OF_TOKENS else value
            for name, value in self.inputs.items()
        }
        return replace(self, inputs=inputs, answer=tuple(tokens))

    def without_pixels(self) -> "Prepared":
        """The same tokens and nothing of the picture, for a forward that goes on from behind it."""
        return replace(self, inputs={name: value for name, value in self.inputs.items() if name in _OF_TOKENS})


@dataclass(frozen=True)
class MultimodalModel:
    """A loaded model.

    Attributes:
        settings: What it was loaded from.
        network: The transformers model, in evaluation mode.
        processor: Its processor; the image processor is the one that ``settings.image`` asks for.
        architecture: Its entry of `ARCHITECTURES`.
        device: Where it lives.
    """

    settings: ModelSettings
    network: Any
    processor: Any
    architecture: Architecture
    device: torch.device

    @cached_property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, in order."""
        layers = _follow(self.network, self.architecture.decoder).layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    @cached_property
    def norm(self) -> nn.Module:
        """The norm between the last decoder layer and the output embedding."""
        norm = _follow(self.network, self.architecture.decoder).norm
        assert isinstance(norm, nn.Module)
        return norm

    @property
    def patch_size(self) -> int:
        """Side of a patch, in pixels of a tile."""
        return _side(_follow(self.network.config, self.architecture.patch_size))

    def pack(
        self, labels: Float[Tensor, "tiles patches labels"], size: tuple[int, int]
    ) -> Float[Tensor, "tokens labels"]:
        """Labels of patches in the order of the visual tokens, as the model packs a picture of ``size``."""
        return self.architecture.pack(self.network, labels, size)

    @cached_property
    def sizes(self) -> Sizes | None:
        """What the model's memory follows from; None for an architecture whose memory is not planned."""
        return sizes_of(self.network, self.architecture)

    def logits(self, normed: Float[Tensor, "rows width"]) -> Float[Tensor, "rows vocabulary"]:
        """Logits in fp32, or fp64 if the model is, from hidden states after the final norm.

        An output embedding in half precision goes to fp32 in parts: the whole of it would be kept beside the model,
        2.0 GiB for a vocabulary of 128,256. Parts of this size change no bit on a CPU, and are no slower.
        """
        weight: Tensor = _follow(self.network, self.architecture.head).weight.detach()
        normed = normed.to(torch.promote_types(normed.dtype, torch.float32))
        if weight.dtype == normed.dtype:
            return normed @ weight.T
        parts = torch.split(weight, max(1, CONVERTED_AT_ONCE // weight.shape[1]))
        return torch.cat([normed @ part.to(normed.dtype).T for part in parts], dim=-1)

    def prepare(self, question: ChosenQuestion, picture: Image.Image, moved: Sequence[Box] = ()) -> Prepared:
        """Turn a question and its picture into model inputs and position sets.

        Args:
            question: The question.
            picture: Its picture.
            moved: The objects' boxes in another place, for the control that asks for it.

        Raises:
            BrokenQuestion: the question does not fit the prompt (see `crossflow.prompts`).
            CrossflowError: the prompt's visual tokens are not those that the model makes of the picture.
        """
        prompt = render(self.settings.prompt, question.question, self.processor)
        config, sight = self.network.config, self.architecture.sight
        shown = visual_tokens(
            self.processor.image_processor,
            self.patch_size,
            self.pack,
            picture.size,
            [chosen.box for chosen in question.objects],
            self.settings.patches,
            sight,
            moved,
        )
        processed = self.processor.image_processor(picture, return_tensors="np", **sight.options)
        expansion = self.architecture.expand(self.processor, processed, len(shown), config.image_token_id)
        tokens = tokenize(prompt, self.processor, expansion)
        if tokens.visual.sum() != len(shown):
            raise CrossflowError(
                f"{self.settings.path}: the prompt of question {question.question_id} has {tokens.visual.sum()} visual "
                f"tokens, but the model makes {len(shown)} of its picture; the folder's processor is of another model."
            )
        visual = shown.among(tokens.visual)
        prepared = Prepared(question, self._inputs(tokens, processed), positions_of(tokens, question, visual), visual)
        return prepared.to(self.device)

    def _inputs(self, tokens: TokenizedPrompt, processed: Any) -> dict[str, Tensor]:
        """What the network's forward asks for; image processors return more than that."""
        asked_for = inspect.signature(self.network.forward).parameters
        inputs = {name: torch.as_tensor(np.asarray(value)) for name, value in processed.items() if name in asked_for}
        inputs["pixel_values"] = inputs["pixel_values"].to(DTYPES[self.settings.dtype])
        inputs["input_ids"] = torch.from_numpy(tokens.ids)[None]
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        for name in _KINDS_OF_TOKENS & asked_for.keys():
            inputs[name] = (inputs["input_ids"] == self.network.config.image_token_id).long()
        return inputs


def _read_config(path: Path) -> dict[str, Any]:
    """The configuration of a model that this project knows how to knock out."""
    file = path / "config.json"
    if not file.is_file():
        raise CrossflowError(f"{path} holds no config.json: give the folder of a model in Hugging Face format.")
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        model_type = str(config["model_type"])
        # Transformers would pass over one that it can not read, and answers would end elsewhere.
        if (generation := path / "generation_config.json").is_file():
            file = generation
            json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CrossflowError(f"{file} is not the configuration of a model ({error!r}).") from error
    if model_type in REFUSED:
        raise CrossflowError(f"{path} is a model of type {model_type!r}, which is refused: {REFUSED[model_type]}.")
    if model_type not in ARCHITECTURES:
        raise CrossflowError(f"{path} is a model of type {model_type!r}; known are {', '.join(ARCHITECTURES)}.")
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
    """One sentence for whatever comes of the files of others; tokenizers raises even a plain Exception."""
    try:
        yield
    except CrossflowError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split("\n")[:2]) or type(error).__name__
        raise CrossflowError(f"The model in {path} can not be loaded ({reason.strip(' .,')}).") from error


def _require_picture_token(processor: Any, network: Any, path: Path) -> None:
    """Refuse a tokenizer that does not write the token which the model replaces by the picture."""
    wanted, tokenizer = network.config.image_token_id, processor.tokenizer
    # Gemma 3's processor has another token in mind: the one that begins a picture.
    known = (getattr(holder, "image_token_id", None) for holder in (tokenizer, processor))
    found = next((token for token in known if token is not None), None)
    if found is None:
        found = tokenizer.convert_tokens_to_ids(processor.image_token)
    if found != wanted or found >= network.get_input_embeddings().num_embeddings:
        raise CrossflowError(
            f"{path}: the tokenizer writes a picture as token {found}, but the model expects it as token {wanted}; the "
            "folder's tokenizer is of another model."
        )


def _require_finite(path: Path, network: nn.Module) -> None:
    """Refuse weights that are NaN or infinite: every answer would be, too."""
    for name, weight in network.named_parameters():
        # Unlike torch.isfinite, the extremes need no copy of the weight; a NaN is both of them.
        if weight.numel() and not torch.stack(torch.aminmax(weight.detach())).isfinite().all():
            raise CrossflowError(f"{path} holds numbers that are NaN or infinite in the weight {name}.")


def sketch_model(settings: ModelSettings, device: torch.device) -> MultimodalModel:
    """A model without weights, from its configuration alone: it can prepare questions, and answers none.

    Raises:
        CrossflowError: the folder is absent or incomplete, or its architecture is unknown.
    """
    architecture = ARCHITECTURES[_read_config(settings.path)["model_type"]]
    with _loading(settings.path):
        processor = load_processor(settings.path, settings.image, architecture)
        config = AutoConfig.from_pretrained(settings.path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            network = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
                config, dtype=DTYPES[settings.dtype], trust_remote_code=False
            )
    _require_picture_token(processor, network, settings.path)
    return MultimodalModel(settings, network, processor, architecture, device)


def read_outline(settings: ModelSettings) -> tuple[Any, Sizes | None]:
    """A model's processor and its sizes; the sizes are None for an architecture whose memory is not planned.

    Raises:
        CrossflowError: as `sketch_model`.
    """
    sketch = sketch_model(settings, torch.device("cpu"))
    return sketch.processor, sketch.sizes


def load_model(settings: ModelSettings, device: torch.device) -> MultimodalModel:
    """Load a model from its folder. Nothing is downloaded, only safetensors are read, and no code of the folder runs.

    Raises:
        CrossflowError: the folder is absent or incomplete, its architecture is unknown, or weights are missing or no
            numbers.
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
        raise CrossflowError(f"{settings.path} lacks {len(missing)} weights, the first is {missing[0]}.")
    _require_picture_token(processor, network, settings.path)
    network = network.eval().to(device)
    _require_finite(settings.path, network)
    return MultimodalModel(settings, network, processor, architecture, device)

"""A loaded multimodal LLM and the parts of it that knockouts need: layers, final norm, logits, inputs for a question.

`crossflow.models.architectures` says where these parts are in each architecture; `crossflow.models.loading` loads them.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from crossflow.core.errors import BrokenQuestion, CrossflowError, blaming_question
from crossflow.core.records import Box, ChosenQuestion
from crossflow.models.architectures import ARCHITECTURES, Architecture
from crossflow.models.folder import ModelSource
from crossflow.models.memory import CONVERTED_AT_ONCE, Sizes
from crossflow.models.option_order import SWAPPED_OPTIONS, with_options_swapped
from crossflow.models.positions import Positions, positions_of
from crossflow.models.prompts import TokenizedPrompt, render, tokenize
from crossflow.models.visual_tokens import VisualTokens, visual_tokens

# These mark the image's positions; without them a model silently falls back on text positions.
_KINDS_OF_TOKENS = {"mm_token_type_ids", "token_type_ids"}
_OF_TOKENS = {"input_ids", "attention_mask"} | _KINDS_OF_TOKENS
CACHE_ARGUMENTS = ("cache", "past_key_values")
"""What transformers calls the cache of keys and values: from 5.24 on, and before."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ROUNDING = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference of a probability that rounding may cause, by the type of the weights."""


@dataclass(frozen=True)
class ModelSettings:
    """One entry of ``models`` in params.yaml, with the folder of its files.

    Attributes:
        path: Folder in Hugging Face format.
        prompt: ``vicuna-v1``, ``llava-llama-3`` or ``chat-template``.
        instruction: Text after the question; None stands for the published one (`crossflow.models.prompts.render`).
        option_order: ``given``, or ``swapped``: a question's two options change places.
        image: ``processor`` (as the folder says), ``pad`` (one tile, padded to a square) or ``anyres`` (an error if
            the folder's processor does not tile).
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
    instruction: str | None = None
    option_order: str = "given"

    @classmethod
    def of(cls, source: ModelSource) -> "ModelSettings":
        """The settings of a model, found in its folder."""
        names = (each.name for each in fields(cls) if each.name != "path")
        return cls(source.folder, **{name: getattr(source, name) for name in names})


def _follow(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name)
    return root


def _side(length: int | Sequence[int]) -> int:
    """The side of a patch; some configurations give height and width."""
    return length if isinstance(length, int) else length[0]


def sizes_of(
    network: Any, architecture: Architecture, image_processor: Any = None, known: Sequence[tuple[int, int]] = ()
) -> Sizes:
    """The sizes that determine a model's memory.

    Args:
        network: The transformers model; it may be on torch's meta device.
        architecture: Its entry of `ARCHITECTURES`.
        image_processor: The model's; some architectures do without it.
        known: Sizes (width, height) of all images that the model will see; empty = unknown.
    """
    config = network.config
    patches = (_side(_follow(config, architecture.tile)) // _side(_follow(config, architecture.patch_size))) ** 2
    images = [
        (len(architecture.pack(network, torch.zeros(tiles, patches, 1), size)), tiles, size)
        for tiles, size in architecture.images(config, image_processor, known)
    ]
    visual, _, largest = max(images)
    # A tower may put one token more before those of a tile of several patches.
    positions = max(tiles for _, tiles, _ in images) * (patches + (patches > 1))
    return Sizes.of(network, positions, visual, largest)


def outline_of(config: Any, dtype: torch.dtype) -> Sizes:
    """As `sizes_of`, from the configuration of a LLaVA-1.5 or LLaVA-NeXT alone."""
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    return sizes_of(network, ARCHITECTURES[config.model_type])


@dataclass(frozen=True)
class Prepared:
    """One question, preprocessed for the model.

    Attributes:
        question: The question.
        inputs: Keyword arguments of the model's forward, batch of one, on the model's device.
        positions: The prompt's position sets.
        visual: What the visual tokens show.
        answer: Tokens whose probability is read, the first of them at the prompt's last position; all but the last
            follow the prompt in ``inputs``. If empty, only the last position is read.
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

    @property
    def layout(self) -> tuple[bytes, ...]:
        """What stands where up to the end of the image: the same for images that correspond token by token."""
        grids = [value for name, value in sorted(self.inputs.items()) if name.endswith("grid_thw")]
        tokens = self.inputs["input_ids"][0, : int(self.positions["image"][-1]) + 1]
        numbers = [each.cpu().numpy() for each in (tokens, *grids)]
        return tuple(each.tobytes() for each in (*numbers, self.visual.newline, self.visual.base))

    def with_sinks(self, sinks: Int[np.ndarray, " _"] | None) -> "Prepared":
        """The same question with the position sets of its sinks; see `Positions.with_sinks`."""
        return replace(self, positions=self.positions.with_sinks(sinks))

    def to(self, device: torch.device) -> "Prepared":
        """The same question on another device; the copy from pinned memory is asynchronous."""
        return replace(self, inputs={name: value.to(device, non_blocking=True) for name, value in self.inputs.items()})

    def pin_memory(self) -> "Prepared":
        """The same question in pinned memory; `torch.utils.data` calls this."""
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


@dataclass(frozen=True)
class MultimodalModel:
    """A loaded model.

    Attributes:
        settings: What it was loaded from.
        network: The transformers model, in evaluation mode.
        processor: Its processor; the image processor is the one that ``settings.image`` asks for.
        architecture: Its entry of `ARCHITECTURES`.
        device: Its device.
    """

    settings: ModelSettings
    network: Any
    processor: Any
    architecture: Architecture
    device: torch.device

    @property
    def decoder(self) -> Any:
        """The text decoder."""
        return _follow(self.network, self.architecture.decoder)

    @cached_property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, in order."""
        layers = self.decoder.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    @cached_property
    def norm(self) -> nn.Module:
        """The norm between the last decoder layer and the output embedding."""
        norm = self.decoder.norm
        assert isinstance(norm, nn.Module)
        return norm

    def configured(self, key: str) -> Any:
        """The value of a dotted key of the configuration; None if it has none."""
        value: Any = self.network.config
        for name in key.split("."):
            value = getattr(value, name, None)
        return value

    @property
    def patch_size(self) -> int:
        """Side of a patch, in pixels of a tile."""
        return _side(self.configured(self.architecture.patch_size))

    @property
    def tile(self) -> int:
        """Side of a tile, in pixels."""
        return _side(self.configured(self.architecture.tile))

    def pack(
        self, labels: Float[Tensor, "tiles patches labels"], size: tuple[int, int]
    ) -> Float[Tensor, "tokens labels"]:
        """Labels of patches in the order of the visual tokens, packed as the model packs an image of ``size``."""
        return self.architecture.pack(self.network, labels, size)

    @cached_property
    def sizes(self) -> Sizes:
        """The sizes that determine the model's memory, for any image."""
        return self.sizes_for(())

    def sizes_for(self, known: Sequence[tuple[int, int]]) -> Sizes:
        """The sizes that determine the model's memory, for images of known sizes; see `sizes_of`."""
        return sizes_of(self.network, self.architecture, getattr(self.processor, "image_processor", None), known)

    def logits(self, normed: Float[Tensor, "rows width"]) -> Float[Tensor, "rows vocabulary"]:
        """Logits in fp32, or fp64 if the model is, from hidden states after the final norm.

        An output embedding in half precision is converted to fp32 in parts: a whole copy would take 2.0 GiB for a
        vocabulary of 128,256. Parts of this size change no bit on a CPU and are no slower. On a GPU, a product of half
        precision is summed and returned in fp32.
        """
        weight: Tensor = _follow(self.network, self.architecture.head).weight.detach()
        if weight.is_cuda and weight.dtype == normed.dtype in (torch.float16, torch.bfloat16):
            return torch.mm(normed, weight.T, out_dtype=torch.float32)
        normed = normed.to(torch.promote_types(normed.dtype, torch.float32))
        if weight.dtype == normed.dtype:
            return normed @ weight.T
        parts = torch.split(weight, max(1, CONVERTED_AT_ONCE // weight.shape[1]))
        return torch.cat([normed @ part.to(normed.dtype).T for part in parts], dim=-1)

    @cached_property
    def prompt(self) -> str:
        """The prompt of a question, with the image's marker and the word QUESTION where the question goes.

        Raises:
            CrossflowError: the template cannot be used.
        """
        try:
            return render(self.settings.prompt, "QUESTION", self.processor, self.settings.instruction).text
        except BrokenQuestion as reason:
            raise CrossflowError(f"{self.settings.path}: {reason}.") from reason

    def prepare(self, question: ChosenQuestion, image: Image.Image, moved: Sequence[Box] = ()) -> Prepared:
        """Turn a question and its image into model inputs and position sets.

        Args:
            question: The question.
            image: Its image.
            moved: The objects' boxes in another place, for the control that needs them.

        Raises:
            BrokenQuestion: the question does not fit the prompt (see `crossflow.models.prompts`), or its options
                cannot be swapped.
            CrossflowError: the prompt has another number of visual tokens than the model makes of the image.
        """
        if self.settings.option_order == SWAPPED_OPTIONS:
            question = with_options_swapped(question)
        prompt = render(self.settings.prompt, question.question, self.processor, self.settings.instruction)
        config, tiling = self.network.config, self.architecture.tiling
        shown = visual_tokens(
            self.processor.image_processor,
            self.patch_size,
            self.pack,
            image.size,
            [chosen.box for chosen in question.objects],
            self.settings.patches,
            tiling,
            moved,
        )
        with blaming_question("the image processor"):
            processed = self.processor.image_processor(image, return_tensors="np", **tiling.options)
        expansion = self.architecture.expand(self.processor, processed, len(shown), config.image_token_id)
        tokens = tokenize(prompt, self.processor, expansion)
        if tokens.visual.sum() != len(shown):
            raise CrossflowError(
                f"{self.settings.path}: the prompt of question {question.question_id} has {tokens.visual.sum()} visual "
                f"tokens, but the model makes {len(shown)} of its image; the folder's processor is of another model."
            )
        visual = shown.among(tokens.visual)
        prepared = Prepared(question, self._inputs(tokens, processed), positions_of(tokens, question, visual), visual)
        return prepared.to(self.device)

    def _inputs(self, tokens: TokenizedPrompt, processed: Any) -> dict[str, Tensor]:
        """The arguments of the network's forward; image processors return more than these."""
        asked_for = inspect.signature(self.network.forward).parameters
        inputs = {name: torch.as_tensor(np.asarray(value)) for name, value in processed.items() if name in asked_for}
        inputs["pixel_values"] = inputs["pixel_values"].to(DTYPES[self.settings.dtype])
        inputs["input_ids"] = torch.from_numpy(tokens.ids)[None]
        # Without it, transformers takes positions that jump, as after an image of Qwen's, for several texts.
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        for name in _KINDS_OF_TOKENS & asked_for.keys():
            inputs[name] = (inputs["input_ids"] == self.network.config.image_token_id).long()
        return inputs

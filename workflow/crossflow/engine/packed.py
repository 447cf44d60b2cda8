"""Several prompts through the decoder in one sequence: the model's layers, called once for all of them.

A model is fed once for each prompt, with layers that compute nothing (`feed`): it encodes the image, embeds the tokens
and hands to each layer the arguments that belong to the prompt: its position embeddings and its mask. The layers are
then called for a *packed* sequence, which concatenates stretches of several prompts, or of one prompt several times.
Decoder layers treat all positions alike, except in their attention; the active `crossflow.models.attention.Mode` knows
where each stretch begins.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crossflow.core.errors import CrossflowError
from crossflow.models.attention import Call, Mode, Plain, using
from crossflow.models.model import CACHE_ARGUMENTS, MultimodalModel

Inputs = Mapping[str, Tensor]
"""Keyword arguments of the model's forward."""

_OF_ONE_PROMPT = {"attention_mask", "use_cache", *CACHE_ARGUMENTS}
"""Arguments of a layer that a packed sequence does without: its mode has the masks, and nothing is cached."""

_LayerCall = tuple[Tensor | None, dict[str, Any]]


@dataclass(frozen=True)
class Feed:
    """What the model hands to its decoder layers for one prompt.

    Attributes:
        entering: For the first layer the embeddings, for each other what the model adds to its input, as Qwen3-VL adds
            features of the image; None if it adds nothing. ``(1, positions, width)``.
        arguments: The other arguments of each layer.
        length: Number of positions.
    """

    entering: list[Tensor | None]
    arguments: list[dict[str, Any]]
    length: int

    @property
    def embeddings(self) -> Float[Tensor, "1 positions width"]:
        """What enters the first layer."""
        assert self.entering[0] is not None
        return self.entering[0]

    def without_embeddings(self) -> "Feed":
        """The same feed for sequences that begin at a later layer."""
        return replace(self, entering=[None, *self.entering[1:]])

    def mask(self, layer: int) -> Tensor | None:
        """The mask that the model requests in a layer, as it is; None = causal."""
        mask: Tensor | None = self.arguments[layer].get("attention_mask")
        return mask


@contextmanager
def _emptied(layers: nn.ModuleList) -> Iterator[list[_LayerCall]]:
    """Layers that keep their arguments and return zeros, so that what enters the next is what the model adds."""
    calls: list[_LayerCall] = []
    nothing: list[Tensor] = []

    def called(hidden_states: Tensor, **named: Any) -> Tensor:
        if not nothing:
            # Expanded: writing into it in place, which would go unnoticed, is an error of torch's.
            nothing.append(hidden_states.new_zeros(1, 1, 1).expand_as(hidden_states))
        calls.append((hidden_states, named))
        return nothing[0]

    for layer in layers:
        layer.forward = called
    try:
        yield calls
    finally:
        for layer in layers:
            del layer.forward
    calls[1:] = [(None if hidden is nothing[0] else hidden, named) for hidden, named in calls[1:]]


def feed(model: MultimodalModel, inputs: Inputs) -> Feed:
    """Feed a prompt to the model, without computing a layer.

    Args:
        model: The model.
        inputs: Arguments of its forward, batch of one.

    Raises:
        CrossflowError: the model does not call each layer once.
    """
    with torch.inference_mode(), _emptied(model.layers) as calls:
        model.network.base_model(**inputs, use_cache=False)
    return _fed(model, calls)


def embedded(model: MultimodalModel, tokens: Int[Tensor, "1 positions"]) -> Float[Tensor, "1 positions width"]:
    """What enters the first layer at text tokens, wherever they stand."""
    with torch.inference_mode(), _emptied(model.layers) as calls:
        model.decoder(input_ids=tokens, use_cache=False)
    return _fed(model, calls).embeddings


def _fed(model: MultimodalModel, calls: Sequence[_LayerCall]) -> Feed:
    if len(calls) != len(model.layers):
        raise CrossflowError(
            f"{model.settings.path}: expected one call of each of {len(model.layers)} decoder layers, saw "
            f"{len(calls)}; the model cannot be knocked out."
        )
    entering, arguments = zip(*calls, strict=True)
    return Feed(list(entering), list(arguments), entering[0].shape[1])


class Packing:
    """Some feeds, concatenated; a sequence consists of *places* in them.

    Attributes:
        feeds: The feeds.
    """

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.feeds = feeds
        self._starts = np.cumsum([0, *(each.length for each in feeds)])
        self._whole: dict[tuple[int, ...], Tensor] = {}
        self._taken: dict[tuple[int, ...], Tensor] = {}
        self._places: Tensor | None = None

    def places(self, number: int, start: int, stop: int) -> Int[np.ndarray, " positions"]:
        """The places of positions of a feed."""
        return np.arange(self._starts[number] + start, self._starts[number] + stop)

    def on(self, device: torch.device, stretches: Iterable[tuple[int, int, int]]) -> Int[Tensor, " positions"]:
        """The places of several stretches, each given as to `places`, on a device."""
        return torch.from_numpy(np.concatenate([self.places(*each) for each in stretches])).to(device)

    def _take(self, parts: Sequence[Tensor], dim: int, places: Tensor | None) -> Tensor:
        """Tensors of the feeds, concatenated and cut to some places; the same in all layers that are given the same."""
        name = tuple(map(id, parts))
        if name not in self._whole:
            self._whole[name] = parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
        if places is None:
            return self._whole[name]
        if places is not self._places:
            self._places = places
            self._taken.clear()
        if name not in self._taken:
            self._taken[name] = self._whole[name].index_select(dim, places)
        return self._taken[name]

    def arguments(self, layer: int, places: Tensor | None) -> dict[str, Any]:
        """The arguments of a layer at some places; None = all.

        Raises:
            CrossflowError: the layer takes a tensor that is not known here.
        """
        given = [each.arguments[layer] for each in self.feeds]
        taken: dict[str, Any] = {}
        for name, value in given[0].items():
            if name in _OF_ONE_PROMPT:
                continue
            parts = [each[name] for each in given]
            if name == "position_embeddings":
                taken[name] = tuple(self._take(both, -2, places) for both in zip(*parts, strict=True))
            elif name in {"position_ids", "cache_position"} and value is not None:
                taken[name] = self._take(parts, -1, places)
            elif isinstance(value, Tensor):
                raise CrossflowError(f"The decoder layer's argument {name!r} is not known to the knockout engine.")
            else:
                taken[name] = value
        return taken

    def added(self, layer: int, places: Tensor | None) -> Tensor | None:
        """What enters a layer besides the output of the one before, at some places; None if nothing does."""
        parts = [each.entering[layer] for each in self.feeds]
        if all(part is None for part in parts):
            return None
        like = next(part for part in parts if part is not None)
        whole = [
            like.new_zeros(1, each.length, like.shape[2]) if part is None else part
            for each, part in zip(self.feeds, parts, strict=True)
        ]
        joined = torch.cat(whole, dim=1)
        return joined if places is None else joined.index_select(1, places)


Enter = Callable[[int, Tensor | None], tuple[Tensor | None, Tensor | None]]
"""From a layer and the sequence before it to the sequence that enters it and its places; None = no sequence yet, or all
places."""


def run_packed(
    model: MultimodalModel, packing: Packing, mode: Mode, enter: Enter, stop: int | None = None
) -> Tensor | None:
    """Run a packed sequence through the decoder layers; ``(1, tokens, width)``, before the final norm.

    Args:
        model: The model.
        packing: The feeds.
        mode: The attention.
        enter: Called before every layer; it may note the sequence or lengthen it.
        stop: Number of layers; by default all.
    """
    hidden: Tensor | None = None
    places: Tensor | None = None
    with using(mode), torch.inference_mode():
        for index, layer in enumerate(model.layers[:stop]):
            if index and hidden is not None:
                added = packing.added(index, places)
                hidden = hidden if added is None else hidden + added
            hidden, places = enter(index, hidden)
            if hidden is not None:
                output = layer(hidden, **packing.arguments(index, places))
                hidden = output[0] if isinstance(output, tuple) else output
    return hidden


def stretches(call: Call, spans: Sequence[int], masks: Sequence[Tensor | None]) -> list[Call]:
    """The call of each of some stretches that lie side by side in a packed sequence.

    Args:
        call: The call of the sequence.
        spans: Lengths of the stretches.
        masks: The mask of each.
    """
    parts = (torch.split(part, list(spans), dim=2) for part in (call.query, call.key, call.value))
    return [
        Call(call.module, query, key, value, mask, call.scaling)
        for query, key, value, mask in zip(*parts, masks, strict=True)
    ]


class Apart:
    """Each prompt of a packed sequence attends to itself.

    Attributes:
        feeds: The prompts, whole and in the order of the sequence.
    """

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.feeds = feeds

    def split(self, call: Call) -> list[Call]:
        """The call of each prompt."""
        return stretches(call, [each.length for each in self.feeds], [each.mask(call.layer) for each in self.feeds])

    def joined(self, calls: Sequence[Call]) -> Tensor:
        """The attention output of the sequence, from the call of each prompt."""
        return torch.cat([Plain().attend(each) for each in calls], dim=2)

    def attend(self, call: Call) -> Tensor:
        return self.joined(self.split(call))

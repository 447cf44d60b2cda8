"""Greedy answers to several prompts at once, with the image and with its tokens hidden.

All prompts are read in one packed sequence, and every further pass adds one token to each answer that has not ended.
With the image hidden from every other position, nothing changes up to its end, so such an answer goes on from there, on
the keys and values before the image: blocked edges have the weight 0, so the image's own keys are left out.

Every token has the largest logit in fp32, also where the weights are of half the precision.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossflow.engine.encoding import encode_together
from crossflow.engine.packed import Packing, embedded, feed, run_packed, stretches
from crossflow.models.attention import Call, attend, edges_allowed
from crossflow.models.model import MultimodalModel, Prepared


class Generated(NamedTuple):
    """A generated answer.

    Attributes:
        tokens: Its tokens, the one that ends it included.
        logits: Of the first token, fp32.
        states: The hidden states at the prompt's last position: embeddings, then after every layer, before the final
            norm; None with the image hidden.
    """

    tokens: list[int]
    logits: Float[Tensor, " vocabulary"]
    states: Float[Tensor, "states width"] | None


class _Edges:
    """The edges that the model allows among the positions of a prompt, by the mask that a layer requests."""

    def __init__(self, mask: Tensor | None, layer: int) -> None:
        self.mask = None if mask is None else edges_allowed(mask, layer).cpu().numpy()

    def visible(
        self, queries: Int[np.ndarray, " queries"], keys: Int[np.ndarray, " keys"]
    ) -> Bool[np.ndarray, "queries keys"]:
        return keys <= queries[:, None] if self.mask is None else self.mask[np.ix_(queries, keys)]


@dataclass
class _Answer:
    """An answer on its way.

    Attributes:
        number: The prompt's number.
        next: The positions that go through the layers next.
        positions: Those whose keys and values are kept.
        keys, values: Of each layer, ``(1, kv_heads, positions, head_width)``.
        tokens: What has been generated.
        logits: Of the first token.
        states: See `Generated`.
    """

    number: int
    next: Int[np.ndarray, " next"]
    positions: Int[np.ndarray, " kept"] = field(default_factory=lambda: np.arange(0))
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logits: Tensor | None = None
    states: Tensor | None = None

    def without_image(self, image: Int[np.ndarray, " image"]) -> "_Answer":
        """From an answer whose prompt has been read: the one that goes on from the image's end without its keys."""
        start, stop = int(image[0]), int(image[-1]) + 1
        keys, values = ([part[:, :, :start] for part in parts] for parts in (self.keys, self.values))
        return _Answer(self.number, np.arange(stop, len(self.positions)), np.arange(start), keys, values)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the keys and values of the next positions, too."""
        if layer == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], key], dim=2)
            self.values[layer] = torch.cat([self.values[layer], value], dim=2)
        return self.keys[layer], self.values[layer]


class _Continuing:
    """The next positions of each answer attend to the answer's own keys."""

    def __init__(
        self, model: MultimodalModel, packing: Packing, answers: Sequence[_Answer], edges: dict[int, _Edges]
    ) -> None:
        self.answers = answers
        self._requested = [
            [packing.feeds[answer.number].mask(layer) for answer in answers] for layer in range(len(model.layers))
        ]
        # Built before the first layer, so that none waits for a copy; most layers request the same mask.
        self._masks: dict[tuple[int, int], tuple[Tensor | None, bool]] = {}
        for layer, masks in enumerate(self._requested):
            for place, mask in enumerate(masks):
                if id(mask) not in edges:
                    edges[id(mask)] = _Edges(mask, layer)
                if (place, id(mask)) not in self._masks:
                    self._masks[place, id(mask)] = _mask_of(answers[place], edges[id(mask)], model.device)

    def attend(self, call: Call) -> Tensor:
        requested = self._requested[call.layer]
        mixed = []
        for place, each in enumerate(stretches(call, [len(answer.next) for answer in self.answers], requested)):
            keys, values = self.answers[place].extend(each.layer, each.key, each.value)
            visible, causal = self._masks[place, id(each.mask)]
            mixed.append(attend(each.query, keys, values, visible, each.scaling, causal))
        return torch.cat(mixed, dim=2)


def _mask_of(answer: _Answer, edges: _Edges, device: torch.device) -> tuple[Tensor | None, bool]:
    """What the next positions of an answer see: a mask, or None, and then whether they are causal."""
    keys = np.concatenate([answer.positions, answer.next])
    visible = edges.visible(answer.next, keys)
    if visible.all():
        return None, False
    if np.array_equal(visible, np.tri(len(keys), dtype=bool)):
        return None, True
    return torch.from_numpy(visible).to(device)[None], False


def _advance(model: MultimodalModel, packing: Packing, answers: Sequence[_Answer], edges: dict[int, _Edges]) -> None:
    """Run the next positions of each answer and choose its next token; note the states at the end of whole prompts."""
    device = model.device
    whole = not any(len(answer.positions) for answer in answers)
    stretches_of = [(answer.number, int(answer.next[0]), int(answer.next[-1]) + 1) for answer in answers]
    places = packing.on(device, stretches_of)
    ends = torch.from_numpy(np.cumsum([len(answer.next) for answer in answers]) - 1).to(device)
    states: list[Tensor] = []
    fresh = [answer.tokens[-1] for answer in answers if answer.tokens]
    tokens = iter(torch.split(embedded(model, torch.tensor([fresh], device=device)), 1, dim=1) if fresh else ())
    entering = torch.cat(
        [
            next(tokens) if answer.tokens else packing.feeds[number].embeddings[:, start:stop]
            for answer, (number, start, stop) in zip(answers, stretches_of, strict=True)
        ],
        dim=1,
    )

    def enter(layer: int, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden = entering if hidden is None else hidden
        if whole:
            states.append(hidden.index_select(1, ends))
        return hidden, places

    hidden = run_packed(model, packing, _Continuing(model, packing, answers, edges), enter)
    assert hidden is not None
    with torch.inference_mode():
        states.append(hidden.index_select(1, ends))
        logits = model.logits(model.norm(states[-1])[0])
        chosen = logits.argmax(dim=-1).tolist()
        if whole:
            for answer, each in zip(answers, torch.cat(states).unbind(1), strict=True):
                answer.states = each
    for answer, token, row in zip(answers, chosen, logits, strict=True):
        answer.logits = row if answer.logits is None else answer.logits
        answer.tokens.append(token)
        answer.positions = np.concatenate([answer.positions, answer.next])
        answer.next = answer.next[-1:] + 1


def generate(
    model: MultimodalModel, prompts: Sequence[Prepared], blind: Sequence[bool], stop: Sequence[int], most: int
) -> list[tuple[Generated, Generated | None]]:
    """Generate the greedy answer to each prompt, and, where asked, the one with the image hidden.

    Args:
        model: The model.
        prompts: The prompts.
        blind: Which are also answered with the image hidden.
        stop: Tokens that end an answer.
        most: Most tokens of an answer.
    """
    # The model itself says which position embeddings and masks belong to the positions that may be generated.
    text = int(model.network.config.image_token_id == 0)  # any token of the text
    filled = [prompt.answered_by([text] * most) for prompt in prompts]
    packing = Packing([feed(model, inputs) for inputs in encode_together(model, filled)])
    edges: dict[int, _Edges] = {}
    seeing = [_Answer(number, np.arange(prompt.positions.length)) for number, prompt in enumerate(prompts)]
    _advance(model, packing, seeing, edges)
    hidden = {
        answer.number: answer.without_image(prompt.positions["image"])
        for answer, prompt, wanted in zip(seeing, prompts, blind, strict=True)
        if wanted
    }
    while going_on := [
        answer
        for answer in [*seeing, *hidden.values()]
        if not answer.tokens or (answer.tokens[-1] not in stop and len(answer.tokens) < most)
    ]:
        _advance(model, packing, going_on, edges)

    def finished(answer: _Answer) -> Generated:
        assert answer.logits is not None
        return Generated(answer.tokens, answer.logits, answer.states)

    return [
        (finished(answer), finished(hidden[answer.number]) if answer.number in hidden else None) for answer in seeing
    ]

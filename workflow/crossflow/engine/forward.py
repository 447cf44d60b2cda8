"""Full forwards: the clean run, and a forward in any mode of attention.

A clean run records what every knockout of the same question shares: the keys and values of each layer, and the
residual stream that enters it. All forwards are read in the same way at the end of the prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossflow.core.errors import CrossflowError
from crossflow.engine.donors import Donor, LayerDonor
from crossflow.engine.encoding import encode_together
from crossflow.engine.packed import Apart, Feed, Inputs, Packing, feed, run_packed
from crossflow.models.attention import Call, Mode, using
from crossflow.models.model import MultimodalModel, Prepared


class Readout(NamedTuple):
    """What is read at the end of prompts.

    Attributes:
        logits: At the prompt's last position, fp32.
        further: Log-probability in nats, fp64, of each of the answer's tokens after the first, given those before it;
            none if the answer has one token or is not scored.
    """

    logits: Float[Tensor, "rows vocabulary"]
    further: Float[Tensor, "rows tokens"]


def _further(model: MultimodalModel, normed: Float[Tensor, "rows end width"], answer: Sequence[int]) -> Tensor:
    found = [normed.new_zeros((len(normed), 0), dtype=torch.float64)]
    for place in range(1, len(answer)):
        logits = model.logits(normed[:, place]).double()
        found.append((logits[:, answer[place]] - torch.logsumexp(logits, dim=-1))[:, None])
    return torch.cat(found, dim=1)


def read(model: MultimodalModel, normed: Float[Tensor, "rows end width"], answer: Sequence[int]) -> Readout:
    """Compute a readout from the hidden states after the final norm, from the prompt's last position on.

    Args:
        model: The model.
        normed: One position, or as many as the answer has tokens.
        answer: The answer's tokens; may be empty.
    """
    return Readout(model.logits(normed[:, 0]), _further(model, normed, answer))


def _read_each(model: MultimodalModel, normed: Sequence[Tensor], prompts: Sequence[Prepared]) -> list[Readout]:
    """`read` of one row of each of several prompts, with one product for the logits of all."""
    logits = model.logits(torch.cat([end[:, 0] for end in normed]))
    return [
        Readout(row[None], _further(model, end, prompt.answer))
        for row, end, prompt in zip(logits, normed, prompts, strict=True)
    ]


@dataclass(frozen=True)
class LayerRecord:
    """The record of one decoder layer in the clean run.

    Attributes:
        hidden: The residual stream entering the layer, from position ``first`` on, ``(1, suffix, width)``.
        key, value: ``(1, kv_heads, positions, head_width)``, after the position embedding.
        query: From position ``first`` on, after the position embedding, with all query heads.
        scaling: Factor of the attention scores.
        visible: The edges that the model allows, for queries from ``first`` on. Layers that request the same mask share
            the array.
        is_causal: Whether the model requests plain causal attention.
        reads_ahead: Whether a position before ``first`` attends to one from ``first`` on.
    """

    hidden: Float[Tensor, "1 suffix width"]
    key: Float[Tensor, "1 kv_heads positions head_width"]
    value: Float[Tensor, "1 kv_heads positions head_width"]
    query: Float[Tensor, "1 heads suffix head_width"]
    scaling: float
    visible: Bool[np.ndarray, "suffix positions"]
    is_causal: bool
    reads_ahead: bool


@dataclass(frozen=True)
class CleanRun:
    """A clean forward of one question.

    Attributes:
        prepared: The question.
        first: The first recorded position, at or before any that a knockout changes.
        feed: What the model hands to its decoder layers, without the embeddings.
        layers: One record per decoder layer.
        after: The residual stream after the last layer, before the final norm, from position ``first`` on.
        reading: The readout of its end; one row.
        donors: Name -> the keys and values that its rows may read in place of its own.
    """

    prepared: Prepared
    first: int
    feed: Feed
    layers: list[LayerRecord]
    after: Float[Tensor, "1 suffix width"]
    reading: Readout
    donors: Mapping[str, Donor] = field(default_factory=dict)

    def hidden_before(self, layer: int) -> Float[Tensor, "1 suffix width"]:
        """The residual stream entering a layer, or leaving the last, from position ``first`` on."""
        return self.layers[layer].hidden if layer < len(self.layers) else self.after

    @property
    def entering(self) -> list[Float[Tensor, "1 suffix width"]]:
        """The residual stream entering each layer, and leaving the last, from position ``first`` on."""
        return [*(record.hidden for record in self.layers), self.after]

    @property
    def as_donor(self) -> Donor:
        """Its own keys and values, at all positions."""
        return Donor([LayerDonor(record.key[0], record.value[0]) for record in self.layers])

    @property
    def logits(self) -> Float[Tensor, " vocabulary"]:
        """Logits at the prompt's last position, fp32."""
        return self.reading.logits[0]

    @property
    def states(self) -> Float[Tensor, "states suffix width"]:
        """The hidden states from position ``first`` on: embeddings, then after every layer, before the final norm."""
        return torch.cat(self.entering)


class _Recording(Apart):
    """Keeps keys and values, and the queries at some places."""

    def __init__(self, feeds: Sequence[Feed], later: Tensor) -> None:
        super().__init__(feeds)
        self.later = later
        self.calls: dict[int, list[Call]] = {}
        self.queries: dict[int, Tensor] = {}

    def attend(self, call: Call) -> Tensor:
        calls = self.split(call)
        self.queries[call.layer] = call.query.index_select(2, self.later)
        # The calls' own queries are views, which would keep all of them alive.
        self.calls[call.layer] = [each.without_queries() for each in calls]
        return self.joined(calls)


def full_forward(model: MultimodalModel, prepared: Prepared, mode: Mode, inputs: Inputs | None = None) -> Readout:
    """The readout of one full forward in the given attention mode; one row.

    Args:
        model: The model.
        prepared: The question.
        mode: The attention.
        inputs: The question's inputs from `encode_together`; None = its own, whose image is encoded in this forward.
    """
    with using(mode), torch.inference_mode():
        output = model.network.base_model(**(inputs or prepared.inputs), use_cache=False)
        return read(model, output.last_hidden_state[:, prepared.positions.length - 1 :], prepared.answer)


def _visible(call: Call, first: int) -> tuple[Bool[np.ndarray, "suffix positions"], bool]:
    """`LayerRecord.visible` and `LayerRecord.reads_ahead` of a prompt's call."""
    if call.is_causal:
        positions = np.arange(call.key.shape[2])
        return positions <= positions[first:, None], False
    visible = call.visible().cpu().numpy()
    return visible[first:], bool(visible[:first, first:].any())


def _records(
    number: int, first: int, entered: Sequence[Sequence[Tensor]], recording: _Recording, spans: Sequence[int]
) -> Iterator[LayerRecord]:
    """The records of one prompt of several that ran together."""
    # Keyed by the identity of the requested mask; the feed keeps it alive.
    edges: dict[tuple[int, bool], tuple[Bool[np.ndarray, "suffix positions"], bool]] = {}
    for layer, hidden in enumerate(entered):
        call = recording.calls[layer][number]
        asked = id(call.mask), call.is_causal
        if asked not in edges:
            edges[asked] = _visible(call, first)
        visible, reads_ahead = edges[asked]
        query = torch.split(recording.queries[layer], list(spans), dim=2)[number]
        yield LayerRecord(
            hidden[number], call.key, call.value, query, call.scaling, visible, call.is_causal, reads_ahead
        )


def run_clean_together(model: MultimodalModel, prompts: Sequence[Prepared], firsts: Sequence[int]) -> list[CleanRun]:
    """Run clean prompts once and record what the knockouts of each share.

    Args:
        model: The model.
        prompts: The questions.
        firsts: For each question, the first position that any knockout changes; at most the prompt's last.

    Raises:
        CrossflowError: a layer was not called exactly once through the project's attention function.
    """
    if not prompts:
        return []
    feeds = [feed(model, inputs) for inputs in encode_together(model, prompts)]
    packing = Packing(feeds)
    spans = [each.length - first for each, first in zip(feeds, firsts, strict=True)]
    later = packing.on(model.device, [(number, first, feeds[number].length) for number, first in enumerate(firsts)])
    recording = _Recording(feeds, later)
    entered: list[Sequence[Tensor]] = []

    def enter(layer: int, hidden: Tensor | None) -> tuple[Tensor | None, None]:
        hidden = packing.added(0, None) if hidden is None else hidden
        assert hidden is not None
        entered.append(torch.split(hidden.index_select(1, later), spans, dim=1))
        return hidden, None

    hidden = run_packed(model, packing, recording, enter)
    if hidden is None or sorted(recording.calls) != list(range(len(model.layers))):
        raise CrossflowError(
            f"{model.settings.path}: expected one attention call in each of {len(model.layers)} decoder layers, saw "
            f"{len(recording.calls)}; the model cannot be knocked out."
        )
    with torch.inference_mode():
        after = torch.split(hidden.index_select(1, later), spans, dim=1)
        # All ends in one product each for the norm and the logits.
        ends = [
            states[:, prompt.positions.length - 1 - first :]
            for states, prompt, first in zip(after, prompts, firsts, strict=True)
        ]
        normed = torch.split(model.norm(torch.cat(ends, dim=1)), [end.shape[1] for end in ends], dim=1)
        readings = _read_each(model, normed, prompts)
    return [
        CleanRun(
            prompt,
            first,
            feeds[number].without_embeddings(),
            list(_records(number, first, entered, recording, spans)),
            after[number],
            reading,
        )
        for number, (prompt, first, reading) in enumerate(zip(prompts, firsts, readings, strict=True))
    ]


def run_clean(model: MultimodalModel, prepared: Prepared, first: int) -> CleanRun:
    """`run_clean_together` for one question."""
    (clean,) = run_clean_together(model, [prepared], [first])
    return clean

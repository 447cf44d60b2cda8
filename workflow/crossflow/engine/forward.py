"""Full forwards: the clean run, and a forward in which some edges are blocked.

A clean run records what every knockout of the same question shares: the keys and values of each layer, and the
residual stream that enters it. The blocked forward is the definition of a knockout; `crossflow.engine.reference` and
the answer with the image removed use it. All forwards are read in the same way at the end of the prompt.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import Window
from crossflow.engine.edges import Edges
from crossflow.engine.encoding import Inputs, encode_together
from crossflow.models.attention import Call, Mode, Plain, attend, using
from crossflow.models.model import MultimodalModel, Prepared


class Readout(NamedTuple):
    """What is read at the end of prompts.

    Attributes:
        logits: At the prompt's last position, fp32.
        further: Log-probability in nats, fp64, of the answer's tokens after the first, each given those before it; 0
            if the answer has one token or is not scored.
    """

    logits: Float[Tensor, "rows vocabulary"]
    further: Float[Tensor, " rows"]


def read(model: MultimodalModel, normed: Float[Tensor, "rows end width"], answer: Sequence[int]) -> Readout:
    """Compute a readout from the hidden states after the final norm, from the prompt's last position on.

    Args:
        model: The model.
        normed: One position, or as many as the answer has tokens.
        answer: The answer's tokens; may be empty.
    """
    further = torch.zeros(len(normed), dtype=torch.float64, device=normed.device)
    for place in range(1, len(answer)):
        logits = model.logits(normed[:, place])
        further += logits[:, answer[place]].double() - torch.logsumexp(logits.double(), dim=-1)
    return Readout(model.logits(normed[:, 0]), further)


@dataclass(frozen=True)
class LayerRecord:
    """The record of one decoder layer in the clean run.

    Attributes:
        hidden: The residual stream entering the layer, from position ``first`` on, ``(1, suffix, width)``.
        arguments: The other arguments of the layer's forward.
        key, value: ``(1, kv_heads, positions, head_width)``, after the position embedding.
        query: From position ``first`` on, after the position embedding, with all query heads.
        scaling: Factor of the attention scores.
        visible: The edges that the model allows, for queries from ``first`` on. Layers that request the same mask share
            the tensor.
        is_causal: Whether the model requests plain causal attention.
        reads_ahead: 0-d boolean tensor: whether a position before ``first`` attends to one from ``first`` on.
        followed: 0-d boolean tensor: whether the model changes the layer's output, from ``first`` on, before the next
            layer, as Qwen3-VL does when it adds features of the image.
    """

    hidden: Float[Tensor, "1 suffix width"]
    arguments: dict[str, Any]
    key: Float[Tensor, "1 kv_heads positions head_width"]
    value: Float[Tensor, "1 kv_heads positions head_width"]
    query: Float[Tensor, "1 heads suffix head_width"]
    scaling: float
    visible: Bool[Tensor, "suffix positions"]
    is_causal: bool
    reads_ahead: Bool[Tensor, ""]
    followed: Bool[Tensor, ""]


@dataclass(frozen=True)
class CleanRun:
    """A clean forward of one question.

    Attributes:
        prepared: The question.
        first: The first position that any knockout changes.
        layers: One record per decoder layer.
        reading: The readout of its end; one row.
    """

    prepared: Prepared
    first: int
    layers: list[LayerRecord]
    reading: Readout

    @property
    def logits(self) -> Float[Tensor, " vocabulary"]:
        """Logits at the prompt's last position, fp32."""
        return self.reading.logits[0]


class _Recording(Plain):
    """Plain attention that keeps the keys, values and allowed edges of each layer."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.seen: dict[int, tuple[Tensor, Tensor, Tensor, float, Tensor, bool, Tensor]] = {}
        # Keyed by the identity of the requested mask, which is kept alive so that its identity is not reused.
        self.edges: dict[tuple[int, bool], tuple[Tensor | None, Tensor, Tensor]] = {}

    def attend(self, call: Call) -> Tensor:
        asked = id(call.mask), call.is_causal
        if asked not in self.edges:
            visible = call.visible()
            # A slice without a copy would keep all queries' edges alive.
            later = visible[self.first :].clone()
            self.edges[asked] = (call.mask, later, visible[: self.first, self.first :].any())
        _, later, reads_ahead = self.edges[asked]
        query = call.query[:, :, self.first :].clone()
        self.seen[call.layer] = (call.key, call.value, query, call.scaling, later, call.is_causal, reads_ahead)
        return super().attend(call)


class _Calls:
    """The arguments and outputs of each layer's call.

    Attributes:
        hidden, outputs: Hidden states from the first recorded position on, one entry per call.
        arguments: The other arguments.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.hidden: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.arguments: list[dict[str, Any]] = []

    # A slice without a copy would keep the whole prompt's hidden states alive and show later in-place changes.

    def enter(self, layer: nn.Module, positional: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        arguments = dict(named)
        hidden = positional[0] if positional else arguments.pop("hidden_states")
        self.hidden.append(hidden[:, self.first :].clone())
        self.arguments.append(arguments)

    def leave(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        self.outputs.append(hidden[:, self.first :].clone())

    def followed(self) -> Iterator[Bool[Tensor, ""]]:
        """For each layer, `LayerRecord.followed`."""
        for output, after in zip(self.outputs, self.hidden[1:], strict=False):
            yield ~torch.isclose(output, after, rtol=0, atol=0, equal_nan=True).all()
        yield torch.zeros((), dtype=torch.bool, device=self.outputs[-1].device)


@contextmanager
def _recorded_calls(layers: nn.ModuleList, first: int) -> Iterator[_Calls]:
    calls = _Calls(first)
    handles = [layer.register_forward_pre_hook(calls.enter, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(calls.leave) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


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


def run_clean(model: MultimodalModel, prepared: Prepared, first: int, inputs: Inputs | None = None) -> CleanRun:
    """Run the clean prompt once and record what the knockouts from position ``first`` on share.

    Args:
        model: The model.
        prepared: The question.
        first: The first position that any knockout changes.
        inputs: See `full_forward`.

    Raises:
        CrossflowError: a layer was not called exactly once through the project's attention function.
    """
    recording = _Recording(first)
    with _recorded_calls(model.layers, first) as calls:
        reading = full_forward(model, prepared, recording, inputs)
    if len(calls.outputs) != len(model.layers) or sorted(recording.seen) != list(range(len(model.layers))):
        raise CrossflowError(
            f"{model.settings.path}: expected one attention call in each of {len(model.layers)} decoder layers, saw "
            f"{len(recording.seen)}; the model can not be knocked out."
        )
    layers = [
        LayerRecord(hidden, arguments, *recording.seen[index], followed)
        for index, (hidden, arguments, followed) in enumerate(
            zip(calls.hidden, calls.arguments, calls.followed(), strict=True)
        )
    ]
    return CleanRun(prepared, first, layers, reading)


def run_clean_together(model: MultimodalModel, prompts: Sequence[Prepared], firsts: Sequence[int]) -> list[CleanRun]:
    """`run_clean` for several questions, whose images are encoded in one call of the vision tower.

    Args:
        model: The model.
        prompts: The questions.
        firsts: For each question, the first position that any knockout changes.
    """
    encoded = encode_together(model, prompts)
    return [
        run_clean(model, prompt, first, inputs) for prompt, first, inputs in zip(prompts, firsts, encoded, strict=True)
    ]


class Blocking:
    """A full forward in which targets may not attend to sources, in the layers of a window.

    Attributes:
        edges: The blocked edges.
        window: The layers in which they are blocked; None = every layer.
        beyond: Whether positions generated after the prompt are targets, too.
    """

    def __init__(self, edges: Iterable[Edges], window: Window | None = None, beyond: bool = False) -> None:
        self.edges = tuple(pair for pair in edges if len(pair.sources))
        self.window = window
        self.beyond = beyond

    def attend(self, call: Call) -> Tensor:
        if not self.edges or (self.window is not None and call.layer not in self.window):
            return Plain().attend(call)
        visible = call.visible().clone()
        queries, keys = visible.shape
        first = keys - queries
        for sources, every in self.edges:
            targets = every[(every >= first) & (every < keys)] - first
            if self.beyond and first:
                # After the prompt: with a cache, every query is a generated position.
                targets = np.arange(queries)
            visible[torch.from_numpy(targets)[:, None], torch.from_numpy(sources)] = False
        require_legal_keys(visible.any(-1))
        return attend(call.query, call.key, call.value, visible[None], call.scaling)


def require_legal_keys(legal: Bool[Tensor, "..."]) -> None:
    """Refuse a knockout that leaves a position without a key: the softmax over no key is undefined.

    Args:
        legal: For each query, whether it has a visible key.

    Raises:
        CrossflowError: some query has none.
    """
    if not bool(legal.all()):
        raise CrossflowError(
            "A knockout leaves a position with no key to attend to; choose a flow whose source leaves its target one."
        )


def image_removed(prepared: Prepared) -> Blocking:
    """Hide the visual tokens from every other position, in every layer; positions stay as they are."""
    positions = prepared.positions
    others = np.setdiff1d(np.arange(positions.length), positions["image"])
    return Blocking([Edges(positions["image"], others)], beyond=True)

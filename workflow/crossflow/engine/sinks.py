"""Sinks: positions that draw attention whatever the question.

A few dimensions of the residual stream hold *massive activations* at few positions, the first among them, and
attention gathers there. With ``phi_d(x) = |x_d| / RMS(x)`` of a hidden state x, the *sink dimensions* of a model are
those with ``phi_d >= THRESHOLD`` at the prompt's first position, and a sink is a position with ``phi_d >= THRESHOLD``
in one of them. The first position attends to itself alone, so the dimensions are the same in all prompts that begin
with the same token; visual tokens precede the question, so they are sinks whatever it asks.

States are those after the middle layer: massive activations appear after the first layers and last until the last ones
(M. Sun et al., Massive Activations in Large Language Models, COLM 2024, arXiv 2402.17762).
``phi`` is at most the square root of the width, so that a model narrower than ``THRESHOLD ** 2`` has no sinks.

Source: S. Kang et al., See What You Are Told: Visual Attention Sink in Large Multimodal Models (ICLR 2025,
arXiv 2503.03321), who take the dimensions from the language model's BOS token and apply the rule in every layer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossflow.engine.encoding import encode_together
from crossflow.engine.packed import Apart, Packing, feed, run_packed
from crossflow.models.model import MultimodalModel, Prepared

THRESHOLD = 20.0
"""The least ``phi`` of a sink, as published."""


class Sinks(NamedTuple):
    """The sinks of one prompt.

    Attributes:
        dimensions: The model's sink dimensions; if there are none, the model has no sinks by this rule.
        positions: The sinks, ascending.
    """

    dimensions: Int[np.ndarray, " dimensions"]
    positions: Int[np.ndarray, " sinks"]


def middle_layer(layers: int) -> int:
    """Number of decoder layers before the states that sinks are read off."""
    return (layers + 1) // 2


def middle_states(model: MultimodalModel, prompts: Sequence[Prepared]) -> list[Float[Tensor, "positions width"]]:
    """The hidden states of some prompts after the middle layer, in one forward that ends there."""
    feeds = [feed(model, inputs) for inputs in encode_together(model, prompts)]
    packing = Packing(feeds)

    def enter(layer: int, hidden: Tensor | None) -> tuple[Tensor | None, None]:
        return packing.added(0, None) if hidden is None else hidden, None

    hidden = run_packed(model, packing, Apart(feeds), enter, middle_layer(len(model.layers)))
    assert hidden is not None
    return list(torch.split(hidden[0], [each.length for each in feeds]))


def sinks_in(states: Float[Tensor, "positions width"]) -> Sinks:
    """The sinks among the positions of a prompt, from their hidden states."""
    states = states.float()
    phi = states.abs() / states.square().mean(dim=1, keepdim=True).sqrt()
    dimensions = torch.nonzero(phi[0] >= THRESHOLD)[:, 0]
    found = torch.nonzero((phi[:, dimensions] >= THRESHOLD).any(dim=1))[:, 0]
    return Sinks(dimensions.cpu().numpy(), found.cpu().numpy())


def find_sinks(model: MultimodalModel, prompts: Sequence[Prepared]) -> list[Sinks]:
    """The sinks of some prompts, which run together."""
    if not prompts:
        return []
    with torch.inference_mode():
        return [sinks_in(states) for states in middle_states(model, prompts)]

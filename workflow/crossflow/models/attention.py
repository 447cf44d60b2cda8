"""The one attention function that clean runs and knockouts share.

It is registered with transformers under the name ``crossflow``, and a model loaded by this project uses it in
every decoder layer. The *mode* that is active in the current context (`using`) decides what happens to a layer's
queries, keys and values: plain attention, recording them, blocking edges in a full forward, or computing a batch of
suffixes from a recorded prefix. The mode ends with its ``with`` block, so an exception cannot leave a model knocked
out. (The mode is a context variable because ``generate`` refuses extra arguments.)

A layer's mask is always the one that the model requested, built by transformers' own `sdpa_mask`; this module only
selects rows of it and removes edges.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from crossflow.core.errors import CrossflowError

NAME = "crossflow"


@runtime_checkable
class Mode(Protocol):
    """What the attention function does while the mode is active."""

    def attend(self, call: "Call") -> Float[Tensor, "rows heads queries width"]:
        """Compute the attention output of one layer's call."""
        ...


class Call:
    """One layer's attention call.

    Attributes:
        layer: Index of the decoder layer.
        query: ``(rows, heads, queries, width)``.
        key, value: ``(rows, kv_heads, keys, width)``; fewer heads than the query's when they are grouped.
        mask: The model's own boolean mask ``(1, 1, queries, keys)``, True where attention is allowed; None = causal.
        scaling: Factor of the scores.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float,
    ) -> None:
        self.module = module
        self.layer: int = getattr(module, "layer_idx", -1)
        self.query = query
        self.key = key
        self.value = value
        self.mask = mask
        self.scaling = scaling

    def without_queries(self) -> "Call":
        """The same call with queries that hold no number."""
        empty = self.query.new_empty(0).expand(*self.query.shape[:-1], 0)
        return Call(self.module, empty, self.key, self.value, self.mask, self.scaling)

    @property
    def is_causal(self) -> bool:
        """Whether the model requests plain causal attention, with as many queries as keys."""
        square = self.query.shape[-2] == self.key.shape[-2]
        return self.mask is None and square and getattr(self.module, "is_causal", True)

    def visible(self) -> Bool[Tensor, "queries keys"]:
        """The edges that the model allows, from its own mask (None = causal; the queries are the last keys)."""
        if self.mask is not None:
            return edges_allowed(self.mask, self.layer)
        queries, keys = self.query.shape[-2], self.key.shape[-2]
        if not getattr(self.module, "is_causal", True):
            return torch.ones(queries, keys, dtype=torch.bool, device=self.query.device)
        return torch.ones(queries, keys, dtype=torch.bool, device=self.query.device).tril(keys - queries)


def edges_allowed(mask: Tensor, layer: int) -> Bool[Tensor, "queries keys"]:
    """The edges that a mask allows.

    Args:
        mask: The mask that a layer requests for one prompt.
        layer: The layer.

    Raises:
        CrossflowError: it is not one boolean mask for all heads.
    """
    if mask.dtype != torch.bool or mask.shape[:2] != (1, 1):
        raise CrossflowError(
            f"Layer {layer} requests an attention mask of shape {tuple(mask.shape)} and type {mask.dtype}; a boolean "
            "mask common to all heads was expected."
        )
    return mask[0, 0]


class Plain:
    """The model's own attention: no knockout, nothing recorded."""

    def attend(self, call: Call) -> Tensor:
        visible = None if call.is_causal else call.visible()[None]
        return attend(call.query, call.key, call.value, visible, call.scaling, call.is_causal)


_PLAIN = Plain()
_MODE: ContextVar[Mode | None] = ContextVar("crossflow_attention", default=None)


@contextmanager
def using(mode: Mode) -> Iterator[None]:
    """Activate ``mode`` inside the ``with`` block."""
    token = _MODE.set(mode)
    try:
        yield
    finally:
        _MODE.reset(token)


def attend(
    query: Float[Tensor, "rows heads queries width"],
    key: Float[Tensor, "rows kv_heads keys width"],
    value: Float[Tensor, "rows kv_heads keys width"],
    visible: Bool[Tensor, "any_rows queries keys"] | None,
    scaling: float,
    causal: bool = False,
) -> Float[Tensor, "rows heads queries width"]:
    """Softmax attention with PyTorch's fused kernels; edges that are not visible get exactly weight 0.

    Args:
        query: Grouped heads are consecutive, as in transformers' ``repeat_kv``.
        key, value: With as many heads, or fewer if they are grouped.
        visible: True where attention is allowed, one row for all or for each; None = everywhere, or causal.
        scaling: Factor of the scores.
        causal: Without a mask: whether a query sees only the keys up to its own, as many as there are queries.
    """
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if visible is None else visible[:, None],
        is_causal=causal,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _attention_function(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface: heads are axis 1 of the inputs, axis 2 of the output; returns no weights."""
    if dropout:
        raise CrossflowError("Attention dropout is active: call model.eval() before a knockout.")
    unknown = {name for name in ("softcap", "position_bias", "s_aux") if arguments.get(name) is not None}
    if unknown:
        raise CrossflowError(f"This model's attention uses {', '.join(sorted(unknown))}, which is not supported.")
    call = Call(module, query, key, value, attention_mask, query.shape[-1] ** -0.5 if scaling is None else scaling)
    mixed = (_MODE.get() or _PLAIN).attend(call)
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attention_function)
AttentionMaskInterface.register(NAME, sdpa_mask)

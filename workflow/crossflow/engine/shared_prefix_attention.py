"""Attention of many rows to a shared prefix and to their own suffixes.

The prefix is never copied, neither per row nor per head of a group: the queries of all rows attend to it in one call.
Attention to each row's own keys is computed separately, and the two results are merged by their log-sum-exps, which
equals one softmax over both (M. Milakov and N. Gimelshein, 2018; PyTorch's own context parallelism merges its blocks
in the same way).

PyTorch's fused kernels return the log-sum-exp, but only under private names, which may change between versions. So each
kernel is compared with plain matrix products on a small case before its first use, and not used if they differ.
"""

import logging
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

log = logging.getLogger(__name__)

# CUDA kernels read a bias in steps of 16 bytes.
_STEP = 8
_HALVES = (torch.float16, torch.bfloat16)


class Masks(NamedTuple):
    """What a suffix may attend to, in several variants; the first is the model's own mask.

    Attributes:
        prefix: Added to the scores of the prefix, 0 or -inf; ``keys`` are padded to a multiple of `_STEP`.
        own: Added to the scores of the suffix's own keys, padded likewise.
        no_prefix: Which queries see no key of the prefix; None if all see one.
        no_own: Which queries see none of their own keys; None if all see one.
        illegal: Whether some query sees no key at all.
        plain: Whether the first variant sees the whole prefix and is causal among its own keys.
    """

    prefix: Float[Tensor, "variants suffix prefix_keys"]
    own: Float[Tensor, "variants suffix own_keys"]
    no_prefix: Bool[Tensor, "variants suffix"] | None
    no_own: Bool[Tensor, "variants suffix"] | None
    illegal: Bool[np.ndarray, " variants"]
    plain: bool


def _bias(visible: Bool[Tensor, "variants suffix keys"], dtype: torch.dtype) -> Tensor:
    variants, suffix, keys = visible.shape
    bias = torch.zeros(variants, suffix, -(-keys // _STEP) * _STEP, dtype=dtype, device=visible.device)
    bias[..., :keys].masked_fill_(~visible, -torch.inf)
    return bias


def masks_of(
    visible: Bool[np.ndarray, "variants suffix positions"],
    start: int,
    dtype: torch.dtype,
    device: torch.device,
    plain: bool,
) -> Masks:
    """Masks for suffixes from position ``start`` on; the first variant is the model's own mask."""
    prefix, own = visible[..., :start], visible[..., start:]
    unseen = [~part.any(-1) for part in (prefix, own)]
    there = torch.from_numpy(visible).to(device)
    no_prefix, no_own = (
        ~seen.any(-1) if part.any() else None
        for seen, part in zip((there[..., :start], there[..., start:]), unseen, strict=True)
    )
    illegal = np.asarray((unseen[0] & unseen[1]).any(-1))
    return Masks(_bias(there[..., :start], dtype), _bias(there[..., start:], dtype), no_prefix, no_own, illegal, plain)


def _fused(
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch heads keys width"],
    value: Float[Tensor, "batch heads keys width"],
    bias: Float[Tensor, "any_batch 1 queries keys"] | None,
    causal: bool,
    scaling: float,
) -> tuple[Float[Tensor, "batch heads queries width"], Float[Tensor, "batch heads queries"]]:
    """Attention and its log-sum-exp; undefined for a query that sees no key."""
    work = _kernel if _is_sound(query.device, query.dtype, query.shape[-1]) else _by_products
    return work(query, key, value, bias, causal, scaling)


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, causal: bool, scaling: float
) -> tuple[Tensor, Tensor]:
    """As `_fused`, with a PyTorch kernel."""
    if query.device.type != "cpu":
        return _on_cuda(query, key, value, bias, causal, scaling)
    cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mixed, total = cpu(query, key, value, 0.0, causal, attn_mask=bias, scale=scaling)
    return mixed, total


def _on_cuda(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, causal: bool, scaling: float
) -> tuple[Tensor, Tensor]:
    """As `_fused`, on CUDA: flash attention takes no bias, no fp32 and no head wider than 256."""
    kernels = torch.ops.aten
    if bias is None and query.dtype in _HALVES and query.shape[-1] <= 256:
        mixed, total, *_ = kernels._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, scale=scaling)
    else:
        every = None if bias is None else bias.expand(*query.shape[:2], -1, -1)
        mixed, total, *_ = kernels._scaled_dot_product_efficient_attention(
            query, key, value, every, True, 0.0, causal, scale=scaling
        )
    return mixed, total[..., : query.shape[2]]


@cache
def _is_sound(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether a kernel agrees with plain fp64 products for a head width: causal, with a bias, and without either.

    Raises:
        torch.OutOfMemoryError: the device is full; nothing is known of the kernel then.
    """
    if device.type not in ("cpu", "cuda"):
        return False
    if device.type == "cuda" and (dtype == torch.float64 or width % _STEP):
        return False
    generator = torch.Generator().manual_seed(0)

    def normal(heads: int, length: int) -> Tensor:
        return torch.randn(1, heads, length, width, generator=generator).to(device, dtype)

    query, key, value = normal(2, 6), normal(2, 6), normal(2, 6)
    # The shapes of a group of heads at the prefix.
    shared_key, shared_value = (normal(1, 11).expand(-1, 2, -1, -1) for _ in range(2))
    hidden = torch.rand(1, 1, 6, 2 * _STEP, generator=generator) < 0.3
    hidden[..., 0] = False
    added = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf).to(device, dtype)[..., :11]
    cases: list[tuple[Tensor, Tensor, Tensor, Tensor | None, bool]] = [
        (query, key, value, None, True),
        (query, shared_key, shared_value, None, False),
        (query, shared_key, shared_value, added, False),
    ]
    tolerance = 0.05 if dtype in _HALVES else 1e-4
    try:
        for case in cases:
            bias = None if case[3] is None else case[3].double()
            exact = _by_products(case[0].double(), case[1].double(), case[2].double(), bias, case[4], width**-0.5)
            pairs = zip(_kernel(*case, width**-0.5), exact, strict=True)
            if not all(torch.allclose(ours.double(), plain, 0, tolerance) for ours, plain in pairs):
                raise RuntimeError("it gives other numbers")
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        log.warning("PyTorch's attention kernel for %s and %s is not used: %s", device.type, dtype, error)
        return False
    return True


def _by_products(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, causal: bool, scaling: float
) -> tuple[Tensor, Tensor]:
    """As `_fused`, with plain matrix products, for devices and types without a kernel."""
    scores = (query @ key.transpose(-1, -2)).mul_(scaling)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if bias is not None:
        scores = scores + bias
    if causal:
        scores.masked_fill_(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    total = torch.logsumexp(scores, dim=-1)
    return torch.exp(scores - total[..., None]).to(value.dtype) @ value, total


class Partial(NamedTuple):
    """Attention of some suffixes to their own keys and to the prefix, not yet merged.

    Attributes:
        own, shared: What each gives alone, ``(heads, tokens, width)``; ``shared`` is None without a prefix.
        own_total, total: Their log-sum-exps, ``(heads, tokens)``.
    """

    own: Tensor
    own_total: Tensor
    shared: Tensor | None
    total: Tensor | None


def by_head(heads: Bool[Tensor, "heads tokens"], knocked_out: Partial, plain: Partial) -> Partial:
    """One attention where ``heads`` is set, the other elsewhere."""
    own, shared = (
        None if one is None or other is None else torch.where(heads[..., None], one, other)
        for one, other in ((knocked_out.own, plain.own), (knocked_out.shared, plain.shared))
    )
    own_total, total = (
        None if one is None or other is None else torch.where(heads, one, other)
        for one, other in ((knocked_out.own_total, plain.own_total), (knocked_out.total, plain.total))
    )
    assert own is not None
    assert own_total is not None
    return Partial(own, own_total, shared, total)


def merged(partials: Sequence[Partial]) -> Float[Tensor, "heads tokens width"]:
    """The attention of suffixes side by side: both parts of each, weighted as one softmax over all keys would."""
    if any(each.shared is None for each in partials):
        pieces = [each.own if each.shared is None else _merged(each) for each in partials]
        return torch.cat(pieces, dim=1)
    # All at once: launches, and not numbers, are what small groups cost on a GPU.
    columns = zip(*partials, strict=True)
    return _merged(Partial(*(each[0] if len(partials) == 1 else torch.cat(each, dim=1) for each in columns)))


def _merged(partial: Partial) -> Tensor:
    assert partial.shared is not None
    assert partial.total is not None
    share = torch.sigmoid_(partial.own_total.sub_(partial.total))[..., None]
    dtype = partial.own.dtype
    return partial.shared.to(share.dtype).lerp_(partial.own.to(share.dtype), share).to(dtype)


def attend_split(
    query: Float[Tensor, "heads tokens width"],
    key: Float[Tensor, "kv_heads tokens width"],
    value: Float[Tensor, "kv_heads tokens width"],
    prefix_key: Float[Tensor, "kv_heads prefix width"],
    prefix_value: Float[Tensor, "kv_heads prefix width"],
    masks: Masks,
    variants: Int[Tensor, " rows"] | None,
    scaling: float,
) -> Partial:
    """Attention of concatenated suffixes, one per row, to a shared prefix and each to itself; `merged` joins the two.

    Args:
        query: All rows' queries; grouped heads are consecutive.
        key, value: All rows' own keys and values.
        prefix_key, prefix_value: Shared by all rows; may be empty.
        masks: What the rows may attend to.
        variants: The mask variant of each row; None = the first for all rows.
        scaling: Factor of the scores.
    """
    heads, tokens, width = query.shape
    kv_heads, start = prefix_key.shape[:2]
    group, suffix = heads // kv_heads, masks.own.shape[1]
    rows = tokens // suffix
    if variants is None and not masks.plain:
        variants = torch.zeros(rows, dtype=torch.long, device=query.device)

    def by_row(part: Tensor) -> Tensor:
        return part.view(len(part), rows, suffix, width).transpose(0, 1)

    def own_heads(part: Tensor) -> Tensor:
        return by_row(part) if group == 1 else by_row(part.repeat_interleave(group, dim=0))

    own_bias = None if variants is None else masks.own[variants][:, None, :, :suffix]
    own, own_total = _fused(by_row(query), own_heads(key), own_heads(value), own_bias, variants is None, scaling)
    own = own.transpose(0, 1).reshape(heads, tokens, width)
    own_total = own_total.transpose(0, 1).reshape(heads, tokens)
    if not start:
        return Partial(own, own_total, None, None)

    # Each key head, with the query heads of its group, is one batch entry.
    bias = None if variants is None else masks.prefix[variants].flatten(0, 1)[None, None, :, :start]
    grouped = query.reshape(kv_heads, group, tokens, width)
    shared_key, shared_value = (part[:, None].expand(-1, group, -1, -1) for part in (prefix_key, prefix_value))
    shared, total = _fused(grouped, shared_key, shared_value, bias, False, scaling)
    shared, total = shared.reshape(heads, tokens, width), total.reshape(heads, tokens)
    if variants is not None:
        # The kernels' output is arbitrary for a query that sees no key.
        for part, logarithm, unseen in ((shared, total, masks.no_prefix), (own, own_total, masks.no_own)):
            if unseen is not None:
                nothing = unseen[variants].flatten()
                part.masked_fill_(nothing[:, None], 0)
                logarithm.masked_fill_(nothing, -torch.inf)
    return Partial(own, own_total, shared, total)

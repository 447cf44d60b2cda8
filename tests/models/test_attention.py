"""The attention function: the same sums as the plain definition, and nothing through a blocked edge."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from crossflow.engine import shared_prefix_attention
from crossflow.engine.shared_prefix_attention import _by_products, _fused, _on_cuda, attend_split, masks_of, merged
from crossflow.models.attention import _MODE as ACTIVE
from crossflow.models.attention import attend, using


def _plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Softmax attention, head by head and query by query, in fp64."""
    rows, heads, queries, _ = query.shape
    group = heads // key.shape[1]
    mixed = torch.zeros(query.shape, dtype=torch.float64)
    for row in range(rows):
        for head in range(heads):
            for position in range(queries):
                allowed = visible[row, position]
                own_key, own_value = (part[row, head // group][allowed].double() for part in (key, value))
                scores = own_key @ query[row, head, position].double() * 0.5
                mixed[row, head, position] = torch.softmax(scores, 0) @ own_value
    return mixed


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "query": torch.randn(3, 4, 5, 8),
        "key": torch.randn(3, 4, 12, 8),
        "value": torch.randn(3, 4, 12, 8),
        "visible": (torch.rand(3, 5, 12) < 0.6) | torch.eye(12, dtype=torch.bool)[7:],
    }


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_follows_its_definition_for_full_grouped_and_single_heads(
    tensors: dict[str, torch.Tensor], kv_heads: int
) -> None:
    query, visible = tensors["query"], tensors["visible"]
    key, value = tensors["key"][:, :kv_heads], tensors["value"][:, :kv_heads]
    expected = _plain(query, key, value, visible)
    torch.testing.assert_close(attend(query, key, value, visible, 0.5).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_a_shared_prefix_equals_a_copied_one(kv_heads: int, start: int) -> None:
    torch.manual_seed(1)
    rows, suffix, positions = 3, 5, start + 5
    visible = (torch.rand(3, suffix, positions) < 0.6) | torch.eye(positions, dtype=torch.bool)[start:]
    visible[0] = torch.ones(suffix, positions, dtype=torch.bool).tril(start)
    if start:
        # A query that sees nothing of the prefix, and one that sees none of its own keys.
        visible[1, 0, :start] = False
        visible[2, 4, start:], visible[2, 4, 0] = False, True
    query = torch.randn(rows, 4, suffix, 8)
    prefix = torch.randn(2, 1, kv_heads, start, 8).expand(-1, rows, -1, -1, -1)
    own = torch.randn(2, rows, kv_heads, suffix, 8)
    key, value = torch.cat([prefix, own], dim=3)

    def one_after_another(part: torch.Tensor) -> torch.Tensor:
        return part.transpose(0, 1).flatten(1, 2)

    masks = masks_of(visible.numpy(), start, torch.float32, torch.device("cpu"), plain=True)
    for variants in (None, torch.tensor([2, 0, 1])):
        mixed = merged(
            [attend_split(*(one_after_another(part) for part in (query, *own)), *prefix[:, 0], masks, variants, 0.5)]
        )
        seen = visible[:1] if variants is None else visible[variants]
        expected = one_after_another(attend(query, key, value, seen, 0.5))
        torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_from_plain_products_is_that_of_the_kernel(tensors: dict[str, torch.Tensor], causal: bool) -> None:
    query, key, value = tensors["query"], tensors["key"][:, :, :5], tensors["value"][:, :, :5]
    bias = None if causal else torch.zeros(3, 1, 5, 5).masked_fill_(~tensors["visible"][:, None, :, 7:], -torch.inf)
    for ours, theirs in zip(
        _by_products(query, key, value, bias, causal, 0.5), _fused(query, key, value, bias, causal, 0.5), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_kernels_of_a_gpu_are_called_as_pytorch_declares_them(dtype: torch.dtype) -> None:
    # Shapes alone, by PyTorch's declarations for tensors without data.
    query, key = (torch.empty(2, 4, length, 16, dtype=dtype, device="meta") for length in (5, 13))
    for bias in (None, torch.empty(1, 1, 5, 16, dtype=dtype, device="meta")[..., :13]):
        mixed, total = _on_cuda(query, key, key, bias, False, 0.5)
        assert mixed.shape == query.shape
        assert total.shape == query.shape[:3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [8, 20, 128])
def test_the_kernel_of_this_machine_is_sound(dtype: torch.dtype, width: int) -> None:
    assert shared_prefix_attention._is_sound.__wrapped__(torch.device("cpu"), dtype, width)


def _with_other_sums(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    mixed, total = _by_products(*arguments)
    return mixed, total / math.log(2)


def _with_other_arguments(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    raise TypeError("it takes no scale any more")


@pytest.mark.parametrize("kernel", [_with_other_sums, _with_other_arguments])
def test_a_kernel_that_has_changed_is_left_alone(
    tensors: dict[str, torch.Tensor],
    kernel: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    query, key = tensors["query"], tensors["key"]
    expected = _fused(query, key, key, None, False, 0.5)
    monkeypatch.setattr(shared_prefix_attention, "_kernel", kernel)
    shared_prefix_attention._is_sound.cache_clear()
    try:
        found = _fused(query, key, key, None, False, 0.5)
    finally:
        shared_prefix_attention._is_sound.cache_clear()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert "kernel for cpu and torch.float32 is not used: it " in caplog.text


def test_nothing_flows_through_a_blocked_edge(tensors: dict[str, torch.Tensor]) -> None:
    query, visible, key = tensors["query"], tensors["visible"], tensors["key"]
    ones = attend(query, key, torch.ones_like(tensors["value"]), visible, 0.5)
    # A weight that is not exactly 0 would show beside values of this size.
    huge = torch.ones_like(tensors["value"])
    for row in range(3):
        for position in range(5):
            value = huge.clone()
            value[row, :, ~visible[row, position]] = 1e30
            mixed = attend(query, key, value, visible, 0.5)
            assert torch.equal(mixed[row, :, position], ones[row, :, position])


def test_a_mode_ends_with_its_block_even_after_an_exception() -> None:
    class Broken:
        def attend(self, call: object) -> torch.Tensor:
            raise ValueError

    with pytest.raises(ZeroDivisionError), using(Broken()):
        assert isinstance(ACTIVE.get(), Broken)
        raise ZeroDivisionError
    assert ACTIVE.get() is None

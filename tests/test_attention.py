"""The attention function: the same sums as the plain definition, and nothing through a blocked edge."""

import pytest
import torch

from crossflow.attention import _MODE as ACTIVE
from crossflow.attention import attend, using


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


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_a_shared_prefix_equals_a_copied_one(tensors: dict[str, torch.Tensor], kv_heads: int) -> None:
    query, visible = tensors["query"], tensors["visible"]
    key, value = tensors["key"][:, :kv_heads].clone(), tensors["value"][:, :kv_heads].clone()
    key[:, :, :7], value[:, :, :7] = key[:1, :, :7], value[:1, :, :7]
    shared = attend(query, key[:, :, 7:], value[:, :, 7:], visible, 0.5, (key[:1, :, :7], value[:1, :, :7]))
    torch.testing.assert_close(shared, attend(query, key, value, visible, 0.5), rtol=1e-5, atol=1e-6)


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

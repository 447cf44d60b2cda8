"""Windows, edges and flow names."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossflow.errors import CrossflowError
from crossflow.flows import PUBLISHED_FLOWS, Window, count_edges, parse_flow, rows_of, window_at


@pytest.mark.parametrize(
    ("centre", "width", "layers", "expected"),
    [
        (5, 1, 32, Window(5, 5)),
        (5, 3, 32, Window(4, 6)),
        (5, 4, 32, Window(3, 6)),  # even: one more layer below
        (5, 9, 32, Window(1, 9)),
        (0, 9, 32, Window(0, 4)),  # truncated, not shifted
        (31, 9, 32, Window(27, 31)),
        (0, 2, 8, Window(0, 0)),
    ],
)
def test_windows_are_the_published_ones(centre: int, width: int, layers: int, expected: Window) -> None:
    assert window_at(centre, width, layers) == expected


@given(st.integers(1, 60), st.data())
def test_a_window_holds_its_centre_and_at_most_its_width(layers: int, data: st.DataObject) -> None:
    centre = data.draw(st.integers(0, layers - 1))
    width = data.draw(st.integers(1, layers))
    window = window_at(centre, width, layers)
    assert centre in window
    assert 0 <= window.first <= window.last < layers
    # The published expression, term by term.
    published = range(max(0, centre - width // 2), min(layers, centre + -(-width // 2)))
    assert list(range(window.first, window.last + 1)) == list(published)


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_edges_are_counted_as_pairs_with_the_source_not_after_the_target(sources: set[int], targets: set[int]) -> None:
    pairs = sum(source <= target for source in sources for target in targets)
    ascending = [np.array(sorted(positions), dtype=np.int64) for positions in (sources, targets)]
    assert count_edges(*ascending) == pairs


def test_the_published_flows_are_known() -> None:
    assert [parse_flow(name).name for name in PUBLISHED_FLOWS] == list(PUBLISHED_FLOWS)


@pytest.mark.parametrize("name", ["image-last", "image->", "picture->last", "image->question->last", "Image->Last"])
def test_a_flow_that_does_not_exist_is_refused_by_name(name: str) -> None:
    with pytest.raises(CrossflowError, match="Flow"):
        parse_flow(name)


def test_a_flow_has_one_row_per_layer() -> None:
    rows = list(rows_of("image->last", np.arange(3), np.array([9]), 3, 8))
    assert [row.layer for row in rows] == list(range(8))
    assert rows[0].window == Window(0, 1)
    assert rows[-1].window == Window(6, 7)

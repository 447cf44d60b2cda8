"""What flows and their controls block in a prompt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossflow.core.flows import SET_NAMES, Window, parse_flow
from crossflow.core.records import Box
from crossflow.data.boxes import moved_boxes
from crossflow.engine.edges import Edges, blocked, count_edges, edges_of, rows_of
from crossflow.models.positions import Positions

# system 0-4 | image 5-24 | separator 25 | question 26-31 | instruction 32-36 | last 37
CUTS = {"system": (0, 5), "image": (5, 25), "separator": (25, 26), "question": (26, 32), "instruction": (32, 37)}
LENGTH = 38


def _positions(related: tuple[int, ...] = (8, 9, 10), moved: tuple[int, ...] = (20, 21)) -> Positions:
    sets = {name: np.arange(0) for name in SET_NAMES} | {name: np.arange(*cut) for name, cut in CUTS.items()}
    sets |= {"last": np.array([37]), "all": np.arange(25, LENGTH), "padding": np.array([5, 6])}
    sets["related"] = np.array(related, dtype=int)
    sets["other"] = np.setdiff1d(sets["image"], sets["related"])
    return Positions(LENGTH, sets, np.array(moved, dtype=int))


def _edges(name: str, positions: Positions | None = None, seed: int = 0, question: str = "1") -> tuple[Edges, ...]:
    return edges_of(parse_flow(name), positions or _positions(), seed, question)


@given(st.lists(st.tuples(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40))), max_size=3))
def test_edges_are_counted_once_and_with_the_source_not_after_the_target(
    rectangles: list[tuple[set[int], set[int]]],
) -> None:
    pairs = {
        (source, target) for sources, targets in rectangles for source in sources for target in targets
        if source <= target
    }  # fmt: skip
    edges = [Edges(*(np.array(sorted(members), dtype=np.int64) for members in pair)) for pair in rectangles]
    assert count_edges(edges) == len(pairs)


def test_a_flow_has_one_row_per_layer() -> None:
    rows = list(rows_of("image->last", _edges("image->last"), "3", 8))
    assert [row.layer for row in rows] == list(range(8))
    assert rows[0].window == Window(0, 1)
    assert rows[-1].window == Window(6, 7)
    assert {row.start for row in rows} == {37}
    assert [row.layer for row in rows_of("image->last", _edges("image->last"), "top", 8, range(0, 8, 3))] == [0, 3, 6]


def test_a_flow_blocks_its_sets() -> None:
    (edges,) = _edges("image->question")
    assert edges.sources.tolist() == list(range(5, 25))
    assert edges.targets.tolist() == list(range(26, 32))


def test_a_source_may_be_an_intersection_of_sets() -> None:
    positions = _positions()
    positions.sets["grid"] = np.arange(9, 20)  # type: ignore[index]
    (edges,) = _edges("related&grid->question", positions)
    assert edges.sources.tolist() == [9, 10]
    assert _edges("other&grid->question", positions)[0].sources.tolist() == list(range(11, 20))
    assert _edges("related&base->question", positions) == (), "an empty intersection is missing"
    (random,) = _edges("related&grid~random1->question", positions)
    assert len(random.sources) == 2
    assert set(random.sources) <= set(range(7, 25)) - {9, 10}, "from the rest of the un-padded image"


def test_flows_are_blocked_together() -> None:
    together = _edges("image->question+image->last")
    pairs = blocked(together, 0, LENGTH)
    one, other = (blocked(_edges(name), 0, LENGTH) for name in ("image->question", "image->last"))
    assert (pairs == one | other).all()
    assert rows_of("both", together, "1", 3).__next__().start == 26


def test_one_path_is_kept() -> None:
    pairs = blocked(_edges("only:image->question->last"), 0, LENGTH)
    image, question, instruction = (np.arange(*CUTS[name]) for name in ("image", "question", "instruction"))
    assert not pairs[np.ix_(question, image)].any()
    for closed in ([25], instruction, [37]):
        assert pairs[np.ix_(closed, image)].all()
    assert pairs[np.ix_(instruction, question)].all()
    assert not pairs[37, question].any()
    assert not pairs[np.ix_(question, question)].any()


@pytest.mark.parametrize("name", ["related->question", "image->last+related->question", "only:related->question"])
def test_a_flow_without_a_source_is_missing(name: str) -> None:
    assert _edges(name, _positions(related=())) == ()
    assert _edges(name)


@given(st.integers(0, 1000), st.sampled_from(["related", "question", "other", "system", "last"]))
def test_a_random_source_is_as_large_and_apart_and_blocks_as_many_edges(seed: int, source: str) -> None:
    positions = _positions()
    (control,) = _edges(f"{source}~random1->last", positions, seed)
    assert len(control.sources) == len(np.unique(control.sources)) == len(positions[source])
    assert not np.intersect1d(control.sources, positions[source]).size
    assert control.sources.max() < 37
    assert count_edges([control]) == count_edges(_edges(f"{source}->last", positions))


def test_random_sources_of_patches_come_from_the_rest_of_the_unpadded_image() -> None:
    drawn = {
        int(position) for seed in range(200) for position in _edges("related~random1->question", seed=seed)[0].sources
    }
    assert drawn == set(range(7, 25)) - {8, 9, 10}


def test_random_sources_differ_by_draw_and_question_and_are_the_same_again() -> None:
    def sources(name: str, question: str, seed: int = 0) -> list[int]:
        return _edges(name, seed=seed, question=question)[0].sources.tolist()

    first = sources("question~random1->last", "1")
    assert sources("question~random1->last", "1") == first
    assert sources("question~random2->last", "1") != first
    assert sources("question~random1->last", "2") != first
    assert sources("question~random1->last", "1", seed=1) != first


def test_a_source_larger_than_all_the_rest_has_no_random_control() -> None:
    assert _edges("image~random1->question") == ()


def test_moved_patches_stand_for_the_related_ones() -> None:
    (edges,) = _edges("related~moved->question")
    assert edges.sources.tolist() == [20, 21]
    assert _edges("related~moved->question", _positions(moved=())) == ()


boxes = st.builds(Box, st.integers(-5, 90), st.integers(-5, 90), st.integers(1, 60), st.integers(1, 60))


@given(st.lists(boxes, max_size=3), st.integers(0, 100))
def test_moved_boxes_keep_their_size_inside_the_image_and_touch_no_box(found: list[Box], seed: int) -> None:
    moved = moved_boxes(found, (100, 80), seed)
    assert len(moved) in (0, len(found))
    assert moved == moved_boxes(found, (100, 80), seed)
    canvas = np.zeros((300, 300), dtype=bool)
    for box in found:
        canvas[100 + box.y : 100 + box.y + box.h + 1, 100 + box.x : 100 + box.x + box.w + 1] = True
    for old, new in zip(found, moved, strict=False):
        assert (new.w, new.h) == (old.w, old.h)
        assert new.x >= 0
        assert new.y >= 0
        assert new.x + new.w <= 100
        assert new.y + new.h <= 80
        assert not canvas[100 + new.y : 100 + new.y + new.h + 1, 100 + new.x : 100 + new.x + new.w + 1].any()


def test_a_box_that_fills_the_image_can_not_be_moved() -> None:
    assert moved_boxes([Box(0, 0, 90, 70)], (100, 80), 0) == []
    assert moved_boxes([Box(0, 0, 20, 20)], (100, 80), 0) != []


def test_what_follows_the_prompt_shares_the_last_positions_edges() -> None:
    (edges,) = _edges("image->last")
    longer = edges.extended_by(37, 2)
    assert longer.targets.tolist() == [37, 38, 39]
    assert longer.sources.tolist() == edges.sources.tolist()
    (own,) = _edges("last->last")
    assert own.extended_by(37, 2).sources.tolist() == [37, 38, 39]
    (question,) = _edges("image->question")
    assert question.extended_by(37, 2).targets.tolist() == question.targets.tolist()

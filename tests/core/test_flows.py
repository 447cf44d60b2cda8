"""Windows and flow names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import (
    CONTROL_FLOWS,
    PUBLISHED_FLOWS,
    Part,
    Window,
    blocking_of,
    controls_of,
    parse_flow,
    silences,
    substitute_of,
    window_at,
    window_named,
    with_controls,
)


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


def test_windows_go_from_the_bottom_and_to_the_top() -> None:
    assert window_named("bottom", 5, 32) == Window(0, 5)
    assert window_named("top", 5, 32) == Window(5, 31)
    assert window_named("9", 5, 32) == window_at(5, 9, 32)


@pytest.mark.parametrize("name", [*PUBLISHED_FLOWS, *CONTROL_FLOWS])
def test_the_published_flows_and_those_of_controls_are_known(name: str) -> None:
    assert parse_flow(name).name == name


def test_flows_are_read_into_parts() -> None:
    assert parse_flow("image->last").parts == (Part("image", None, "last"),)
    assert parse_flow("related~random12->question").parts == (Part("related", "random12", "question"),)
    assert parse_flow("image->last+image~random1->all").parts == (
        Part("image", None, "last"),
        Part("image", "random1", "all"),
    )
    assert parse_flow("only:image->question->last").parts == (
        Part("image", None, "all", ("image", "question")),
        Part("question", None, "all", ("question", "last")),
    )
    assert parse_flow("image=swapped->question").parts == (Part("image", None, "question", substitute="swapped"),)
    assert parse_flow("related=mean~random1->all").parts == (Part("related", "random1", "all", substitute="mean"),)
    assert parse_flow("question->last+image=swapped->all").substitute == "swapped"
    assert parse_flow("question->last").substitute is None
    assert parse_flow("attn:last+image->question").parts == (
        Part("last", None, "last", module="attn"),
        Part("image", None, "question"),
    )
    assert parse_flow("mlp=mean:question").parts == (
        Part("question", None, "question", substitute="mean", module="mlp"),
    )
    # No donor of keys and values, but a mean output.
    assert parse_flow("mlp=mean:question").substitute is None
    assert parse_flow("mlp=mean:question+attn:last").module_means == [("mlp", "question")]
    assert parse_flow("related~moved->question").is_moved
    assert not parse_flow("related->question").is_moved
    assert parse_flow("image->last+image_without_sinks=mean~random1->question").needs_sinks
    assert parse_flow("only:question->text_sinks->last").needs_sinks
    assert not parse_flow("only:image->question->last").needs_sinks


@pytest.mark.parametrize(
    "name",
    [
        "image-last",
        "image->",
        "picture->last",
        "image->question->last",
        "Image->Last",
        "only:image",
        "only:image->picture",
        "only:image~random1->question",
        "image~random0->last",
        "image~random->last",
        "image~moved->last",
        "image->last+",
        "image=other->last",
        "image~random1=swapped->last",
        "question=mean->last",
        "text_sinks=mean->last",
        "image=swapped->question+image=mean->last",
        "only:image=swapped->question",
        "attn:picture",
        "attn:",
        "mixer:last",
        "mlp=swapped:last",
        "attn~random1:last",
        "attn:question->last",
        "",
    ],
)
def test_a_flow_that_does_not_exist_is_refused_by_name(name: str) -> None:
    with pytest.raises(CrossflowError, match="Flow"):
        parse_flow(name)


def test_controls_are_draws_and_moved_boxes_of_plain_flows() -> None:
    assert controls_of("image->last", 2) == ["image~random1->last", "image~random2->last"]
    assert controls_of("related->question", 1) == ["related~random1->question", "related~moved->question"]
    assert controls_of("related=mean->question", 1) == [
        "related=mean~random1->question",
        "related=mean~moved->question",
    ]


def test_a_substitution_knows_the_knockout_of_its_edges() -> None:
    for flow in ("image=swapped->question", "related=mean~random->all", "question->last+image=mean->all"):
        assert substitute_of(flow) in ("swapped", "mean")
        assert blocking_of(flow) == flow.replace("=swapped", "").replace("=mean", "")
    assert substitute_of("related~random1->question") is None
    assert blocking_of("related~random1->question") == "related~random1->question"
    for flow in ("only:image->question", "image->last+image->question", "image~random1->last", "attn:last"):
        assert controls_of(flow, 3) == []


def test_a_module_knockout_by_the_mean_is_shown_beside_the_one_by_zero() -> None:
    assert substitute_of("attn=mean:question") == "mean"
    assert blocking_of("attn=mean:question") == "attn:question"
    assert silences("attn=mean:question+mlp:last")
    for flow in ("attn:question+image->last", "related~random->question", "image=mean->question"):
        assert not silences(flow)


def test_a_study_has_each_flow_once() -> None:
    added = with_controls(["image->last", "system->last"], 1, ["system->last", "image->all", "image->all"])
    assert added == ["image~random1->last", "system~random1->last", "image->all"]

"""One flow, one look: in every figure, the examples, the explorer and a trace."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from crossflow.core.flows import BASIC_SETS, CONTROL_FLOWS, PUBLISHED_FLOWS, SET_NAMES
from crossflow.experiments.trace import own_question
from crossflow.figures import examples, explorer, trace
from crossflow.figures.panels import Line, Panel, draw_panels
from crossflow.figures.style import CONTROLS, LOOKS, arrow, look_of, own_settings

FLOWS = [*PUBLISHED_FLOWS, *CONTROL_FLOWS, "options->last", "image=swapped->question", "image=mean->question"]


def _drawn(figure: Figure) -> dict[str, str]:
    """Flow, as it is printed -> the colour of its line."""
    lines = [line for axes in figure.axes for line in axes.get_lines()] + list(figure.legends[0].get_lines())
    return {str(line.get_label()): to_hex(line.get_color()) for line in lines if "→" in str(line.get_label())}


def _curves(order: int) -> Figure:
    flat = np.zeros(4)
    return draw_panels([Panel("any", [Line(flow, 3, flat, flat, flat) for flow in FLOWS[::order]], 3, 0, 0)], "")


def _example(order: int) -> Figure:
    curves = {flow: (range(4), np.zeros(4)) for flow in FLOWS[::order]}
    question, image = own_question("Why?", []), Image.new("RGB", (8, 8))
    return examples.draw_examples([examples.Example("", question, "", 0.5, image, None, curves)], "")


def _trace(order: int) -> Figure:
    cells = [{"flow": flow, "layer": layer, "change_percent": 0.0} for flow in FLOWS[::order] for layer in range(4)]
    return trace.draw_curves(pd.DataFrame(cells), Image.new("RGB", (8, 8)), [], "Why?", "")


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("draw", [_curves, _example, _trace])
def test_a_flow_has_its_colour_in_every_figure_whatever_else_is_shown(draw, order: int) -> None:  # type: ignore[no-untyped-def]
    with own_settings():
        drawn = _drawn(draw(order))
    assert drawn == {arrow(flow): look_of(flow).colour.lower() for flow in FLOWS}


def test_the_explorer_has_the_same_colours_and_tells_controls_by_their_line() -> None:
    flows = [*FLOWS, "image~random->question", "related~moved->question"]
    looks = explorer.looks(flows)
    assert {flow: look["colour"] for flow, look in looks.items()} == {flow: look_of(flow).colour for flow in flows}
    for control, flow in (
        ("image~random->question", "image->question"),
        ("related~moved->question", "related->question"),
    ):
        assert looks[control]["colour"] == looks[flow]["colour"]
        assert looks[control]["dash"] != looks[flow]["dash"]


def test_no_two_flows_of_the_studies_look_alike_and_none_looks_like_a_control() -> None:
    flows = [*PUBLISHED_FLOWS, *CONTROL_FLOWS]
    assert set(flows) <= LOOKS.keys()
    for one, other in combinations(flows, 2):
        assert look_of(one) != look_of(other), (one, other)
    colours = [look_of(flow).colour for flow in PUBLISHED_FLOWS]
    assert len(set(colours)) == len(colours), "they stand in one panel of a trace"
    assert not {look_of(flow).dash for flow in flows} & {dash for dash, _ in CONTROLS.values()}


def test_a_flow_outside_the_table_is_never_taken_for_one_in_it() -> None:
    flows = [f"{source}->{target}" for source in SET_NAMES for target in BASIC_SETS[3:]]
    named = {LOOKS[flow] for flow in LOOKS if "->" in flow}
    assert not {look_of(flow) for flow in flows if flow not in LOOKS} & named
    sums = ["related->question+other->question", "only:question->last", "image->last+question->last"]
    assert not {look_of(flow) for flow in sums} & named


def test_an_intersection_has_the_colour_of_its_first_set_and_a_dash_of_its_own() -> None:
    for first in ("related", "other"):
        looks = [look_of(f"{first}{other}->question") for other in ("", "&base", "&grid")]
        assert len({(look.colour, look.marker) for look in looks}) == 1
        assert len({look.dash for look in looks}) == 3

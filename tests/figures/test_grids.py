"""Figures of many panels, and single questions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from crossflow.analysis.curves import Knockouts
from crossflow.analysis.effects import summarise
from crossflow.analysis.tables import BANDS
from crossflow.core.errors import CrossflowError
from crossflow.core.flows import CONTROL_FLOWS, PUBLISHED_FLOWS
from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.figures import grids, style
from crossflow.figures.examples import Example, choose_examples, draw_examples
from crossflow.figures.kinds import figures_of
from made_up import bump, knockout_table, nothing
from planned_study import planned

CATEGORIES = ("ChooseAttr", "QueryAttr")
FLOWS = {
    **{flow: bump(5 + number, 10.0 + 10 * number) for number, flow in enumerate(PUBLISHED_FLOWS)},
    "related~random1->question": nothing,
    "related~moved->question": nothing,
    **dict.fromkeys(CONTROL_FLOWS, bump(3, 5)),
}
STRIDE = {flow: 2 for flow in FLOWS if flow not in PUBLISHED_FLOWS}


def _rows(model: str = "mini", window: str = "3", layers: int = 12) -> list[dict[str, Any]]:
    rows = []
    for number, category in enumerate(CATEGORIES):
        table = knockout_table(
            FLOWS, layers=layers, images=8, seed=number, category=category, model=model, stride=STRIDE
        )
        rows += [row for row in summarise(table._replace(window=window), {}, 0) if row["measure"] == "change_percent"]
    return rows


def _bands(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [row | {"low": row["band_low"], "high": row["band_high"]} for row in rows]
    return [{name: row[name] for name in BANDS} for row in found]


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]


def _is_inside_and_readable(figure: Figure) -> None:
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()  # inches
    width, height = figure.get_size_inches()
    assert drawn.x0 >= -0.01
    assert drawn.y0 >= -0.01
    assert drawn.x1 <= width + 0.01
    assert drawn.y1 <= height + 0.01
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip()) >= 6.9


@pytest.mark.parametrize("layers", [8, 32, 40])
def test_the_overview_has_a_row_per_category_and_all_flows(layers: int) -> None:
    rows = _rows(layers=layers)
    with style.own_settings():
        figure = grids.overview(rows, _bands(rows), "mini", "3", CATEGORIES)
        _is_inside_and_readable(figure)
    assert len(figure.axes) == len(CATEGORIES) * 3
    texts = _texts(figure)
    for flow in (*PUBLISHED_FLOWS, *CONTROL_FLOWS):
        assert style.arrow(flow) in texts
    assert {"to the last position", "to the question", "other flows", "window truncated at the ends"} <= set(texts)


def test_the_heat_map_shows_every_number_and_what_is_missing() -> None:
    rows = _rows()
    with style.own_settings():
        figure = grids.heat_map(rows, "mini", "3", CATEGORIES)
        _is_inside_and_readable(figure)
    image = figure.axes[0].images[0].get_array()
    flows = list(dict.fromkeys(row["flow"] for row in rows))
    assert image.shape == (len(flows), 12)
    for row in rows:
        if row["category"] == CATEGORIES[0]:
            assert image[flows.index(row["flow"]), row["layer"]] == pytest.approx(row["mean"])
    assert np.ma.getmaskarray(np.ma.masked_invalid(image))[flows.index("system->last")].tolist() == [False, True] * 6


def test_the_sweep_has_a_line_per_window_and_a_panel_per_flow() -> None:
    rows = [row for window in ("1", "5", "bottom") for row in _rows(window=window)]
    with style.own_settings():
        figure = grids.window_sweep(rows, "mini", ["1", "5", "bottom"], CATEGORIES)
        _is_inside_and_readable(figure)
    assert {"window 1", "window 5", "windows from the first layer to this one"} <= set(_texts(figure))
    assert len(figure.axes) == len(CATEGORIES) * 6


def test_models_of_different_depth_are_compared_over_its_share() -> None:
    rows = _rows("small", "3", 8) + _rows("large", "7", 40)
    with style.own_settings():
        figure = grids.model_comparison(rows, ["small", "large"], ["3", "7"], CATEGORIES)
        _is_inside_and_readable(figure)
    assert {"small, window 3", "large, window 7"} <= set(_texts(figure))
    curves = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 2]
    assert {len(line.get_xdata()) for line in curves} == {8, 40}
    assert {float(line.get_xdata()[-1]) for line in curves} == {1.0}


def test_models_without_a_common_flow_can_not_be_compared() -> None:
    rows = [row for row in _rows("a") if row["flow"] == "image->last"]
    rows += [row for row in _rows("b") if row["flow"] == "last->last"]
    with pytest.raises(CrossflowError, match="have no flow in common"):
        grids.model_comparison(rows, ["a", "b"], ["3", "3"], CATEGORIES)


def test_substitutions_are_drawn_beside_the_knockouts_of_their_edges() -> None:
    flows = {"image->question": 60.0, "image=swapped->question": 40.0, "image=mean->question": 20.0}
    flows |= {"question->last": 50.0, "question=swapped->last": 30.0, "related=mean->question": 10.0}
    table = knockout_table({flow: bump(4, size) for flow, size in flows.items()}, images=8)
    rows = [row for row in summarise(table, {}, 0) if row["measure"] == "change_percent"]
    figure = grids.substitution(rows, rows[0]["model"], rows[0]["window"], [rows[0]["category"]])
    _is_inside_and_readable(figure)
    drawn = {
        axes.get_title().replace("\xa0", " "): [
            float(line.get_ydata().min()) for line in axes.get_lines() if len(line.get_ydata()) > 2
        ]
        for axes in figure.axes
    }
    assert list(drawn) == ["image → question", "question → last", "related → question"]
    lowest = {row["flow"]: row["mean"] for row in sorted(rows, key=lambda row: row["mean"], reverse=True)}
    assert drawn["image → question"] == [lowest[name] for name in list(flows)[:3]]
    assert drawn["question → last"] == [lowest["question->last"], lowest["question=swapped->last"]]
    assert drawn["related → question"] == [lowest["related=mean->question"]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["nothing (knockout)", "another question's image", "the mean"]


def test_a_study_has_the_grids_that_make_sense_for_it() -> None:
    one = planned(windows={"a": ["3"]}, flows=[])
    assert figures_of(one) == {"overview": ["overview-a-w3"], "heat-map": ["heat-map-a-w3"]}
    several = figures_of(planned(windows={"a": ["3", "bottom"], "b": ["7"]}, flows=[]))
    assert several == {
        "overview": ["overview-a-w3", "overview-a-wbottom", "overview-b-w7"],
        "heat-map": ["heat-map-a-w3", "heat-map-a-wbottom", "heat-map-b-w7"],
        "window-sweep": ["window-sweep-a"],
        "model-comparison": ["model-comparison"],
    }


def _table() -> Knockouts:
    return knockout_table(FLOWS, images=8, stride=STRIDE)


def test_the_question_that_suffers_most_and_the_one_in_the_middle_are_shown() -> None:
    table = _table()
    chosen = choose_examples(table)
    assert list(chosen.values()) == ["largest fall", "median fall"]
    falls = {
        question: min(curve.change[list(curve.question_ids).index(question)].min() for flow, curve in table.curves.items() if "~" not in flow)
        for question in table.question_ids
    }  # fmt: skip
    assert next(iter(chosen)) == min(falls, key=lambda question: falls[question])
    assert sorted(falls.values())[8] == falls[list(chosen)[1]]
    assert choose_examples(knockout_table(FLOWS, images=0)) == {}
    assert next(iter(choose_examples(knockout_table({"image->last": bump(2, 9)}, images=1)).values())) == "largest fall"


def test_single_questions_are_drawn_with_their_own_curves(tmp_path: Path) -> None:
    table = _table()
    question_id = next(iter(choose_examples(table)))
    curves = table.of_question(question_id)
    assert list(curves) == [flow for flow in FLOWS if "~" not in flow]
    assert curves["system->last"][0] == (0, 2, 4, 6, 8, 10)
    objects = (ChosenObject("object", "1", "cup", Box(5, 5, 20, 20)),)
    asked = ChosenQuestion(question_id, "1", "c", "d", "Is the cup red?", "yes", None, None, objects)
    image = Image.new("RGB", (96, 64), "teal")
    examples = [Example("largest fall", asked, "Yes", 0.75, image, patches, curves) for patches in (image, None)]
    with style.own_settings():
        figure = draw_examples(examples, "mini, c")
        _is_inside_and_readable(figure)
        style.save(figure, [tmp_path / "e.png", tmp_path / "e.pdf"])
        empty = draw_examples([], "mini, c")
    assert "no question selected" in _texts(empty)
    assert any("Is the cup red?" in text and "p = 0.750" in text for text in _texts(figure))

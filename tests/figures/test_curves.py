"""Figures: what is printed, how it looks in grey, and that the same summary gives the same bytes."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from crossflow.analysis.tables import COUNTS, EFFECTS
from crossflow.cli.main import main
from crossflow.core.errors import CrossflowError
from crossflow.core.flows import SET_NAMES
from crossflow.core.tables import write_csv
from crossflow.figures import style
from crossflow.figures.curves import panels_of
from crossflow.figures.kinds import FLOWS_SHOWN, FURTHER, flows_by_kind
from crossflow.figures.panels import Panel, draw_panels

CATEGORIES = ("ChooseAttr", "ChooseCat", "ChooseRel", "CompareAttr", "LogicalObj", "QueryAttr")
TO_LAST = list(FLOWS_SHOWN["to-last"])
RELATED = list(FLOWS_SHOWN["related-to-question"])
OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}


def _summary(
    n: dict[str, dict[str, int]], layers: int, *, selected: int = 20, interval: bool = True
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of effects.csv and counts.csv; ``n``: category -> flow -> questions that count."""
    effects, counts = [], []
    for category, flows in n.items():
        chosen = selected if any(flows.values()) else 0
        for flow, counted in flows.items():
            row = {"model": "mini", "category": category, "flow": flow, "window": "3", "n": counted}
            for layer in range(layers):
                mean = -60 * math.exp(-(((layer - layers / 2) / (layers / 6)) ** 2)) - len(flow)
                numbers = {
                    "mean": mean if counted else math.nan,
                    "low": mean - 8 if counted and interval else math.nan,
                    "high": mean + 5 if counted and interval else math.nan,
                    "median": mean if counted else math.nan,
                }
                effects.append({**row, "layer": layer, **numbers})
            missing = {"missing": chosen - counted, "excluded": 7, "skipped": 2, "questions": chosen + 9}
            counts.append({**row, **missing})
    return effects, counts


def _even(flows: Sequence[str], categories: Sequence[str] = CATEGORIES) -> dict[str, dict[str, int]]:
    return {category: dict.fromkeys(flows, 20) for category in categories}


def _panels(n: dict[str, dict[str, int]], flows: Sequence[str], layers: int = 8, interval: bool = True) -> list[Panel]:
    effects, counts = _summary(n, layers, interval=interval)
    return panels_of(effects, counts, flows=flows, model="mini", window="3", categories=list(n))


@pytest.fixture
def settings() -> Iterator[None]:
    with style.own_settings():
        yield


def _drawn(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.axison]


def _texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible() and text.get_text()]


def test_the_published_flows_make_the_three_figures_of_the_study() -> None:
    flows = [*TO_LAST, "image->question", *RELATED]
    assert flows_by_kind(flows) == {
        "to-last": TO_LAST,
        "image-to-question": ["image->question"],
        "related-to-question": RELATED,
    }


def test_other_flows_make_one_further_figure_in_their_order() -> None:
    flows = ["true_option->last", "other->question", "image->instruction", "true_option->last"]
    assert flows_by_kind(flows) == {
        "related-to-question": ["other->question"],
        FURTHER: ["true_option->last", "image->instruction"],
    }
    assert flows_by_kind([]) == {}


def test_kinds_are_known_without_loading_the_science(repo: Path) -> None:
    code = (
        "import sys, crossflow.figures.kinds, crossflow.analysis.tables;"
        "sys.exit(bool({'numpy', 'pandas', 'matplotlib', 'pyarrow', 'torch'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(repo / "workflow")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("layers", [1, 8, 32, 40])
@pytest.mark.usefixtures("settings")
def test_every_centre_layer_of_the_model_is_drawn_and_the_last_is_named(layers: int) -> None:
    figure = draw_panels(_panels(_even(TO_LAST), TO_LAST, layers), "mini, window 3")
    assert len(_drawn(figure)) == 6
    for axes in _drawn(figure):
        curves = [np.asarray(line.get_xdata()).tolist() for line in axes.lines if line.get_marker() != "None"]
        assert curves == [list(range(layers))] * 3
        ticks = [int(tick) for tick in axes.get_xticks()]
        assert (ticks[0], ticks[-1]) == (0, layers - 1)
        low, high = axes.get_xlim()
        assert low <= 0 and high >= layers - 1


@pytest.mark.usefixtures("settings")
def test_panels_share_an_axis_that_holds_every_line_and_band() -> None:
    panels = _panels(_even(TO_LAST), TO_LAST)
    figure = draw_panels(panels, "mini, window 3")
    limits = {axes.get_ylim() for axes in _drawn(figure)}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low < min(line.low.min() for panel in panels for line in panel.lines)
    assert high > max(0.0, *(line.high.max() for panel in panels for line in panel.lines))


@pytest.mark.usefixtures("settings")
def test_rounding_noise_is_not_magnified() -> None:
    effects, counts = _summary(_even(TO_LAST[:1], CATEGORIES[:1]), 8)
    for row in effects:
        row.update(mean=1e-6, low=0.0, high=2e-6)
    panels = panels_of(effects, counts, flows=TO_LAST[:1], model="mini", window="3", categories=CATEGORIES[:1])
    low, high = draw_panels(panels, "").axes[0].get_ylim()
    assert low < -0.9 and high > 0.9


@pytest.mark.usefixtures("settings")
def test_a_category_without_selected_questions_says_so() -> None:
    n = _even(TO_LAST) | {"LogicalObj": dict.fromkeys(TO_LAST, 0)}
    panels = _panels(n, TO_LAST)
    assert panels[4].title == "LogicalObj (n = 0)"
    axes = _drawn(draw_panels(panels, "mini, window 3"))[4]
    assert [text.get_text() for text in axes.texts] == ["no question selected\n(7 excluded, 2 skipped)"]
    assert not axes.lines


@pytest.mark.usefixtures("settings")
def test_a_study_without_any_selected_question_still_has_its_figure() -> None:
    figure = draw_panels(_panels({name: dict.fromkeys(TO_LAST, 0) for name in CATEGORIES}, TO_LAST), "mini")
    assert [axes.texts[0].get_text()[:20] for axes in _drawn(figure)] == ["no question selected"] * 6


@pytest.mark.usefixtures("settings")
def test_a_flow_missing_in_all_questions_says_so() -> None:
    panels = _panels(_even(RELATED) | {"QueryAttr": {RELATED[0]: 0, RELATED[1]: 20}}, RELATED)
    figure = draw_panels(panels, "mini, window 3")
    assert _drawn(figure)[5].get_title().replace("\N{NO-BREAK SPACE}", " ") == (
        "QueryAttr (n = 20)\nmissing in all: related → question"
    )
    assert len(_drawn(figure)[5].lines) == 2  # zero and the other flow


def test_different_numbers_of_questions_are_named_as_a_range() -> None:
    panel = _panels({"ChooseAttr": {RELATED[0]: 17, RELATED[1]: 20}}, RELATED)[0]
    assert panel.title == "ChooseAttr (n = 17–20)"


@pytest.mark.usefixtures("settings")
def test_a_line_without_an_interval_says_so() -> None:
    panels = _panels(_even(TO_LAST), TO_LAST, interval=False)
    assert panels[0].note == "only one image: no interval"
    assert np.isfinite(draw_panels(panels, "mini").axes[0].get_ylim()).all()


@pytest.mark.parametrize("count", [1, 4, 6, 7])
@pytest.mark.parametrize("kind", [*FLOWS_SHOWN, FURTHER])
@pytest.mark.usefixtures("settings")
def test_text_is_at_least_7_points_and_inside_the_page(kind: str, count: int) -> None:
    further = [
        "question_without_options->last",
        "related~random1->question",
        "newline->question",
        "all->last",
    ]
    flows = list(FLOWS_SHOWN.get(kind, further))
    categories = [*CATEGORIES, "Other"][:count]
    n = _even(flows, categories) | {categories[-1]: {flow: 20 * (flow == flows[-1]) for flow in flows}}
    figure = draw_panels(_panels(n, flows, layers=40), "llava16-vicuna-7b, window 7")
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    assert width == (3.4 if count == 1 else 7.0)
    everything = figure.get_tightbbox()
    assert everything.x0 >= 0 and everything.y0 >= 0 and everything.x1 <= width and everything.y1 <= height
    assert min(float(text.get_fontsize()) for text in _texts(figure)) >= 7
    assert len(figure.legends) == 1
    legend = figure.legends[0].get_window_extent()
    for axes in _drawn(figure):
        box = axes.get_tightbbox()
        assert box is not None and box.y1 <= legend.y0 + 1
        assert axes.get_position().height * height > 0.8


def test_flows_of_one_figure_differ_in_colour_in_dash_and_in_marker() -> None:
    for flows in FLOWS_SHOWN.values():
        looks = {flow: style.look_of(flow) for flow in flows}
        assert all(len({look[part] for look in looks.values()}) == len(flows) for part in range(3))
        assert {look.colour for look in looks.values()} <= OKABE_ITO


def test_flows_from_any_set_to_the_usual_targets_look_different_in_every_figure() -> None:
    flows = {f"{source}->{target}" for source in SET_NAMES for target in ("question", "instruction", "last", "all")}
    flows |= {name for name in style.LOOKS if "->" in name}
    looks = {flow: style.look_of(flow) for flow in flows}
    assert len(looks) >= 76
    assert len(set(looks.values())) == len(looks)
    assert {look.colour for look in looks.values()} <= OKABE_ITO
    control, flow = style.look_of("related~random2->question"), style.look_of("related->question")
    assert control == flow._replace(dash=style.CONTROLS["random"][0])
    assert control != flow


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other"}, "no rows for other with window 3"),
        ({"flows": RELATED}, "lacks related->question of mini, window 3, ChooseAttr"),
        ({"categories": ["ChooseAttr", "Unknown"]}, "lacks question->last of mini, window 3, Unknown"),
    ],
)
def test_a_summary_that_lacks_the_figure_is_an_error(change: dict[str, Any], message: str) -> None:
    effects, counts = _summary(_even(TO_LAST), 8)
    asked = {"flows": TO_LAST, "model": "mini", "window": "3", "categories": CATEGORIES, **change}
    with pytest.raises(CrossflowError, match=message):
        panels_of(effects, counts, **asked)


def test_a_summary_that_lacks_a_layer_is_an_error() -> None:
    effects, counts = _summary(_even(TO_LAST), 8)
    del effects[3]
    with pytest.raises(CrossflowError, match="or some of its 8 layers"):
        panels_of(effects, counts, flows=TO_LAST, model="mini", window="3", categories=CATEGORIES)


def _write_summary(folder: Path) -> None:
    effects, counts = _summary(_even([*TO_LAST, *RELATED]), 40)
    write_csv(folder / "effects.csv", EFFECTS, effects)
    write_csv(folder / "counts.csv", COUNTS, counts)


def _arguments(folder: Path, *outputs: Path) -> list[str]:
    what = ["--kind", "related-to-question", "--models", "mini", "--windows", "3", "--categories", *CATEGORIES]
    return ["--summary", str(folder), *what, "--output", *map(str, outputs)]


def _run(folder: Path, *outputs: Path) -> None:
    assert main(["figure", *_arguments(folder, *outputs)]) == 0


def test_the_pdf_embeds_its_truetype_fonts_and_no_date_and_the_png_has_300_dots_per_inch(
    tmp_path: Path,
) -> None:
    _write_summary(tmp_path)
    pdf, png = tmp_path / "figure.pdf", tmp_path / "figure.png"
    _run(tmp_path, pdf, png)
    content = pdf.read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert b"CreationDate" not in content
    with Image.open(png) as image:
        assert image.width == 2100
        assert image.info["dpi"][0] == pytest.approx(300, abs=0.1)


def test_another_process_with_other_matplotlib_settings_writes_the_same_bytes(tmp_path: Path, repo: Path) -> None:
    _write_summary(tmp_path)
    here = [tmp_path / "here.pdf", tmp_path / "here.png"]
    there = [tmp_path / "there.pdf", tmp_path / "there.png"]
    _run(tmp_path, *here)
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nlines.linewidth: 9\nsavefig.bbox: tight\npdf.fonttype: 3\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(repo / "workflow"),
        "PYTHONHASHSEED": "99",
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
    }
    command = [sys.executable, "-m", "crossflow", "figure", *_arguments(tmp_path, *there)]
    run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert run.stderr == ""
    assert [path.read_bytes() for path in there] == [path.read_bytes() for path in here]


def test_a_summary_without_any_flow_of_the_figure_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_summary(tmp_path)
    what = ["--summary", str(tmp_path), "--kind", "image-to-question", "--models", "mini", "--windows", "3"]
    assert main(["figure", *what, "--categories", *CATEGORIES, "--output", str(tmp_path / "figure.png")]) == 1
    assert "no flow that the figure 'image-to-question' shows" in capsys.readouterr().err


def test_an_unknown_format_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write_summary(tmp_path)
    assert main(["figure", *_arguments(tmp_path, tmp_path / "figure.svg")]) == 1
    assert "written as .pdf or .png" in capsys.readouterr().err

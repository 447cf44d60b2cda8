"""The figures of single heads and of heads in random subsets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossflow.analysis.tables import HEAD_SUBSETS, HEADS, TOP_HEADS
from crossflow.core.errors import CrossflowError
from crossflow.core.tables import write_csv
from crossflow.figures import head_subsets
from crossflow.figures.heads import draw
from crossflow.figures.request import FigureRequest

LAYERS, ON_LAYER = 3, 4


def _request(folder: Path, model: str = "m") -> FigureRequest:
    rows: list[dict[str, Any]] = [
        {"model": "m", "category": category, "flow": flow, "layer": layer, "head": head, "n": 7}
        | {"mean": -10.0 * layer - head, "low": -50.0, "high": 1.0, "attention": 0.5}
        for category in ("one", "two")
        for flow in ("image->last", "question->last")
        for layer in range(LAYERS)
        for head in range(ON_LAYER)
    ]
    best = {"rank": 1, "chosen_by": -24.0, "n": 3, "mean": -22.0, "low": -30.0}
    top = [
        {name: rows[-1][name] for name in ("model", "category", "flow", "layer", "head")} | best | {"high": -11.0},
        {name: rows[-2][name] for name in ("model", "category", "flow", "layer", "head")} | best | {"high": 2.0},
    ]
    write_csv(folder / "heads.csv", HEADS, rows)
    write_csv(folder / "top_heads.csv", TOP_HEADS, top)
    return FigureRequest("heads", folder, (model,), ("one", "two"))


def test_a_panel_shows_each_head_and_marks_those_that_are_below_zero(tmp_path: Path) -> None:
    page = draw(_request(tmp_path))
    panels = [axes for axes in page.axes if axes.images]
    assert len(panels) == 4
    assert [axes.get_title() for axes in panels[:2]] == ["image\xa0→\xa0last", "question\xa0→\xa0last"]
    image = panels[0].images[0].get_array()
    assert image is not None
    assert image.shape == (ON_LAYER, LAYERS)
    assert image[3, 2] == -23
    marks = [[line.get_xydata().tolist() for line in axes.lines] for axes in panels]
    assert marks == [[], [], [], [[[LAYERS - 1, ON_LAYER - 1]]]]


def test_subsets_mark_the_heads_whose_intervals_lie_below_zero_and_leave_missing_ones_grey(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"model": "m", "category": "one", "flow": "image->last", "layer": layer, "head": head, "n": 7, "subsets": 70}
        | {"explained": 0.5, "mean": mean, "low": mean - 4, "high": mean + 4}
        for layer, head, mean in ((0, 0, -9.0), (0, 1, -4.5), (1, 0, 2.0), (1, 1, float("nan")))
    ]
    write_csv(tmp_path / "head_subsets.csv", HEAD_SUBSETS, rows)
    page = head_subsets.draw(FigureRequest("head-subsets", tmp_path, ("m",), ("one",)))
    (panel,) = [axes for axes in page.axes if axes.images]
    image = panel.images[0].get_array()
    assert image is not None
    assert image[0].tolist() == [-9.0, 2.0]
    assert not np.isfinite(np.ma.filled(image, np.nan)[1, 1])
    assert [line.get_xydata().tolist() for line in panel.lines] == [[[0, 0]]]


def test_a_model_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CrossflowError, match=r"heads\.csv has no rows for other"):
        draw(_request(tmp_path, "other"))

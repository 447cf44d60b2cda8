"""The figure of attention beside effect."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossflow.analysis.tables import HEAD_ATTENTION, HEADS
from crossflow.core.errors import CrossflowError
from crossflow.core.tables import write_csv
from crossflow.figures.attention import draw
from crossflow.figures.request import FigureRequest

CATEGORIES = ("one", "two")


def _request(folder: Path, model: str = "m") -> FigureRequest:
    heads: list[dict[str, Any]] = [
        {"model": "m", "category": category, "flow": flow, "layer": layer, "head": head, "n": 7 * (category == "one")}
        | {"mean": -10.0 * layer - head, "low": -50.0, "high": 1.0, "attention": 0.3 * layer}
        for category in CATEGORIES
        for flow in ("image->last", "image=mean->last")
        for layer, head in np.ndindex(3, 2)
    ]
    of = {"model": "m", "flow": "image->last", "constant": 0, "of_means": 0.5}
    found = [
        of | {"category": "one", "n": 7, "mean": 0.25, "low": -0.125, "high": 0.5},
        of | {"category": "two", "n": 0, "mean": np.nan, "low": np.nan, "high": np.nan},
    ]
    write_csv(folder / "heads.csv", HEADS, heads)
    write_csv(folder / "head_attention.csv", HEAD_ATTENTION, found)
    return FigureRequest("attention", folder, (model,), CATEGORIES)


def test_a_panel_shows_a_point_per_head_and_the_correlation(tmp_path: Path) -> None:
    page = draw(_request(tmp_path))
    panels = [axes for axes in page.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [
        "rank correlation +0.25 (-0.12 to +0.50), n = 7",
        "no rank correlation",
    ]
    points, missing = (axes.collections[0] for axes in panels)
    expected = [[max(30 * layer, 0.01), -10 * layer - head] for layer, head in np.ndindex(3, 2)]
    np.testing.assert_allclose(np.asarray(points.get_offsets()), expected)
    np.testing.assert_array_equal(np.asarray(points.get_array()), [0, 0, 1, 1, 2, 2])
    assert len(np.asarray(missing.get_offsets())) == 0


def test_a_model_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CrossflowError, match=r"head_attention\.csv has no rows for other"):
        draw(_request(tmp_path, "other"))

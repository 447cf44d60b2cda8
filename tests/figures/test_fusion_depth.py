"""Figures of the fusion depth."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossflow.analysis.tables import FUSION, FUSION_DEPTH
from crossflow.core.errors import CrossflowError
from crossflow.core.tables import write_csv
from crossflow.figures.fusion_depth import draw, fusion_panels
from crossflow.figures.request import FigureRequest

LAYERS = 5


def _row(category: str, window: str, measure: str, layer: int, share: float) -> dict[str, Any]:
    names = {"model": "m", "category": category, "window": window, "flow": "image->all", "measure": measure}
    numbers = {"share": share, "low": share - 0.1, "high": share + 0.1}
    return (
        names | {"layer": layer, "n": 7} | numbers | dict.fromkeys(("loss", "loss_low", "loss_high", "loss_band"), 0.0)
    )


def _rows(shares: dict[str, float]) -> list[dict[str, Any]]:
    """A straight curve per window and measure; ``shares``: measure -> its share after the last layer."""
    return [
        _row(category, window, measure, layer, share * (layer if window == "top" else LAYERS - layer) / LAYERS)
        for category in ("one", "two")
        for window in ("bottom", "top")
        for measure, share in shares.items()
        for layer in range(LAYERS + 1)
    ]


def test_a_panel_shows_every_window_and_measure_in_percent() -> None:
    panels = fusion_panels(_rows({"probability": 1.0, "accuracy": 0.5}), model="m", categories=["two", "one"])
    assert list(panels) == [("two", "image->all"), ("one", "image->all")]
    panel = panels["one", "image->all"]
    assert panel.title == "one (n = 7)"
    lines = {line.flow: line.mean.tolist() for line in panel.lines}
    assert lines["top, probability"] == pytest.approx([0, 20, 40, 60, 80, 100])
    assert lines["bottom, accuracy"] == pytest.approx([50, 40, 30, 20, 10, 0])
    assert panel.note == ""


def test_a_measure_without_a_share_is_named_and_not_drawn_as_nothing() -> None:
    panels = fusion_panels(_rows({"probability": 1.0, "accuracy": np.nan}), model="m", categories=["one"])
    note = panels["one", "image->all"].note.replace("\xa0", " ").replace("\n", " ")
    assert note == "no measurable share: bottom, accuracy; top, accuracy"
    panels = fusion_panels(_rows({"probability": np.nan}), model="m", categories=["one"])
    assert panels["one", "image->all"].note == "the image gives nothing measurable"


def test_several_flows_have_panels_of_their_own() -> None:
    rows = _rows({"probability": 1.0})
    further = [row | {"flow": "image->all+question->last"} for row in rows]
    panels = fusion_panels(rows + further, model="m", categories=["one", "two"])
    notes = [(panel.category, panel.note.replace("\xa0", " ")) for panel in panels.values()]
    named = ["image → all", "image → all+question → last"]
    assert notes == [(category, flow) for flow in named for category in ("one", "two")]


def test_a_table_without_the_category_is_refused() -> None:
    for model, category in (("m", "three"), ("other", "one")):
        with pytest.raises(CrossflowError, match=f"fusion.csv lacks rows of {model}"):
            fusion_panels(_rows({"probability": 1.0}), model=model, categories=[category])


def test_a_bar_marks_the_interval_of_the_depth_at_half(tmp_path: Path) -> None:
    rows = _rows({"probability": 1.0})
    halves = [
        row | {"point": point, "depth": 2.5, "low": low, "high": 3.0, "sentence": ""}
        for row in rows
        if row["layer"] == 0
        for point, low in (("20 %", 0.5), ("50 %", 2.25), ("dropped", np.nan))
    ]
    write_csv(tmp_path / "fusion.csv", FUSION, rows)
    write_csv(tmp_path / "fusion_depth.csv", FUSION_DEPTH, halves)
    drawn = draw(FigureRequest("fusion-depth", tmp_path, ("m",), ("one", "two"), ("bottom", "top")))
    for axes in drawn.axes:
        bars = [bar.get_segments()[0] for bar in axes.collections if hasattr(bar, "get_segments")]
        assert [(left[0], right[0]) for left, right in bars] == [(2.25, 3.0)] * 2
        assert np.mean([left[1] for left, _ in bars]) == 50
        assert axes.get_yticks().tolist() == [0, 20, 50, 80, 100]

"""The figure of the lens over image and question."""

from pathlib import Path
from typing import Any

import pytest

from crossflow.analysis.tables import IMAGE_LENS
from crossflow.core.errors import CrossflowError
from crossflow.core.image_lens import PLACES, TOKENS
from crossflow.core.tables import write_csv
from crossflow.figures.image_lens import draw
from crossflow.figures.request import FigureRequest


def _request(folder: Path, model: str = "m") -> FigureRequest:
    rows: list[dict[str, Any]] = [
        {"model": "m", "category": category, "place": place, "token": token, "layer": layer}
        | {"n": 0 if (category, token) == ("two", "object") or token == "false_option" else 5}
        | {"mean": 0.01 * (layer + 1), "low": 0.001, "high": 0.2, "top": 0.5}
        for category in ("one", "two")
        for place in PLACES
        for token in TOKENS
        for layer in range(3)
    ]
    write_csv(folder / "image_lens.csv", IMAGE_LENS, rows)
    return FigureRequest("image-lens", folder, (model,), ("one", "two"))


def test_a_panel_per_category_and_word_has_a_line_per_place(tmp_path: Path) -> None:
    page = draw(_request(tmp_path))
    # No question offers options, so the false option has no column.
    assert [axes.get_title() for axes in page.axes] == ["object's name", "answer", "", ""]
    assert [len(axes.lines) for axes in page.axes] == [4, 4, 0, 4]
    assert [text.get_text() for text in page.axes[2].texts] == ["no question has it"]
    assert page.axes[1].lines[0].get_ydata() == pytest.approx([0.01, 0.02, 0.03])
    assert page.axes[0].get_yscale() == "log"


def test_a_model_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CrossflowError, match=r"image_lens.csv has no rows for other"):
        draw(_request(tmp_path, "other"))

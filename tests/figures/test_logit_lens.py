"""Figures of the logit lens."""

import pytest

from crossflow.analysis.logit_lens import lens_rows
from crossflow.core.errors import CrossflowError
from crossflow.figures.logit_lens import lens_panels
from made_up import lens_table


@pytest.mark.parametrize(("published", "curve"), [(False, [30, 50]), (True, [20, 50])])
def test_a_panel_shows_percent_with_the_norm_or_as_published(published: bool, curve: list[int]) -> None:
    rows = list(lens_rows(lens_table(), 1, model="m", category="c", seed=0))
    full, empty = lens_panels(rows, model="m", categories=["c", "none"], published=published)
    assert full.lines[0].mean.tolist() == pytest.approx(curve)
    assert full.title == "c (n = 2)"
    assert empty.note == "no question selected"
    with pytest.raises(CrossflowError, match="no rows for other"):
        lens_panels(rows, model="other", categories=["c"], published=published)

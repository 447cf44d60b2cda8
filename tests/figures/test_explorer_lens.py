"""The explorer's maps of the lens over an image: the page holds their numbers."""

import base64

import numpy as np
import pandas as pd
import pytest

from crossflow.figures import explorer_lens
from crossflow.figures.explorer_lens import DECADES, coded, lens_map, lens_maps
from made_up import LENS_STATES, LENS_TOKENS, lens_map_rows


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<u2")


def _numbers(text: str) -> np.ndarray:
    codes = _codes(text)
    return np.where(codes == 0, 0.0, 10.0 ** ((codes / 65535 - 1) * DECADES))


def test_codes_hold_numbers_from_a_hundred_millionth_to_one() -> None:
    values = np.array([0.0, 1e-12, 1e-8, 3.2e-5, 0.04, 0.5, 1.0])
    np.testing.assert_allclose(_numbers(coded(values)), [0, 0, 0, *values[3:]], rtol=2e-4, atol=1e-20)


def test_a_map_holds_its_words_probabilities_and_attention_by_layer_and_cell() -> None:
    found = lens_map(lens_map_rows("q").sample(frac=1, random_state=0))
    assert (found["states"], found["whole"], found["without"]) == (LENS_STATES, 3, 1)
    # The view of the whole image comes first.
    assert [box[0] for box in found["boxes"]] == [20, 30, 40, 0, 10]
    assert [found["words"][code] for code in _codes(found["word"])] == [" w2", " w3", " w4", " w0", " w1"] * LENS_STATES
    number = np.array(
        [[(1 + layer * LENS_TOKENS + token) / 100 for token in (2, 3, 4, 0, 1)] for layer in range(LENS_STATES)]
    )
    for name, share, layers in (
        ("top", 1, LENS_STATES),
        ("object", 2, LENS_STATES),
        ("answer", 3, LENS_STATES),
        ("last", 4, LENS_STATES - 1),
    ):
        np.testing.assert_allclose(_numbers(found[name]), number[:layers].ravel() / share, rtol=2e-4)
    assert found["elsewhere"]["question"] == pytest.approx([0.015, 0.03])


def test_without_a_name_there_is_no_map_of_it() -> None:
    assert "object" not in lens_map(lens_map_rows("q", named=False))


def test_the_first_questions_that_fit_have_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.concat([lens_map_rows(question) for question in ("b", "a", "c")])
    monkeypatch.setattr(explorer_lens, "MOST_CELLS", 4 * LENS_STATES * LENS_TOKENS)
    assert list(lens_maps(table, 1)) == ["b", "a", "c"]
    assert list(lens_maps(table, 2)) == ["b", "a"]
    assert list(lens_maps(table, 50)) == ["b"]

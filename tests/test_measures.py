"""What the columns of a knockout table mean."""

import math

import pytest
import torch

from crossflow.measures import Options, measure, option_tokens


class Letters:
    """A tokenizer of single characters."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(letter) for letter in text]


def _logits(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_measures_follow_their_definitions() -> None:
    measured = measure(_logits(0.6, 0.3, 0.1), _logits(0.3, 0.6, 0.1)[None], 0, Options(0, 1))
    assert measured["p_clean"] == pytest.approx([0.6])
    assert measured["p_knockout"] == pytest.approx([0.3])
    assert measured["change_percent"] == pytest.approx([-50])
    assert measured["logprob_change"] == pytest.approx([-math.log(2)])
    assert measured["margin_clean"] == pytest.approx([math.log(2)])
    assert measured["margin_knockout"] == pytest.approx([-math.log(2)])
    assert measured["flipped"] == [True]


def test_a_knockout_of_nothing_changes_nothing() -> None:
    clean = torch.randn(50)
    measured = measure(clean, clean.expand(3, -1), 7, None)
    assert measured["change_percent"] == [0, 0, 0]
    assert measured["logprob_change"] == [0, 0, 0]
    assert measured["margin_clean"] == [None, None, None]


def test_options_are_written_as_the_answer_is() -> None:
    assert option_tokens(Letters(), "Yellow", "yellow", "black") == Options(ord("Y"), ord("B"))
    assert option_tokens(Letters(), "yellow", "yellow", "black") == Options(ord("y"), ord("b"))


@pytest.mark.parametrize("options", [(None, None), ("", ""), ("black", "blue"), ("red", None)])
def test_there_is_no_margin_without_two_distinct_first_tokens(options: tuple[str | None, str | None]) -> None:
    assert option_tokens(Letters(), "x", *options) is None

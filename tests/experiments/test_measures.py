"""What the columns of a knockout table mean."""

import math

import pytest
import torch

from crossflow.core.records import ChosenQuestion
from crossflow.engine.forward import Readout
from crossflow.experiments.measures import Options, ScoredTokens, measure, option_tokens, scored_tokens


class Letters:
    """A tokenizer of single characters."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(letter) for letter in text]


def _reading(*rows: tuple[float, ...], further: tuple[float, ...] = ()) -> Readout:
    logits = torch.tensor(rows, dtype=torch.float64).log()
    return Readout(logits, torch.tensor([further] * len(rows), dtype=torch.float64))


def _question(answer: str, *options: str | None) -> ChosenQuestion:
    return ChosenQuestion("1", "1", "ChooseAttr", "chooseAttr", "x?", answer, *options, ())


def test_measures_follow_their_definitions() -> None:
    looked_at = ScoredTokens(0, (2, 1), Options(0, 1))
    clean, knocked_out = _reading((0.6, 0.3, 0.1), further=(-0.5, -0.5)), _reading((0.3, 0.6, 0.1), further=(-2, -1))
    measured = measure(clean, knocked_out, looked_at)
    assert measured["p_clean"] == pytest.approx([0.6])
    assert measured["p_knockout"] == pytest.approx([0.3])
    assert measured["change_percent"] == pytest.approx([-50])
    assert measured["logprob_change"] == pytest.approx([-math.log(2)])
    assert measured["margin_clean"] == pytest.approx([math.log(2)])
    assert measured["margin_knockout"] == pytest.approx([-math.log(2)])
    assert measured["flipped"] == [True]
    assert measured["correct"] == [True]
    assert measured["answer_logprob_change"] == pytest.approx([-math.log(2) - 2])
    assert measured["last_token_change_percent"] == pytest.approx([100 * (math.exp(-0.5) - 1)])
    one_token = measure(_reading((0.6, 0.3, 0.1)), _reading((0.3, 0.6, 0.1)), looked_at)
    assert one_token["last_token_change_percent"] == pytest.approx(one_token["change_percent"])


def test_a_knockout_of_nothing_changes_nothing() -> None:
    clean = Readout(torch.randn(1, 50), torch.zeros((1, 2), dtype=torch.float64))
    measured = measure(
        clean, Readout(clean.logits.expand(3, -1), clean.further.expand(3, -1)), ScoredTokens(7, (), None)
    )
    for name in ("change_percent", "logprob_change", "answer_logprob_change", "last_token_change_percent"):
        assert measured[name] == [0, 0, 0]
    assert measured["margin_clean"] == [None, None, None]
    assert measured["correct"] == [False, False, False]


def test_options_are_written_as_the_answer_is() -> None:
    assert option_tokens(Letters(), "Yellow", "yellow", "black") == Options(ord("Y"), ord("B"))
    assert option_tokens(Letters(), "yellow", "yellow", "black") == Options(ord("y"), ord("b"))


def test_the_gold_answer_counts_in_both_capitalisations() -> None:
    found = scored_tokens(Letters(), _question("yellow", "yellow", "black"), "Black", ord("B"))
    assert found == ScoredTokens(ord("B"), (ord("y"), ord("Y")), Options(ord("Y"), ord("B")))


@pytest.mark.parametrize("options", [(None, None), ("", ""), ("red", None)])
def test_there_are_no_options_without_two(options: tuple[str | None, str | None]) -> None:
    assert option_tokens(Letters(), "x", *options) is None


def test_there_is_no_margin_where_the_options_begin_with_the_same_token() -> None:
    assert option_tokens(Letters(), "black", "black", "blue") == Options(ord("b"), ord("b"))
    assert scored_tokens(Letters(), _question("black", "black", "blue"), "black", ord("b")).options is None

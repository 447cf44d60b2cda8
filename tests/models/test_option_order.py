"""Questions with their options in the other order."""

from dataclasses import replace
from pathlib import Path

import pytest

from crossflow.core.errors import BrokenQuestion
from crossflow.core.records import ChosenQuestion
from crossflow.data.categories import Classified, classify
from crossflow.data.gqa import read_questions
from crossflow.models.option_order import with_options_swapped


def _question(text: str, options: str | None) -> ChosenQuestion:
    true, false = options.split("|") if options else (None, None)
    return ChosenQuestion("1", "1", "ChooseAttr", "", text, true or "yes", true, false, ())


@pytest.mark.parametrize(
    ("text", "options", "swapped"),
    [
        ("Is the ball red or blue?", "blue|red", "Is the ball blue or red?"),
        ("Which is it, an oven or a dishwasher?", "oven|dishwasher", "Which is it, a dishwasher or an oven?"),
        (
            "Is it to the left or to the right of the cat?",
            "left|right",
            "Is it to the right or to the left of the cat?",
        ),
        (
            "Is the fence behind or in front of the pole?",
            "front|behind",
            "Is the fence in front of or behind the pole?",
        ),
        ("Is the man in front or behind the car?", "behind|front", "Is the man behind or in front the car?"),
        ("Is the beard dark brown or white?", "white|dark brown", "Is the beard white or dark brown?"),
        ("Is this a tennis or baseball game?", "tennis|baseball", "Is this a baseball or tennis game?"),
        ("Is there a cat?", None, "Is there a cat?"),
    ],
)
def test_the_options_change_places(text: str, options: str | None, swapped: str) -> None:
    question = _question(text, options)
    assert with_options_swapped(question) == replace(question, question=swapped)


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("Which is white, the train car or the car?", "train car|car", "'car' is in it 2 times"),
        ("Which is orange, the telephone or the laptop?", "phone|laptop", "'phone' is in it 0 times"),
        ("Is the tie black or is it blue?", "blue|black", "more than 'or'"),
        ("Which is not white, the panda bear or the dragon?", "dragon|panda", "more than 'or'"),
        ("Which is silver, the keyboard or the laptop computer?", "laptop|keyboard", "a word follows"),
    ],
)
def test_options_that_cannot_change_places_are_refused(text: str, options: str, reason: str) -> None:
    with pytest.raises(BrokenQuestion, match=reason):
        with_options_swapped(_question(text, options))


def test_nearly_all_published_questions_can_be_swapped_and_twice_is_as_before(shared: Path) -> None:
    counts = {"swapped": 0, "refused": 0}
    for question in read_questions(shared / "gqa" / "published", "val_balanced"):
        found = classify(question)
        if not isinstance(found, Classified) or found.false_option is None:
            continue
        asked = _question(found.question.question, f"{found.true_option}|{found.false_option}")
        try:
            swapped = with_options_swapped(asked)
        except BrokenQuestion:
            counts["refused"] += 1
            continue
        counts["swapped"] += 1
        assert swapped != asked
        assert with_options_swapped(swapped) == asked
    assert counts == {"swapped": 1470, "refused": 23}

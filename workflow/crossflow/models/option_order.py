"""A question with its two options in the other order.

A model may prefer the option that it reads first, or last. If answers and the effects of knockouts stay the same with
the options swapped, they do not depend on the order.
"""

import re
from dataclasses import replace

from crossflow.core.errors import BrokenQuestion
from crossflow.core.records import ChosenQuestion
from crossflow.models.positions import find_words
from crossflow.models.prompts import Span

SWAPPED_OPTIONS = "swapped"

# Longer forms of an option, which move as a whole.
_LONG_FORMS = {"front": ("in front of", "in front")}
_ARTICLE = re.compile(r"\b(?:an?) $", re.IGNORECASE)
_JOINED = re.compile(r",? or (?P<article>(?:to )?the )?", re.IGNORECASE)


def _refused(reason: str) -> BrokenQuestion:
    return BrokenQuestion(f"its options cannot be swapped: {reason}")


def _span(question: str, option: str) -> Span:
    """The characters of an option, in its longest form."""
    found = []
    for form in (*_LONG_FORMS.get(option.lower(), ()), option):
        found = find_words(question, form)
        if len(found) == 1:
            return found[0]
    raise _refused(f"{option!r} is in it {len(found)} times, not once")


def with_options_swapped(question: ChosenQuestion) -> ChosenQuestion:
    """The same question with its two options in the other order; unchanged if it offers none.

    "a" and "an" move with their options if both have one.

    Raises:
        BrokenQuestion: an option is not in the question exactly once, they are not joined by "or", or the second is a
            part of a name.
    """
    if not question.true_option or not question.false_option:
        return question
    text = question.question
    (start, stop), (begin, end) = sorted(
        _span(text, option) for option in (question.true_option, question.false_option)
    )
    articles = [_ARTICLE.search(text[:place]) for place in (start, begin)]
    if articles[0] and articles[1]:
        start, begin = articles[0].start(), articles[1].start()
    joined = _JOINED.fullmatch(text, stop, begin) if stop <= begin else None
    if joined is None:
        raise _refused("more than 'or' stands between them")
    # The keyboard or the laptop computer: the second option is a part of a name.
    if joined["article"] == "the " and re.match(r" (?!of )\w", text[end:]):
        raise _refused("a word follows the second one")
    swapped = text[:start] + text[begin:end] + text[stop:begin] + text[start:stop] + text[end:]
    return replace(question, question=swapped)

"""The named position sets of one prompt.

The *basic* sets cut a prompt in order and hold every position exactly once:

    system | image | separator | question | instruction | last

``system`` is everything before the image, ``separator`` lies between image and question, ``instruction`` between
question and last position (the role header included), ``last`` is the position from which the answer is predicted. The
tokens that some architectures put before and after an image (``<|vision_start|>``, ``</img>``) belong to ``system``
and ``separator``. Marks between an image's tiles (``<row_1_col_2>``) belong to ``image``, because they read the tiles
before them, and to ``newline``, because they show nothing themselves. All other sets are views of these positions:
visual tokens by what they show (`crossflow.models.visual_tokens`), text tokens by the characters that they overlap
(`crossflow.models.prompts`), and both by whether they are sinks (`crossflow.engine.sinks`), which only the model tells.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from jaxtyping import Int

from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.flows import BASIC_SETS, SET_NAMES, SINK_SETS, sets_of
from crossflow.core.records import ChosenQuestion
from crossflow.models.prompts import Span, TokenizedPrompt
from crossflow.models.visual_tokens import VisualTokens

Indices = Int[np.ndarray, " _"]  # the sets differ in size


@dataclass(frozen=True)
class Positions:
    """Position sets of one prompt.

    Attributes:
        length: Number of positions.
        sets: Name -> its positions, ascending; empty if the prompt has none. The names are `SET_NAMES`; `SINK_SETS` are
            absent until `with_sinks` adds them.
        moved: Visual tokens of the objects' boxes in another place of the image, without those of ``related``; empty if
            the boxes were not moved.
    """

    length: int
    sets: Mapping[str, Indices]
    moved: Indices

    def __getitem__(self, name: str) -> Indices:
        """The positions of a set, or of an intersection of sets (``related&grid``).

        Raises:
            CrossflowError: the set follows from a forward that has not been run.
        """
        first, *others = sets_of(name)
        if others:
            return reduce(np.intersect1d, (self[other] for other in others), self[first])
        if name in SINK_SETS and name not in self.sets:
            raise CrossflowError(
                f"The position set {name} follows from a forward of the model that was not run: add it with "
                "crossflow.experiments.sinks.with_sinks."
            )
        return self.sets[name]

    @property
    def shown(self) -> Indices:
        """The visual tokens that show some of the image: no newline and no padding."""
        return np.setdiff1d(np.union1d(self["related"], self["other"]), self["padding"])

    def with_sinks(self, sinks: Indices | None) -> "Positions":
        """The same prompt with `SINK_SETS`.

        Args:
            sinks: The positions that are sinks; None if the model has none, which leaves all these sets empty.
        """
        found = dict.fromkeys(SINK_SETS, np.arange(0))
        if sinks is not None:
            found = {
                "image_sinks": np.intersect1d(sinks, self["image"]),
                "image_without_sinks": np.setdiff1d(self.shown, sinks),
                "text_sinks": np.setdiff1d(sinks, self["image"]),
            }
        return replace(self, sets={**self.sets, **found})


def _basic_sets(prompt: TokenizedPrompt) -> dict[str, Indices]:
    """Cut the prompt at the image, the question and the last position.

    Raises:
        BrokenQuestion: they do not follow one another in this order.
    """
    asked = prompt.tokens_over(prompt.text.question)
    last = len(prompt.ids) - 1
    if len(asked) == 0 or not prompt.image.stop <= asked[0] <= asked[-1] < last:
        raise BrokenQuestion("the prompt is not cut in order into image, question and last position")
    cuts = (0, prompt.image.start, prompt.image.stop, int(asked[0]), int(asked[-1]) + 1, last, last + 1)
    return {name: np.arange(cuts[i], cuts[i + 1]) for i, name in enumerate(BASIC_SETS)}


def _visual_sets(prompt: TokenizedPrompt, visual: VisualTokens) -> dict[str, Indices]:
    shown = {
        "related": visual.related,
        "other": ~visual.related & ~visual.newline,
        "padding": visual.padding,
        "newline": visual.newline,
        "base": visual.base,
        "grid": ~visual.base & ~visual.newline,
    }
    return {name: prompt.image.start + np.flatnonzero(members) for name, members in shown.items()}


def find_words(text: str, words: str) -> list[Span]:
    """All places of ``words`` in ``text`` as whole words, ignoring case."""
    return [Span(*found.span()) for found in re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE)]


def _text_sets(prompt: TokenizedPrompt, question: ChosenQuestion, asked: Indices) -> dict[str, Indices]:
    """Views of the text: of each word its first place; a word missing from the question gives an empty set."""
    start = prompt.text.question.start

    def tokens_of(words: str | None) -> Indices:
        places = find_words(question.question, words) if words else []
        if not places:
            return np.arange(0)
        return prompt.tokens_over(Span(start + places[0].start, start + places[0].stop))

    true_option, false_option = tokens_of(question.true_option), tokens_of(question.false_option)
    options = np.union1d(true_option, false_option)
    objects = [tokens_of(chosen.name) for chosen in question.objects]
    role = prompt.tokens_over(prompt.text.role)
    return {
        "role": role[role < len(prompt.ids) - 1],
        "true_option": true_option,
        "false_option": false_option,
        "options": options,
        "question_without_options": np.setdiff1d(asked, options),
        "object": np.unique(np.concatenate([np.arange(0), *objects])),
    }


def positions_of(prompt: TokenizedPrompt, question: ChosenQuestion, visual: VisualTokens) -> Positions:
    """The position sets of one prompt, without those that follow from a forward.

    Raises:
        BrokenQuestion: image, question and last position do not follow one another in this order.
    """
    basic = _basic_sets(prompt)
    sets = basic | _visual_sets(prompt, visual) | _text_sets(prompt, question, basic["question"])
    sets["all"] = np.arange(prompt.image.stop, len(prompt.ids))
    moved = prompt.image.start + np.flatnonzero(visual.moved & ~visual.related)
    return Positions(len(prompt.ids), {name: sets[name] for name in SET_NAMES if name in sets}, moved)

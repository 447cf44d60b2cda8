"""The logit lens at many positions of a clean run, after every layer.

A hidden state (layer 0: what enters the first decoder layer; layer l: after l decoder layers) passes through the final
norm and the output embedding. Logits exist for one layer and a slice of positions at a time: those of all would take
gigabytes.

Source: nostalgebraist, interpreting GPT: the logit lens (2020); C. Neo, L. Ong, P. Torr, M. Geva, D. Krueger, F. Barez,
Towards interpreting visual information processing in vision-language models (arXiv 2410.07149), for visual tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from crossflow.core.records import ChosenQuestion
from crossflow.engine.edges import Indices
from crossflow.engine.forward import CleanRun
from crossflow.experiments.option_tokens import first_token_of
from crossflow.models.model import MultimodalModel

_AT_ONCE = 2**24
"""Logits of a slice: 64 MiB in fp32."""
_WORD_BEGINS = "▁"  # SentencePiece's mark for a space


class Reading(NamedTuple):
    """What the lens reads; states are layer 0 to the number of layers.

    Attributes:
        probabilities: Of the words that were asked for, 0..1.
        likeliest: The most likely tokens, in descending order.
        theirs: The probabilities of these.
    """

    probabilities: Float[np.ndarray, "states positions words"]
    likeliest: Int[np.ndarray, "states positions most"]
    theirs: Float[np.ndarray, "states positions most"]

    def at(self, places: Indices) -> "Reading":
        """The same at some of its positions, by their places among them."""
        return Reading(*(each[:, places] for each in self))


def read_positions(
    model: MultimodalModel,
    clean: CleanRun,
    positions: Indices,
    words: Sequence[Sequence[int]],
    most: int,
    at_once: int = _AT_ONCE,
) -> Reading:
    """Read some positions after every layer.

    Args:
        model: The model.
        clean: Its clean run, recorded from the first of the positions on.
        positions: The positions.
        words: Tokens of each word; a word's probability is the sum of its tokens'.
        most: How many of the most likely tokens are read; all if the vocabulary has fewer.
        at_once: Most logits that exist at a time.
    """
    vocabulary = len(clean.logits)
    places = torch.from_numpy(positions - clean.first).to(clean.logits.device)
    found: list[list[np.ndarray]] = []
    with torch.inference_mode():
        for states in (*(record.hidden[0] for record in clean.layers), clean.after[0]):
            parts = []
            for part in torch.split(places, max(1, at_once // vocabulary)):
                logits = model.logits(model.norm(states[part]))
                probabilities = torch.softmax(logits.double(), dim=-1)
                theirs, likeliest = probabilities.topk(min(most, vocabulary), dim=-1)
                sums = [probabilities[:, list(tokens)].sum(dim=-1) for tokens in words]
                read = torch.stack(sums, dim=-1) if sums else probabilities[:, :0]
                parts.append([read, likeliest, theirs])
            found.append([torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True)])
    return Reading(*map(np.stack, zip(*found, strict=True)))


class Words:
    """The texts of tokens, each decoded once.

    Args:
        tokenizer: The model's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._found: dict[int, str] = {}

    def _decoded(self, token: int) -> str:
        text = str(self._tokenizer.decode([token]))
        begins = str(self._tokenizer.convert_ids_to_tokens(token)).startswith(_WORD_BEGINS) and text[:1] != " "
        # An embedding may have more rows than the vocabulary has tokens.
        return (" " if begins else "") + text if text else f"<{token}>"

    def of(self, token: int) -> str:
        """The text of a token, a space before it included."""
        if token not in self._found:
            self._found[token] = self._decoded(token)
        return self._found[token]


class ReadWord(NamedTuple):
    """A word that the lens looks for.

    Attributes:
        word: The word.
        tokens: The first tokens of its forms: in lower case and capitalised, with a space before it and without.
    """

    word: str
    tokens: tuple[int, ...]


def _read_word(words: Words, tokenizer: Any, word: str) -> ReadWord:
    forms = [form for each in (word.lower(), word.capitalize(), word) for form in (each, f" {each}")]
    first = [first_token_of(tokenizer, form) for form in forms]
    # Some tokenizers make a token of the space.
    return ReadWord(
        word, tuple(sorted({token for token in first if token != tokenizer.unk_token_id and words.of(token).strip()}))
    )


def words_of(words: Words, tokenizer: Any, question: ChosenQuestion, generated: str) -> dict[str, ReadWord]:
    """The words that the lens looks for, by their names in `crossflow.core.image_lens.TOKENS`; lacking ones are absent.

    Args:
        words: The texts of tokens.
        tokenizer: The model's.
        question: The question.
        generated: The model's own answer.
    """
    name = question.objects[0].name if question.objects else ""
    options = (question.true_option, question.false_option)
    found = {"object": name, "answer": generated, "false_option": question.false_option if all(options) else None}
    read = {key: _read_word(words, tokenizer, word) for key, word in found.items() if word}
    return {key: word for key, word in read.items() if word.tokens}

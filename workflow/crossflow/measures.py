"""What a knockout did to the answer: from logits to the columns of a knockout table.

Most measures look at the first token of the clean answer. Source: the published code for p_clean, p_knockout and
change; the others answer to weaknesses of a ratio of probabilities, and of looking at one token.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossflow.forward import Reading
from crossflow.gqa import ChosenQuestion


class Asked(NamedTuple):
    """The tokens of one question that are looked at.

    Attributes:
        first: First token of the clean answer.
        gold: First tokens of the gold answer, in lower case and capitalised.
        options: Tokens whose margin is taken, or None.
    """

    first: int
    gold: tuple[int, ...]
    options: "Options | None"


class Options(NamedTuple):
    """First tokens of the true and of the false option, in the capitalisation of the answer."""

    true: int
    false: int


def _first_token(tokenizer: Any, text: str) -> int:
    return int(tokenizer.encode(text, add_special_tokens=False)[0])


def option_tokens(tokenizer: Any, generated: str, true_option: str | None, false_option: str | None) -> Options | None:
    """The options' first tokens, in the capitalisation of the answer; None without options."""
    if not true_option or not false_option:
        return None
    written = [option.capitalize() if generated[:1].isupper() else option for option in (true_option, false_option)]
    return Options(*(_first_token(tokenizer, option) for option in written))


def asked(tokenizer: Any, question: ChosenQuestion, generated: str, first_token: int) -> Asked:
    """What is looked at in a question; options that begin with the same token have no margin.

    Args:
        tokenizer: The model's.
        question: The question.
        generated: The clean answer.
        first_token: Its first token.
    """
    options = option_tokens(tokenizer, generated, question.true_option, question.false_option)
    gold = tuple(_first_token(tokenizer, text) for text in (question.answer, question.answer.capitalize()) if text)
    return Asked(first_token, gold, None if options is None or options.true == options.false else options)


def measure(clean: Reading, rows: Reading, asked: Asked) -> dict[str, list[Any]]:
    """Compare knockouts with the clean run.

    Args:
        clean: What was read off the clean run.
        rows: What was read off the knockouts.
        asked: The tokens that are looked at.

    Returns:
        Column name -> one value per row: ``p_clean`` and ``p_knockout`` (probabilities), ``change_percent`` (percent
        of p_clean), ``logprob_change`` (nats), ``margin_clean`` and ``margin_knockout`` (nats; None without options),
        ``flipped`` (the most likely token is no longer the first one), ``correct`` (it begins the gold answer),
        ``answer_logprob_change`` (nats, of the whole scored answer; of the first token alone where no more is scored).
    """
    before = torch.log_softmax(clean.logits[0].double(), dim=-1)
    after = torch.log_softmax(rows.logits.double(), dim=-1)
    p_clean = before[asked.first].exp()
    p_knockout = after[:, asked.first].exp()
    logprob_change = after[:, asked.first] - before[asked.first]
    likeliest = after.argmax(-1)
    count = len(after)

    def margin(logprobs: Tensor) -> list[float | None]:
        if asked.options is None:
            return [None] * count
        return (logprobs[..., asked.options.true] - logprobs[..., asked.options.false]).expand(count).tolist()

    return {
        "p_clean": p_clean.expand(count).tolist(),
        "p_knockout": p_knockout.tolist(),
        "change_percent": ((p_knockout - p_clean) / p_clean * 100).tolist(),
        "logprob_change": logprob_change.tolist(),
        "margin_clean": margin(before),
        "margin_knockout": margin(after),
        "flipped": (likeliest != asked.first).tolist(),
        "correct": torch.isin(likeliest, likeliest.new_tensor(asked.gold)).tolist(),
        "answer_logprob_change": (logprob_change + rows.further - clean.further).tolist(),
    }

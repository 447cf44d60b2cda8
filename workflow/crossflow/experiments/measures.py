"""Effects of a knockout on the answer: from logits to the columns of a knockout table.

Most measures are about the first token of the clean answer. Source: the published code for p_clean, p_knockout and
change; the other measures avoid the weaknesses of a ratio of probabilities and of a single token.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossflow.core.records import ChosenQuestion
from crossflow.engine.forward import Readout
from crossflow.experiments.option_tokens import Options, first_token_of, option_tokens


class ScoredTokens(NamedTuple):
    """The tokens of one question that are scored.

    Attributes:
        first: First token of the clean answer.
        gold: First tokens of the gold answer, in lower case and capitalised.
        options: Tokens whose margin is taken, or None.
    """

    first: int
    gold: tuple[int, ...]
    options: Options | None


def scored_tokens(tokenizer: Any, question: ChosenQuestion, generated: str, first_token: int) -> ScoredTokens:
    """The tokens to score in a question; options that begin with the same token have no margin.

    Args:
        tokenizer: The model's.
        question: The question.
        generated: The clean answer.
        first_token: Its first token.
    """
    options = option_tokens(tokenizer, generated, question.true_option, question.false_option)
    gold = tuple(first_token_of(tokenizer, text) for text in (question.answer, question.answer.capitalize()) if text)
    return ScoredTokens(first_token, gold, None if options is None or options.true == options.false else options)


def measure(clean: Readout, rows: Readout, scored_tokens: ScoredTokens) -> dict[str, list[Any]]:
    """Compare knockouts with the clean run.

    Args:
        clean: The readout of the clean run.
        rows: The readout of the knockouts.
        scored_tokens: The tokens whose probabilities are measured.

    Returns:
        Column name -> one value per row: ``p_clean`` and ``p_knockout`` (probabilities), ``change_percent`` (percent
        of p_clean), ``logprob_change`` (nats), ``margin_clean`` and ``margin_knockout`` (nats; None without options),
        ``flipped`` (the most likely token is no longer the first one), ``correct`` (it begins the gold answer),
        ``answer_logprob_change`` (nats, of the whole scored answer; of the first token only unless the whole answer is
        scored), ``last_token_change_percent`` (of its last token, given those before it; percent).
    """
    before = torch.log_softmax(clean.logits[0].double(), dim=-1)
    after = torch.log_softmax(rows.logits.double(), dim=-1)
    p_clean = before[scored_tokens.first].exp()
    p_knockout = after[:, scored_tokens.first].exp()
    logprob_change = after[:, scored_tokens.first] - before[scored_tokens.first]
    likeliest = after.argmax(-1)
    further = rows.further - clean.further
    count = len(after)

    def margin(logprobs: Tensor) -> list[float | None]:
        if scored_tokens.options is None:
            return [None] * count
        return (
            (logprobs[..., scored_tokens.options.true] - logprobs[..., scored_tokens.options.false])
            .expand(count)
            .tolist()
        )

    return {
        "p_clean": p_clean.expand(count).tolist(),
        "p_knockout": p_knockout.tolist(),
        "change_percent": ((p_knockout - p_clean) / p_clean * 100).tolist(),
        "logprob_change": logprob_change.tolist(),
        "margin_clean": margin(before),
        "margin_knockout": margin(after),
        "flipped": (likeliest != scored_tokens.first).tolist(),
        "correct": torch.isin(likeliest, likeliest.new_tensor(scored_tokens.gold)).tolist(),
        "answer_logprob_change": (logprob_change + further.sum(1)).tolist(),
        "last_token_change_percent": (torch.cat([logprob_change[:, None], further], 1)[:, -1].expm1() * 100).tolist(),
    }

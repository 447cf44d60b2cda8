"""What a knockout did to the answer: from logits to the columns of a knockout table.

All measures look at the first token of the clean answer. Source: the published code for p_clean, p_knockout and
change; the others answer to weaknesses of a ratio of probabilities.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Options(NamedTuple):
    """First tokens of the true and of the false option, in the capitalisation of the answer."""

    true: int
    false: int


def option_tokens(tokenizer: Any, generated: str, true_option: str | None, false_option: str | None) -> Options | None:
    """The options' first tokens; None without options, or when both begin with the same token."""
    if not true_option or not false_option:
        return None

    def first_token(option: str) -> int:
        written = option.capitalize() if generated[:1].isupper() else option
        return int(tokenizer.encode(written, add_special_tokens=False)[0])

    options = Options(first_token(true_option), first_token(false_option))
    return None if options.true == options.false else options


def measure(
    clean: Float[Tensor, " vocabulary"],
    rows: Float[Tensor, "rows vocabulary"],
    first_token: int,
    options: Options | None,
) -> dict[str, list[Any]]:
    """Compare knockouts with the clean run.

    Args:
        clean: Logits of the clean run at the last position.
        rows: Logits of the knockouts.
        first_token: First token of the clean answer.
        options: Tokens whose margin is taken.

    Returns:
        Column name -> one value per row: ``p_clean`` and ``p_knockout`` (probabilities), ``change_percent`` (percent
        of p_clean), ``logprob_change`` (nats), ``margin_clean`` and ``margin_knockout`` (nats; None without options),
        ``flipped`` (the most likely token is no longer ``first_token``).
    """
    before = torch.log_softmax(clean.double(), dim=-1)
    after = torch.log_softmax(rows.double(), dim=-1)
    p_clean = before[first_token].exp()
    p_knockout = after[:, first_token].exp()
    count = len(rows)

    def margin(logprobs: Tensor) -> list[float | None]:
        if options is None:
            return [None] * count
        return (logprobs[..., options.true] - logprobs[..., options.false]).expand(count).tolist()

    return {
        "p_clean": p_clean.expand(count).tolist(),
        "p_knockout": p_knockout.tolist(),
        "change_percent": ((p_knockout - p_clean) / p_clean * 100).tolist(),
        "logprob_change": (after[:, first_token] - before[first_token]).tolist(),
        "margin_clean": margin(before),
        "margin_knockout": margin(after),
        "flipped": (after.argmax(-1) != first_token).tolist(),
    }

"""The first tokens of a question's two options."""

from typing import Any, NamedTuple


class Options(NamedTuple):
    """First tokens of the true and of the false option, in the capitalisation of the answer."""

    true: int
    false: int


def first_token_of(tokenizer: Any, text: str) -> int:
    """The first token of a text that stands by itself."""
    return int(tokenizer.encode(text, add_special_tokens=False)[0])


def option_tokens(tokenizer: Any, generated: str, true_option: str | None, false_option: str | None) -> Options | None:
    """The options' first tokens, in the capitalisation of the answer; None without options."""
    if not true_option or not false_option:
        return None
    written = [option.capitalize() if generated[:1].isupper() else option for option in (true_option, false_option)]
    return Options(*(first_token_of(tokenizer, option) for option in written))

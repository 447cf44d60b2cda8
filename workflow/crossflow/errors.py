"""The two kinds of failure that a person is told about."""

_LONGEST = 1_000  # characters; the beginning says where, the end what to do


def _sentence(text: str) -> str:
    """One line that a terminal can show, whatever a message quotes: line ends, control codes, a whole file."""
    line = " ".join(part.strip() for part in text.splitlines())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST * 3 // 5]} ... {line[-_LONGEST * 2 // 5 :]}"
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


class CrossflowError(Exception):
    """A study can not go on. The message is one sentence: what, where, and what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__(_sentence(message))


class BrokenQuestion(Exception):
    """One question can not be used; the study goes on without it. The message is the reason that is listed."""

    def __init__(self, message: str) -> None:
        super().__init__(_sentence(message))

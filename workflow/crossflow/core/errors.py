"""Errors that are reported in one sentence: bad input, an unusable question, and machine faults."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_LONGEST = 1_000  # characters; a message's start says where, its end what to do


def _sentence(text: str) -> str:
    """One line that a terminal can show, even if a message quotes line ends, control codes or a whole file."""
    line = " ".join(part.strip() for part in text.splitlines())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST * 3 // 5]} ... {line[-_LONGEST * 2 // 5 :]}"
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


class CrossflowError(Exception):
    """The study cannot continue. The message is one sentence: what, where, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(_sentence(message))


class BrokenQuestion(Exception):
    """One question cannot be used and is skipped. The message is the reason listed."""

    def __init__(self, message: str) -> None:
        super().__init__(_sentence(message))


def require_some_usable(broken: Mapping[str, BrokenQuestion], total: int, where: object) -> None:
    """Refuse to go on where no question is left.

    Args:
        broken: Question id -> why it cannot be used.
        total: Number of all questions.
        where: What holds them, for the message.

    Raises:
        CrossflowError: all of them are broken.
    """
    if total and len(broken) == total:
        first, reason = next(iter(broken.items()))
        raise CrossflowError(
            f"None of the {total} questions in {where} can be used; the first, {first}, because {reason}."
        )


@contextmanager
def blaming_question(part: str) -> Iterator[None]:
    """Turn an error of one of the model's own files into a broken question, if that file works for other questions.

    Args:
        part: What runs inside the block, such as "the image processor"; nothing of this project's own.

    Raises:
        BrokenQuestion: the part raised an error.
    """
    try:
        yield
    except (BrokenQuestion, CrossflowError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise BrokenQuestion(f"{part} fails on this question ({reason})") from error


# torch's errors are known by name, because most verbs run without it.
_KEPT = "finished work is kept"
_CPU_IS_FULL = "DefaultCPUAllocator"  # torch names no kind of error for it


@contextmanager
def faults_as_errors() -> Iterator[None]:
    """Report a machine fault as one sentence.

    Raises:
        CrossflowError: memory was full, or the device failed.
    """
    full = f"The machine is out of memory; {_KEPT}: run again on a machine with more."
    try:
        yield
    except MemoryError as error:
        raise CrossflowError(full) from error
    except RuntimeError as error:
        if _CPU_IS_FULL in str(error):
            raise CrossflowError(full) from error
        names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.partition(".")[0] == "torch"}
        if "OutOfMemoryError" in names:
            raise CrossflowError(
                f"The device is out of memory; {_KEPT}: stop other programs on it, choose a dtype of half the size, or "
                "use a device with more memory, and run again."
            ) from error
        if "AcceleratorError" in names:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise CrossflowError(f"The device failed ({reason}); {_KEPT}: run again.") from error
        raise

"""Progress of long work: a bar with the rate and the time left."""

from typing import NoReturn

from tqdm import tqdm


def progress_of(name: str, total: int, finished: int = 0) -> "tqdm[NoReturn]":
    """A bar over questions; call its ``update`` with the number that was finished.

    Args:
        name: What is done.
        total: Number of questions.
        finished: Those that an earlier run finished; they do not count for the rate.
    """
    return tqdm(desc=name, total=total, initial=finished, unit="question")

"""Seeded sampling whose larger samples contain the smaller ones.

Each question gets a rank from a hash of the seed and its id, so neither the other questions nor their order in the file
matters: the first n by rank are also the first n of any larger sample.
"""

from collections.abc import Iterable
from hashlib import blake2b

from crossflow.core.records import ChosenQuestion


def rank(question_id: str, seed: int) -> bytes:
    """The sort key of a question under a seed: 16 bytes."""
    return blake2b(f"{seed} {question_id}".encode(), digest_size=16).digest()


def sample_questions(questions: Iterable[ChosenQuestion], number: int | None, seed: int) -> list[ChosenQuestion]:
    """The first ``number`` questions by rank, in that order; None takes all."""
    return sorted(questions, key=lambda question: rank(question.question_id, seed))[:number]

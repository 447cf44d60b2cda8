"""A seeded choice that does not change when more is asked for.

Every question gets a rank from a hash of the seed and its id, so a choice depends on no other question and on no
order of a file: the first n by rank are also the first n of any larger choice.
"""

from collections.abc import Iterable
from hashlib import blake2b

from crossflow.core.records import ChosenQuestion


def rank(question_id: str, seed: int) -> bytes:
    """Where a question stands in the order of a seed: 16 bytes, compared as such."""
    return blake2b(f"{seed} {question_id}".encode(), digest_size=16).digest()


def sample_questions(questions: Iterable[ChosenQuestion], number: int | None, seed: int) -> list[ChosenQuestion]:
    """The first ``number`` questions by rank, in that order; None takes all."""
    return sorted(questions, key=lambda question: rank(question.question_id, seed))[:number]

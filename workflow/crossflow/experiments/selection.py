"""Selection of answered questions by their answer."""

from collections.abc import Sequence
from typing import Any, Literal

from crossflow.core.records import ChosenQuestion

Select = Literal["correct", "wrong", "all"]
SELECTIONS: dict[Select, tuple[bool, ...]] = {"correct": (True,), "wrong": (False,), "all": (True, False)}


def selected(questions: Sequence[ChosenQuestion], answers: Any, select: Select) -> list[tuple[ChosenQuestion, Any]]:
    """The questions that ``select`` allows, each with its row of answers, in the order of the questions.

    Args:
        questions: The chosen questions.
        answers: The columns of ``tables.ANSWERS``; questions that are not in it were broken.
        select: Which questions to keep, by the answer.
    """
    by_id = {row.question_id: row for row in answers.itertuples()}
    answered = [(question, by_id[question.question_id]) for question in questions if question.question_id in by_id]
    return [(question, row) for question, row in answered if bool(row.correct) in SELECTIONS[select]]

"""The answered questions that an experiment takes up, chosen by their answers."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from crossflow.core.errors import CrossflowError
from crossflow.core.files import hash_file
from crossflow.core.records import ChosenQuestion
from crossflow.core.tables import ANSWERS, question_rows, read_parquet, write_parquet
from crossflow.experiments.job import Job
from crossflow.experiments.noise import largest_floor

log = logging.getLogger(__name__)

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


class Selected(NamedTuple):
    """The questions of one category.

    Attributes:
        answers: The table of the model's answers.
        select: Which questions were kept, by the answer.
        prompt: The prompt that was answered; None in tables of version 0.1.
        answered: Number of answers in the table.
        chosen: All chosen questions of the category.
        questions: The kept ones, each with its row of answers.
    """

    answers: Path
    select: Select
    prompt: str | None
    answered: int
    chosen: list[ChosenQuestion]
    questions: list[tuple[ChosenQuestion, Any]]

    @property
    def asked(self) -> list[ChosenQuestion]:
        """The kept questions alone."""
        return [question for question, _ in self.questions]

    def determining(self) -> dict[str, Any]:
        """What determines an experiment's numbers, besides the job and its own settings."""
        return {"answers": hash_file(self.answers), "select": self.select}

    def require_prompt(self, prompt: str) -> None:
        """Refuse answers that were given to another prompt.

        Raises:
            CrossflowError: the prompts differ.
        """
        if self.prompt not in (None, prompt):
            raise CrossflowError(
                f"The answers in {self.answers} were given to the prompt {self.prompt!r}, but the model's template now "
                f"writes {prompt!r}: make the template independent of date and machine, and answer again."
            )

    def write(
        self, path: Path, schema: pa.Schema, entries: Mapping[str, Any], layers: int, determined: Mapping[str, Any]
    ) -> None:
        """Write an experiment's table of knockouts, and log their noise floor.

        Args:
            path: The table.
            schema: Its columns.
            entries: Question id -> its columns, with ``noise_floor`` and ``noise_floor_percent``: the largest changes
                by a no-op knockout, or None.
            layers: Number of decoder layers.
            determined: The table's other metadata.
        """
        found = [entries[question.question_id] for question in self.asked]
        floors = largest_floor(found)
        if floors["noise_floor"] is not None:
            log.info(
                "noise floor, %s: a no-op knockout changes a probability by at most %.1e",
                path.stem, floors["noise_floor"],
            )  # fmt: skip
        rows = question_rows(schema, zip(self.asked, found, strict=True))
        counts = {"layers": layers, "selected": len(found), "excluded": self.answered - len(found)}
        write_parquet(path, schema, rows, dict(determined) | counts | floors)


def select_answered(job: Job, answers: Path, select: Select) -> dict[str, Selected]:
    """Category -> the questions of a job that an experiment takes up.

    Args:
        job: The job.
        answers: Folder of the tables of answers, {category}.parquet.
        select: Which questions to keep, by the answer.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    found = {}
    for category, chosen in job.categories().items():
        table = answers / f"{category}.parquet"
        rows, metadata = read_parquet(table, ANSWERS)
        kept = selected(chosen, rows, select)
        found[category] = Selected(table, select, metadata.get("prompt_text"), len(rows), chosen, kept)
    return found

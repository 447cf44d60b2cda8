"""The skeleton that experiments share: questions in, one entry for each, a table of each category out.

A job loads a model once, for the questions of all its categories. It prepares them ahead of the model, runs them in
batches that follow from the list of their category alone, keeps every finished question in a journal beside its
category's table, and writes the tables at the end. A killed job resumes after its last finished batch. Experiments
differ in the function from prepared questions to entries.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from crossflow import __version__
from crossflow.core.code_version import code_version
from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.files import hash_file
from crossflow.core.journal import Journal, journal_beside, writing_behind
from crossflow.core.progress import progress_of
from crossflow.core.records import ChosenQuestion
from crossflow.data.chosen import read_chosen
from crossflow.data.images import ImageSource
from crossflow.models.folder import ModelSource
from crossflow.models.model import ROUNDING, ModelSettings, MultimodalModel, Prepared
from crossflow.models.preparing import PrepareRequest, prepared_ahead, workers_for

_LIBRARIES = ("torch", "transformers", "pillow")


@dataclass(frozen=True)
class Job:
    """What every experiment needs.

    Attributes:
        questions: Tables of questions, one of each category, whose name is the file's.
        output: Folder of the result tables, {category}.parquet.
        images: The data set's images.
        model: The model.
        device: auto (a free GPU, else the CPU), cpu or cuda:N.
        workers: Processes that prepare questions; by default none if the model runs on a CPU.
    """

    questions: tuple[Path, ...]
    output: Path
    images: ImageSource
    model: ModelSource
    device: str = "auto"
    workers: int | None = None

    @cached_property
    def settings(self) -> ModelSettings:
        """The model's folder and settings."""
        return ModelSettings.of(self.model)

    def workers_for(self, model: MultimodalModel) -> int:
        """Processes that prepare questions."""
        return workers_for(model.device) if self.workers is None else self.workers

    def categories(self) -> dict[str, list[ChosenQuestion]]:
        """Category -> its questions.

        Raises:
            CrossflowError: a table cannot be used, or two are of one category.
        """
        found: dict[str, list[ChosenQuestion]] = {}
        for table in self.questions:
            if table.stem in found:
                raise CrossflowError(f"{table}: the category {table.stem} is given twice.")
            found[table.stem] = read_chosen(table)
        return found

    def determining(self, category: str, prompt: str) -> dict[str, Any]:
        """What determines the numbers of any experiment: parameters and hashes, but no path and no time.

        Args:
            category: The category.
            prompt: `MultimodalModel.prompt`; a template may write today's date into it.
        """
        (questions,) = (table for table in self.questions if table.stem == category)
        model = self.model
        return {
            "version": __version__,
            "questions": hash_file(questions),
            "model": model.sha256,
            "prompt": model.prompt,
            "prompt_text": prompt,
            "option_order": model.option_order,
            "image": model.image,
            "patches": model.patches,
            "dtype": model.dtype,
            "max_new_tokens": model.max_new_tokens,
        }


class Item(NamedTuple):
    """One question of a job.

    Attributes:
        question: The question.
        requests: What to prepare for it, in order.
        answer: Its row of the answers table, if the experiment needs one.
    """

    question: ChosenQuestion
    requests: Sequence[PrepareRequest]
    answer: Any = None


Given = Sequence[Prepared | BrokenQuestion]
Outcome = Callable[[], Any] | BrokenQuestion
Run = Callable[[Sequence[Item], Sequence[Given]], Sequence[Outcome]]
"""From a batch and its prepared questions to one item per question: a call that returns the entry, made in a thread
while the next batch runs, or the reason why the question cannot be used."""


class Part(NamedTuple):
    """The part of a job that makes the table of one category.

    Attributes:
        category: The category.
        determined: What determines its numbers.
        batches: Its questions, as they run together.
        run: The experiment.
    """

    category: str
    determined: Mapping[str, Any]
    batches: Sequence[Sequence[Item]]
    run: Run

    @classmethod
    def of(cls, category: str, determined: Mapping[str, Any], items: Sequence[Item], together: int, run: Run) -> "Part":
        """The part whose questions run ``together`` at a time."""
        batches = [items[first : first + together] for first in range(0, len(items), together)]
        return cls(category, determined, batches, run)


class Finished(NamedTuple):
    """The questions of a part when all have run.

    Attributes:
        entries: Question id -> entry.
        broken: Question id -> reason why it cannot be used.
    """

    entries: Mapping[str, Any]
    broken: dict[str, BrokenQuestion]

    def keep(self, journal: Journal, batch: Sequence[Item], outcomes: Sequence[Outcome]) -> None:
        """Note the outcomes of a batch."""
        for item, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, BrokenQuestion):
                self.broken[item.question.question_id] = outcome
            elif item.question.question_id not in journal.finished:
                journal.add(item.question.question_id, outcome())


@contextmanager
def finished_parts(
    job: Job, model: MultimodalModel, experiment: str, parts: Sequence[Part]
) -> Iterator[list[Finished]]:
    """Run all questions that are not in the journals of their parts yet; these are removed when the block succeeds.

    The same questions always run together, also after a killed job, because rounding depends on them.

    Args:
        job: The job.
        model: The loaded model.
        experiment: Module of the experiment, whose code version guards the journals; its last part names the progress.
        parts: The questions.

    Yields:
        What has finished, in the order of the parts.

    Raises:
        CrossflowError: a journal cannot be written, or the experiment fails.
    """
    with ExitStack() as stack:
        pending: list[tuple[Part, Journal, Finished, Sequence[Item]]] = []
        finished = []
        for part in parts:
            fingerprint = {
                "determined": part.determined,
                "code": code_version(experiment),
                "libraries": {name: metadata.version(name) for name in _LIBRARIES},
            }
            journal = stack.enter_context(journal_beside(job.output / f"{part.category}.parquet", fingerprint))
            finished.append(Finished(journal.finished, {}))
            pending += [
                (part, journal, finished[-1], batch)
                for batch in part.batches
                if any(item.question.question_id not in journal.finished for item in batch)
            ]
        requests = [request for *_, batch in pending for item in batch for request in item.requests]
        total = sum(len(batch) for part in parts for batch in part.batches)
        name = experiment.rpartition(".")[2].replace("_", " ")
        with (
            progress_of(name, total, total - sum(len(batch) for *_, batch in pending)) as progress,
            prepared_ahead(model, job.images.open, requests, job.workers_for(model)) as prepared,
            writing_behind() as give_away,
        ):
            for part, journal, of_part, batch in pending:
                progress.set_description(f"{name}, {part.category}", refresh=False)
                given = [[next(prepared) for _ in item.requests] for item in batch]
                give_away(partial(of_part.keep, journal, batch, part.run(batch, given)))
                progress.update(len(batch))
        yield finished


def require_same_clean_run(question_id: str, answered: float, now: float, dtype: str) -> None:
    """Refuse a question whose answer is no longer as probable as it was when the model gave it.

    Args:
        question_id: The question.
        answered: Probability of the answer's first token when it was given.
        now: Its probability in this job's clean run.
        dtype: Type of the weights, on which rounding depends.

    Raises:
        CrossflowError: they differ by more than rounding.
    """
    if not abs(now - answered) <= ROUNDING[dtype]:
        raise CrossflowError(
            f"Question {question_id}: its answer had the probability {answered:.4f}, and now has "
            f"{now:.4f}: the prompt, the image or the model has changed; answer again."
        )


def still_usable(prepared: Prepared | BrokenQuestion, question: ChosenQuestion) -> Prepared:
    """The prepared question, which was answered before.

    Raises:
        CrossflowError: it is no longer usable.
    """
    if isinstance(prepared, BrokenQuestion):
        raise CrossflowError(
            f"Question {question.question_id} was answered before but is no longer usable: {prepared}."
        ) from prepared
    return prepared

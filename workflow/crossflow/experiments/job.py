"""The skeleton that answers, knockouts and the logit lens share: questions in, one entry for each, a table out.

A job reads its questions, prepares them ahead of the model, runs them in batches that follow from the list alone,
keeps every finished question in a journal, and writes its table at the end. A killed job resumes after its last
finished batch. Experiments differ in the function from prepared questions to entries.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from crossflow import __version__
from crossflow.core.code_version import code_version
from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.files import hash_file
from crossflow.core.journal import journal_beside, writing_behind
from crossflow.core.progress import progress_of
from crossflow.core.records import ChosenQuestion
from crossflow.data.images import ImageSource
from crossflow.models.folder import ModelSource
from crossflow.models.model import ROUNDING, ModelSettings, MultimodalModel, Prepared
from crossflow.models.preparing import PrepareRequest, prepared_ahead, workers_for

_LIBRARIES = ("torch", "transformers", "pillow")


@dataclass(frozen=True)
class Job:
    """What every experiment needs.

    Attributes:
        questions: Table of the category's questions.
        output: The result table (parquet).
        images: The data set's images.
        model: The model.
        device: auto (a free GPU, else the CPU), cpu or cuda:N.
        workers: Processes that prepare questions; by default none if the model runs on a CPU.
    """

    questions: Path
    output: Path
    images: ImageSource
    model: ModelSource
    device: str = "auto"
    workers: int | None = None

    @cached_property
    def settings(self) -> ModelSettings:
        """The model's folder and settings."""
        return ModelSettings.of(self.model)

    def determining(self, prompt: str) -> dict[str, Any]:
        """What determines the numbers of any experiment: parameters and hashes, but no path and no time.

        Args:
            prompt: `MultimodalModel.prompt`; a template may write today's date into it.
        """
        model = self.model
        return {
            "version": __version__,
            "questions": hash_file(self.questions),
            "model": model.sha256,
            "prompt": model.prompt,
            "prompt_text": prompt,
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


@contextmanager
def finished_entries(
    job: Job,
    model: MultimodalModel,
    experiment: str,
    determined: Mapping[str, Any],
    batches: Sequence[Sequence[Item]],
    run: Run,
) -> Iterator[tuple[dict[str, Any], dict[str, BrokenQuestion]]]:
    """Run all questions that are not in the job's journal yet, which is removed when the block succeeds.

    The same questions always run together, also after a killed job, because rounding depends on them.

    Args:
        job: The job.
        model: The loaded model.
        experiment: Module of the experiment, whose code version guards the journal; its last part names the progress.
        determined: What determines the numbers.
        batches: The questions, in batches.
        run: The experiment.

    Yields:
        Question id -> entry, and question id -> reason why it cannot be used.

    Raises:
        CrossflowError: the journal cannot be written, or the experiment fails.
    """
    fingerprint = {
        "determined": determined,
        "code": code_version(experiment),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }
    broken: dict[str, BrokenQuestion] = {}
    with journal_beside(job.output, fingerprint) as journal:

        def keep(batch: Sequence[Item], outcomes: Sequence[Outcome]) -> None:
            for item, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, BrokenQuestion):
                    broken[item.question.question_id] = outcome
                elif item.question.question_id not in journal.finished:
                    journal.add(item.question.question_id, outcome())

        pending = [
            batch for batch in batches if any(item.question.question_id not in journal.finished for item in batch)
        ]
        requests = [request for batch in pending for item in batch for request in item.requests]
        total = sum(map(len, batches))
        name = f"{experiment.rpartition('.')[2].replace('_', ' ')}, {job.questions.stem}"
        workers = workers_for(model.device) if job.workers is None else job.workers
        with (
            progress_of(name, total, total - sum(map(len, pending))) as progress,
            prepared_ahead(model, job.images.open, requests, workers) as prepared,
            writing_behind() as give_away,
        ):
            for batch in pending:
                given = [[next(prepared) for _ in item.requests] for item in batch]
                give_away(partial(keep, batch, run(batch, given)))
                progress.update(len(batch))
        yield journal.finished, broken


def require_same_prompt(answers: Path, metadata: Mapping[str, Any], prompt: str) -> None:
    """Refuse a table of answers that were given to another prompt; tables of version 0.1 do not say to which.

    Raises:
        CrossflowError: the prompts differ.
    """
    answered = metadata.get("prompt_text", prompt)
    if answered != prompt:
        raise CrossflowError(
            f"The answers in {answers} were given to the prompt {answered!r}, but the model's template now writes "
            f"{prompt!r}: make the template independent of date and machine, and answer again."
        )


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


def still_usable(given: Given, question: ChosenQuestion) -> Prepared:
    """The prepared question, which was answered before.

    Raises:
        CrossflowError: it is no longer usable.
    """
    (prepared,) = given
    if isinstance(prepared, BrokenQuestion):
        raise CrossflowError(
            f"Question {question.question_id} was answered before but is no longer usable: {prepared}."
        ) from prepared
    return prepared

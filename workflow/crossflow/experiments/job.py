"""The skeleton that answers, knockouts and the logit lens share: questions in, one entry for each, a table out.

A job reads its questions, prepares them ahead of the model, runs them in batches that follow from the list alone,
keeps every finished question in a journal, and writes its table at the end. A killed job goes on where it was. What
distinguishes the experiments is a function from prepared questions to entries.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
from crossflow.data.images import Images
from crossflow.models.model import ModelSettings, MultimodalModel, Prepared
from crossflow.models.preparing import PrepareRequest, prepared_ahead, workers_for

_LIBRARIES = ("torch", "transformers", "pillow")


@dataclass(frozen=True)
class Job:
    """What every experiment is told.

    Attributes:
        questions: Table of the category's questions.
        open_images: Opens the data set's images, once in every process.
        model: The model's folder and settings.
        model_hash: SHA-256 over the model's files.
        output: The table that is written.
        device: ``auto``, or a device of torch's.
        workers: Processes that prepare questions; None: as many as fit the device.
    """

    questions: Path
    open_images: Callable[[], Images]
    model: ModelSettings
    model_hash: str
    output: Path
    device: str = "auto"
    workers: int | None = None

    def determining(self) -> dict[str, Any]:
        """What determines the numbers of any experiment: parameters and hashes, no path and no time."""
        return {
            "version": __version__,
            "questions": hash_file(self.questions),
            "model": self.model_hash,
            "prompt": self.model.prompt,
            "image": self.model.image,
            "patches": self.model.patches,
            "dtype": self.model.dtype,
            "max_new_tokens": self.model.max_new_tokens,
        }


class Item(NamedTuple):
    """One question of a job.

    Attributes:
        question: The question.
        requests: What is prepared for it, in order.
        answer: Its row of the answers table, where the experiment needs one.
    """

    question: ChosenQuestion
    requests: Sequence[PrepareRequest]
    answer: Any = None


Given = Sequence[Prepared | BrokenQuestion]
Outcome = Callable[[], Any] | BrokenQuestion
Run = Callable[[Sequence[Item], Sequence[Given]], Sequence[Outcome]]
"""From a batch and what was prepared for each of its questions to each entry, as a call that is made in another thread
while the next batch runs; or to the reason why a question can not be used."""


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

    Always the same questions run together, wherever a killed job left off: the rounding of a result depends on them.

    Args:
        job: The job.
        model: The loaded model.
        experiment: Module of the experiment, whose code version guards the journal; its last part names the progress.
        determined: What determines the numbers.
        batches: The questions, in batches.
        run: The experiment.

    Yields:
        Question id -> entry, and question id -> reason why it can not be used.

    Raises:
        CrossflowError: the journal can not be written, or whatever the experiment raises.
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
            prepared_ahead(model, job.open_images, requests, workers) as prepared,
            writing_behind() as give_away,
        ):
            for batch in pending:
                given = [[next(prepared) for _ in item.requests] for item in batch]
                give_away(partial(keep, batch, run(batch, given)))
                progress.update(len(batch))
        yield journal.finished, broken


def still_usable(given: Given, question: ChosenQuestion) -> Prepared:
    """The one thing that was prepared for a question which was answered before.

    Raises:
        CrossflowError: it can not be used any more.
    """
    (prepared,) = given
    if isinstance(prepared, BrokenQuestion):
        raise CrossflowError(
            f"Question {question.question_id} was answered but can not be used any more: {prepared}."
        ) from prepared
    return prepared

"""Questions made ready ahead of the model: a core takes about as long to cut a picture as a GPU to knock it out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from crossflow.edges import moved_boxes
from crossflow.errors import BrokenQuestion, CrossflowError
from crossflow.gqa import ChosenQuestion, Pictures
from crossflow.models import MultimodalModel, Prepared, sketch_model

MOST_WORKERS = 8


class Asking(NamedTuple):
    """A question about a picture.

    Attributes:
        question: The question.
        image_id: The picture; not its own where pictures are swapped.
        moved: Seed of the objects' boxes in another place; None where nothing asks for them.
    """

    question: ChosenQuestion
    image_id: str
    moved: int | None = None


def _prepare(model: MultimodalModel, pictures: Pictures, asking: Asking) -> Prepared:
    picture = pictures.open(asking.image_id)
    moved = []
    if asking.moved is not None:
        moved = moved_boxes([chosen.box for chosen in asking.question.objects], picture.size, asking.moved)
    return model.prepare(asking.question, picture, moved)


class _Askings(Dataset[Prepared | Exception]):
    """Prepares without weights and with pictures of its own: a file that is shared has one position for all."""

    def __init__(self, sketch: MultimodalModel, open_pictures: Callable[[], Pictures], askings: Sequence[Asking]):
        self._sketch = sketch
        self._open = open_pictures
        self._askings = askings
        self._pictures: Pictures | None = None

    def __len__(self) -> int:
        return len(self._askings)

    def __getitem__(self, place: int) -> Prepared | Exception:
        try:
            if self._pictures is None:
                self._pictures = self._open()
            return _prepare(self._sketch, self._pictures, self._askings[place])
        except (BrokenQuestion, CrossflowError) as error:
            return error


def workers_for(device: torch.device) -> int:
    """How many processes prepare questions: none beside a model on the CPU, whose cores they would take."""
    return 0 if device.type == "cpu" else min(MOST_WORKERS, max(1, torch.get_num_threads() - 1))


def _here(model: MultimodalModel, pictures: Pictures, askings: Sequence[Asking]) -> Iterator[Prepared | BrokenQuestion]:
    for asking in askings:
        try:
            yield _prepare(model, pictures, asking)
        except BrokenQuestion as reason:
            yield reason


def _killed() -> CrossflowError:
    return CrossflowError(
        "A process that prepares questions was killed; what was finished is kept, run again (with --workers 0 if "
        "memory is short)."
    )


def _received(found: Iterable[Prepared | Exception]) -> Iterator[Prepared | Exception]:
    """What comes from the processes; the memory of a tensor is asked of the one that made it, which may be gone."""
    try:
        yield from found
    except (EOFError, ConnectionError, FileNotFoundError) as error:
        if "in DataLoader worker process" in str(error):
            raise  # A living process met it and passed it on.
        raise _killed() from error


def _elsewhere(found: Iterable[Prepared | Exception], device: torch.device) -> Iterator[Prepared | BrokenQuestion]:
    for each in _received(found):
        if isinstance(each, Prepared):
            yield each.to(device)
        elif isinstance(each, BrokenQuestion):
            yield each
        else:
            raise each


def _tells_of_a_worker(error: BaseException | None) -> bool:
    """Whether a worker's death is behind an error: it is raised wherever this process is, and may be wrapped."""
    while error is not None:
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def prepared_ahead(
    model: MultimodalModel, open_pictures: Callable[[], Pictures], askings: Sequence[Asking], workers: int
) -> Iterator[Iterator[Prepared | BrokenQuestion]]:
    """Questions as `MultimodalModel.prepare` makes them, in order, on the model's device; or why one can not be used.

    Args:
        model: The model.
        open_pictures: Opens the pictures, once in every process.
        askings: What is asked.
        workers: How many processes prepare ahead; with none, each question is prepared when it is asked for.

    Raises:
        CrossflowError: as `MultimodalModel.prepare`, or a process was killed.
    """
    if not workers or not askings:
        with open_pictures() as pictures:
            yield _here(model, pictures, askings)
        return
    sketch = sketch_model(model.settings, torch.device("cpu"))
    pinned = model.device.type == "cuda"
    loader = DataLoader(
        _Askings(sketch, open_pictures, askings), batch_size=None, num_workers=workers, pin_memory=pinned
    )
    try:
        yield _elsewhere(loader, model.device)
    except Exception as error:
        if not _tells_of_a_worker(error):
            raise
        raise _killed() from error


def still_usable(prepared: Prepared | BrokenQuestion, question: ChosenQuestion) -> Prepared:
    """A question that was answered before.

    Raises:
        CrossflowError: it can not be used any more.
    """
    if isinstance(prepared, BrokenQuestion):
        raise CrossflowError(
            f"Question {question.question_id} was answered but can not be used any more: {prepared}."
        ) from prepared
    return prepared

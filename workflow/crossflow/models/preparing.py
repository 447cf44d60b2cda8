"""Preprocess questions in worker processes: a CPU core needs about as long to cut an image into tiles as a GPU needs
for the question's knockouts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.records import ChosenQuestion
from crossflow.data.boxes import moved_boxes
from crossflow.data.images import Images, fitted
from crossflow.models.loading import sketch_model
from crossflow.models.model import MultimodalModel, Prepared

MOST_WORKERS = 8


class PrepareRequest(NamedTuple):
    """A question to prepare with an image.

    Attributes:
        question: The question.
        image_id: The image; another question's if images are swapped.
        moved: Seed for moving the objects' boxes; None if no flow needs moved boxes.
    """

    question: ChosenQuestion
    image_id: str
    moved: int | None = None


def prepare(model: MultimodalModel, request: PrepareRequest, image: Image.Image) -> Prepared:
    """Prepare a question with its image, and move the objects' boxes if the request asks for it.

    Raises:
        BrokenQuestion, CrossflowError: as `MultimodalModel.prepare`.
    """
    question = fitted(request.question, image.size)
    moved = []
    if request.moved is not None:
        moved = moved_boxes([chosen.box for chosen in question.objects], image.size, request.moved)
    return model.prepare(question, image, moved)


def _prepare(model: MultimodalModel, images: Images, request: PrepareRequest) -> Prepared:
    return prepare(model, request, images.open(request.image_id, request.question.image_size))


class _Requests(Dataset[Prepared | Exception]):
    """Prepares without weights, and opens the images itself, because processes that share a file share its position."""

    def __init__(self, sketch: MultimodalModel, open_images: Callable[[], Images], requests: Sequence[PrepareRequest]):
        self._sketch = sketch
        self._open = open_images
        self._asked = requests
        self._images: Images | None = None

    def __len__(self) -> int:
        return len(self._asked)

    def __getitem__(self, place: int) -> Prepared | Exception:
        try:
            if self._images is None:
                self._images = self._open()
            return _prepare(self._sketch, self._images, self._asked[place])
        except (BrokenQuestion, CrossflowError) as error:
            return error


def workers_for(device: torch.device) -> int:
    """Number of processes that prepare questions: none if the model runs on the CPU, whose cores they would take."""
    return 0 if device.type == "cpu" else min(MOST_WORKERS, max(1, torch.get_num_threads() - 1))


def _here(
    model: MultimodalModel, images: Images, requests: Sequence[PrepareRequest]
) -> Iterator[Prepared | BrokenQuestion]:
    for request in requests:
        try:
            yield _prepare(model, images, request)
        except BrokenQuestion as reason:
            yield reason


def _killed() -> CrossflowError:
    return CrossflowError(
        "A process that prepares questions was killed; finished work is kept: run again (with --workers 0 if "
        "memory is short)."
    )


def _received(found: Iterable[Prepared | Exception]) -> Iterator[Prepared | Exception]:
    """Results of the processes; receiving a tensor fails if the process that made it is gone."""
    try:
        yield from found
    except (EOFError, ConnectionError, FileNotFoundError) as error:
        if "in DataLoader worker process" in str(error):
            raise  # A worker's own error: the worker is alive and passed it on.
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
    """Whether a worker's death caused an error: torch raises it anywhere in this process, possibly wrapped."""
    while error is not None:
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def prepared_ahead(
    model: MultimodalModel, open_images: Callable[[], Images], requests: Sequence[PrepareRequest], workers: int
) -> Iterator[Iterator[Prepared | BrokenQuestion]]:
    """Prepare questions in order, on the model's device; a question that cannot be used yields its reason.

    Args:
        model: The model.
        open_images: Opens the images, once in every process.
        requests: The questions with their images.
        workers: Number of processes; with 0, each question is prepared when it is needed.

    Raises:
        CrossflowError: as `MultimodalModel.prepare`, or a process was killed.
    """
    if not workers or not requests:
        with open_images() as images:
            yield _here(model, images, requests)
        return
    sketch = sketch_model(model.settings, torch.device("cpu"))
    pinned = model.device.type == "cuda"
    loader = DataLoader(
        _Requests(sketch, open_images, requests), batch_size=None, num_workers=workers, pin_memory=pinned
    )
    try:
        yield _elsewhere(loader, model.device)
    except Exception as error:
        if not _tells_of_a_worker(error):
            raise
        raise _killed() from error

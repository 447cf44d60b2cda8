"""Questions made ready ahead of the model: a core takes about as long to cut an image as a GPU to knock it out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.records import ChosenQuestion
from crossflow.data.boxes import moved_boxes
from crossflow.data.images import Images
from crossflow.models.loading import sketch_model
from crossflow.models.model import MultimodalModel, Prepared

MOST_WORKERS = 8


class PrepareRequest(NamedTuple):
    """A question about an image.

    Attributes:
        question: The question.
        image_id: The image; not its own where images are swapped.
        moved: Seed of the objects' boxes in another place; None where nothing asks for them.
    """

    question: ChosenQuestion
    image_id: str
    moved: int | None = None


def _prepare(model: MultimodalModel, images: Images, request: PrepareRequest) -> Prepared:
    image = images.open(request.image_id)
    moved = []
    if request.moved is not None:
        moved = moved_boxes([chosen.box for chosen in request.question.objects], image.size, request.moved)
    return model.prepare(request.question, image, moved)


class _Requests(Dataset[Prepared | Exception]):
    """Prepares without weights and with images of its own: a file that is shared has one position for all."""

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
    """How many processes prepare questions: none beside a model on the CPU, whose cores they would take."""
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
    model: MultimodalModel, open_images: Callable[[], Images], requests: Sequence[PrepareRequest], workers: int
) -> Iterator[Iterator[Prepared | BrokenQuestion]]:
    """Questions as `MultimodalModel.prepare` makes them, in order, on the model's device; or why one can not be used.

    Args:
        model: The model.
        open_images: Opens the images, once in every process.
        requests: What is asked.
        workers: How many processes prepare ahead; with none, each question is prepared when it is asked for.

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

"""A sample of a study's images, opened as its jobs will open them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from crossflow.core.errors import BrokenQuestion
from crossflow.core.records import ChosenQuestion
from crossflow.core.tables import read_csv
from crossflow.data.gqa import first_scenes
from crossflow.data.images import ImageSource, fitted
from crossflow.data.question_table import read_question_table
from crossflow.fetch.image_archive import COLUMNS
from crossflow.study import inputs
from crossflow.study.parameters import Study

SAMPLE = 48  # images
_PLAIN = ("RGB", "L")  # modes that lose nothing in RGB


class Sample(NamedTuple):
    """What was found.

    Attributes:
        looked: Number of images.
        broken: Reasons why images cannot be used.
        changed: How images are changed before a model sees them -> their number.
    """

    looked: int
    broken: Sequence[str]
    changed: Mapping[str, int]


def _about(image_id: str, size: tuple[int, int] | None) -> ChosenQuestion:
    """A question without words about an image."""
    return ChosenQuestion("", image_id, "", "", "", "", None, None, (), size)


def _questions(config: Mapping[str, Any], study: Study) -> Iterator[ChosenQuestion]:
    """Questions of the study, or one about each image that was downloaded or has one of the first scene graphs."""
    if inputs.is_table(config, study.dataset):
        (file,) = inputs.question_files(config, study.dataset, study.categories[0])
        yield from read_question_table(Path(file), Path(inputs.dataset_root(config, study.dataset)))
    elif inputs.is_fetched(config, study.dataset):
        for category in study.categories:
            for row in read_csv(Path(inputs.fetched_images(config, study, category)), COLUMNS):
                yield _about(row["image_id"], None)
    else:
        for scenes in inputs.gqa_files(config, study.dataset)[1:]:
            for scene in first_scenes(Path(scenes), SAMPLE):
                yield _about(scene.image_id, scene.size)


def look_at_images(config: Mapping[str, Any], study: Study) -> Sample:
    """Open a sample of a study's images.

    Raises:
        CrossflowError: the questions or the images cannot be read.
    """
    broken: list[str] = []
    changed: Counter[str] = Counter()
    by_image = {question.image_id: question for question in _questions(config, study)}
    step = max(1, len(by_image) // SAMPLE)
    sample = list(islice(by_image.values(), 0, SAMPLE * step, step))
    root = Path(inputs.dataset_root(config, study.dataset))
    source = ImageSource(images=root) if inputs.is_table(config, study.dataset) else ImageSource(root)
    with source.open() as images:
        for question in sample:
            try:
                opened = images.look(question.image_id, question.image_size)
                fitted(question, opened.image.size)
            except BrokenQuestion as reason:
                broken.append(str(reason))
                continue
            changed["turned as EXIF says"] += opened.turned
            changed[f"converted from mode {opened.mode}"] += opened.mode not in _PLAIN
            rescaled = question.image_size is not None and question.image_size != opened.image.size
            changed["of another scale than their boxes, which are scaled"] += rescaled
    return Sample(len(sample), broken, +changed)

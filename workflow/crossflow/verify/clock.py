"""The hours of a study, from what a question costs: a model of the clock, not a measurement.

A model has an answers job, with the logit lens, and a knockout job for each width of the window. Each job loads the
model (imports, and weights from a disk), and then asks its questions.

*Device*: the time of the arithmetic.
*Host*: launches, as `tests/engine/test_fake_cuda.py` counts them, times what a launch costs by `benchmarks/host.py`.
*Images*: the time of Pillow, shared by the processes that prepare questions.

On a GPU, the three work side by side, so a job takes as long as the slowest of them. A CPU does all of it itself, and
what its launches take is part of its arithmetic.
"""

from dataclasses import dataclass
from typing import NamedTuple

# Seconds of a launch: those of the answers in benchmarks/host.py, on a slow core, the model's arithmetic included.
LAUNCH = 40e-6
# Launches of a question in a layer, as many questions together as the plan allows at these lengths.
KNOCKOUT_LAUNCHES = 17.2 + 38.3 + 15.8  # clean run, knockouts, attention mass, of three questions
GROUPED_LAUNCHES = 11  # more, where several query heads share a key
ANSWER_LAUNCHES = {False: 27.7, True: 56.4}  # of eight questions, or of three with tiled images
# Seconds of one image in one process: padded, or tiled.
IMAGE = {False: 0.024, True: 0.060}
WORKERS = 4
IMPORTS = 10.0
DISK = 1e9
"""Bytes a second."""


@dataclass(frozen=True)
class Cost:
    """What a model and a question of it cost on a device.

    Attributes:
        layers: Decoder layers.
        tiled: Whether the vision tower sees an image in several tiles.
        grouped: Whether several query heads share a key.
        weights: Bytes of the model's files.
        answer: Seconds of the device for an answer.
        knockouts: Seconds of the device for the clean run and all knockouts of a question; one number for each window.
        beside: Whether host and images work beside the device.
    """

    layers: int
    tiled: bool
    grouped: bool
    weights: float
    answer: float
    knockouts: tuple[float, ...]
    beside: bool = True


class Job(NamedTuple):
    """The seconds of a model's jobs of one kind.

    Attributes:
        load: Until the first question.
        device, host, images: See the module.
        total: Until the last question is done.
    """

    load: float
    device: float
    host: float
    images: float
    total: float


class Clock(NamedTuple):
    """The seconds of one model in a study."""

    answers: Job
    knockouts: Job

    @property
    def total(self) -> float:
        """Until the last job ends, one after the other."""
        return self.answers.total + self.knockouts.total


def clock_of(cost: Cost, questions: int) -> Clock:
    """The clock of one model for a number of questions."""

    def jobs(count: int, device: float, launches: float) -> Job:
        load = count * (IMPORTS + cost.weights / DISK)
        if cost.beside:
            host = questions * count * cost.layers * launches * LAUNCH
            images = questions * count * IMAGE[cost.tiled] / WORKERS
            return Job(load, questions * device, host, images, load + max(questions * device, host, images))
        images = questions * count * IMAGE[cost.tiled]
        return Job(load, questions * device, 0.0, images, load + questions * device + images)

    return Clock(
        jobs(1, cost.answer, ANSWER_LAUNCHES[cost.tiled]),
        jobs(len(cost.knockouts), sum(cost.knockouts), KNOCKOUT_LAUNCHES + GROUPED_LAUNCHES * cost.grouped),
    )

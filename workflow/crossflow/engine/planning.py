"""The memory plan of a job, logged before any weight is read: how many questions run together.

A job that cannot fit is refused.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image

from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.flows import SWAPPED, is_visual, parse_flow, sets_of
from crossflow.core.records import ChosenQuestion
from crossflow.models.loading import sketch_model
from crossflow.models.memory import ENOUGH, GIB, Sizes, batches, capacity, enough_positions, total_memory
from crossflow.models.model import DTYPES, ModelSettings, MultimodalModel, Prepared
from crossflow.models.prompts import render, repeated, tokenize

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Most questions that run together."""

# Targets that start before the end of the image: their rows may be as long as the prompt.
_BEFORE_TEXT = {"system", "text_sinks"}


@dataclass(frozen=True)
class Plan:
    """The memory of a job, in bytes.

    Attributes:
        weights: The model.
        question: Questions before any row: an answer, or the clean runs.
        rows: The largest batch of rows with the records it runs against; 0 without rows.
        least: One question and a single row.
        batch: Rows of the largest batch.
        questions: How many questions run together.
    """

    weights: int
    question: int
    rows: int = 0
    least: int = 0
    batch: int = 0
    questions: int = 1

    @property
    def total(self) -> int:
        """The peak."""
        return self.weights + max(self.question, self.rows)

    @property
    def smallest(self) -> int:
        """The least that the job needs."""
        return self.weights + self.least


def plan_answers(
    sizes: Sizes,
    positions: int,
    new_tokens: int,
    available: int,
    enough: int = ENOUGH["cuda"],
    prompts: int = 1,
) -> Plan:
    """The memory of an answers job.

    Args:
        sizes: Those of the model.
        positions: Length of the longest prompt.
        new_tokens: Most tokens of an answer.
        available: Bytes to plan with; fewer questions run together if they do not fit.
        enough: Positions beyond which no question is added; see `ENOUGH`.
        prompts: Prompts of a question, each with another image.
    """
    one = sizes.answer(positions, new_tokens)
    room = (available - sizes.weights) // (one * prompts)
    questions = max(1, min(AT_ONCE, enough // (positions * prompts), room))
    return Plan(sizes.weights, questions * prompts * one, least=one, questions=questions)


def plan_knockout(
    sizes: Sizes,
    positions: int,
    image_stop: int,
    flows: Sequence[str],
    available: int,
    batched: bool = True,
    enough: int = ENOUGH["cuda"],
) -> Plan:
    """The memory of a knockout job.

    Args:
        sizes: Those of the model.
        positions: Length of the longest prompt.
        image_stop: The position after its image.
        flows: Names of the flows.
        available: Bytes to plan with; batches are cut to fit.
        batched: Whether rows run together as suffixes; otherwise each is a full forward, as in the reference.
        enough: Positions of a batch beyond which no row is added; see `ENOUGH`.
    """

    def first_of(name: str) -> int:
        named = sets_of(name)
        if "last" in named:
            return positions - 1
        return 0 if is_visual(name) or _BEFORE_TEXT.issuperset(named) else image_stop

    parsed = [parse_flow(flow) for flow in flows]
    starts = Counter(min(first_of(part.target) for part in flow.parts) for flow in parsed)
    # A substitution reads a donor's keys and values, and its masks and prefix are up to twice as long.
    donors = {flow.substitute for flow in parsed} - {None}
    first = min(starts)
    # Each start position has a further row without edges, which shows the noise floor.
    rows = [
        (sizes.row(positions, start), positions - start)
        for start, count in starts.items()
        for _ in range(count * sizes.layers + 1)
    ]
    kept = sizes.record(positions, first) + sizes.measures(len(rows))
    groups = sum((count + 1) * sizes.group(positions, start) for start, count in starts.items())
    kept += groups * (2 if donors else 1) + len(donors) * sizes.record(positions, positions - 1)
    prompts = 2 if SWAPPED in donors else 1
    clean_run = sizes.clean_runs(prompts, positions, first)
    if not batched:
        alone = kept + sizes.forward(positions)
        return Plan(sizes.weights, clean_run, alone, max(clean_run, alone), 1)

    def plan(questions: int) -> Plan:
        together = rows * questions
        parts = batches(together, available - sizes.weights - questions * kept - sizes.batch([]), 2 * enough)
        largest = max(sizes.batch(size for size, _ in together[part.start : part.stop]) for part in parts)
        clean_runs = sizes.clean_runs(questions * prompts, positions, first)
        least = max(clean_run, kept + sizes.batch([max(rows)[0]]))
        return Plan(sizes.weights, clean_runs, questions * kept + largest, least, max(map(len, parts)), questions)

    length = sum(span for _, span in rows)
    fewer = (plan(questions) for questions in range(min(AT_ONCE, -(-enough // length)), 1, -1))
    whole = (each for each in fewer if each.batch == len(rows) * each.questions and each.total <= available)
    return next(whole, plan(1))


def _longest(sketch: MultimodalModel, questions: Sequence[ChosenQuestion], size: tuple[int, int]) -> Prepared | None:
    """The longest prompt of some questions, with an image of the given size; None if none can be prepared."""
    processor = sketch.processor

    def length(question: ChosenQuestion) -> int:
        try:
            prompt = render(sketch.settings.prompt, question.question, processor, sketch.settings.instruction)
            return len(tokenize(prompt, processor, repeated(processor, 1)).ids)
        except BrokenQuestion:
            return 0

    longest = max(questions, key=length, default=None)
    if longest is None or not length(longest):
        return None
    return sketch.prepare(replace(longest, objects=()), Image.new("RGB", size))


def _gib(number: int) -> str:
    return f"{number / GIB:.1f}" if number >= 0.1 * GIB else f"{number / GIB:.3f}"


def plan_parts(
    settings: ModelSettings,
    parts: Sequence[Sequence[ChosenQuestion]],
    device: torch.device,
    flows: Sequence[str] | None = None,
    batched: bool = True,
    prompts: int = 1,
) -> list[int]:
    """Plan how many questions of each part of a job run together, and log the memory that the largest part needs.

    A plan follows from the part's longest prompt with the image of the most visual tokens, so that it is the same
    whatever other parts a job has. That image is the largest that the model's processor makes, or, where this has no
    bound of use, the largest of the part.

    Args:
        settings: The model.
        parts: The job's questions.
        device: The job's device.
        flows: The flows of a knockout job; None for an answers job.
        batched: See `plan_knockout`.
        prompts: See `plan_answers`.

    Raises:
        CrossflowError: the model, one question and one row do not fit into the device, or the model's folder or
            processor is not as expected.
    """
    sketch = sketch_model(settings, torch.device("cpu"))
    available, enough = capacity(device), enough_positions(device)
    plans = []
    for questions in parts:
        known = {question.image_size for question in questions}
        sizes = sketch.sizes_for(sorted(size for size in known if size) if None not in known else ())
        longest = _longest(sketch, questions, sizes.largest)
        positions = sizes.visual + 1 if longest is None else longest.length
        image_stop = sizes.visual if longest is None else int(longest.positions["image"][-1]) + 1
        if flows is None:
            plan = plan_answers(sizes, positions, settings.max_new_tokens, available, enough, prompts)
        else:
            plan = plan_knockout(sizes, positions, image_stop, flows, available, batched, enough)
        plans.append((plan, positions))
    if plans:
        _announce(settings, device, available, *max(plans, key=lambda plan: plan[0].total), flows is None)
    return [plan.questions for plan, _ in plans]


def _announce(
    settings: ModelSettings,
    device: torch.device,
    available: int,
    plan: Plan,
    positions: int,
    answers: bool,
) -> None:
    """Log a plan, or refuse it."""
    if answers:
        parts = f"{_gib(plan.question)} for the answers to {plan.questions} questions"
    else:
        parts = (
            f"{_gib(plan.question)} for clean runs, or {_gib(plan.rows)} for {plan.batch} rows at a time, of "
            f"{plan.questions} questions"
        )
    whole = total_memory(device)
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "this machine"
    if plan.smallest > available:
        advice = "set a dtype of half its size, or take" if DTYPES[settings.dtype].itemsize > 2 else "take"
        raise CrossflowError(
            f"The model in {settings.path} needs {_gib(plan.smallest)} GiB of memory as {settings.dtype} (weights "
            f"{_gib(plan.weights)}, then a prompt of up to {positions} positions), but {name} has {_gib(whole)}, of "
            f"which {_gib(available)} are planned with: {advice} a device with more memory."
        )
    log.info(
        "memory: %s GiB of %s on %s: weights %s as %s, then %s (prompts of up to %d positions)",
        _gib(plan.total), _gib(whole), name, _gib(plan.weights), settings.dtype, parts, positions,
    )  # fmt: skip

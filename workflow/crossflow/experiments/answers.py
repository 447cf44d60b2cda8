"""Greedy answers, with the image and without it.

Three baselines take the image away. *Removed*: its tokens are there, but no other position attends to them. *Zeroed*:
the vision tower is given zeros, which is the mean colour. *Swapped*: the image of another question.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossflow.core.columns import SKIPPED
from crossflow.core.devices import take_device
from crossflow.core.errors import BrokenQuestion, require_some_usable
from crossflow.core.records import ChosenQuestion
from crossflow.core.seeds import derived_seed
from crossflow.core.tables import ANSWERS, write_csv, write_parquet
from crossflow.data.chosen import read_chosen
from crossflow.data.text import composed
from crossflow.engine.greedy import Generated, generate
from crossflow.engine.planning import announce
from crossflow.experiments.job import Given, Item, Job, Outcome, finished_entries
from crossflow.experiments.option_tokens import option_tokens
from crossflow.models.loading import load_model
from crossflow.models.memory import halving
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.preparing import PrepareRequest


class Answer(NamedTuple):
    """One generated answer.

    Attributes:
        text: The decoded tokens, without special tokens, stripped.
        tokens: The generated tokens.
        probabilities: Of the first token, over the vocabulary, fp64.
    """

    text: str
    tokens: list[int]
    probabilities: Tensor


def is_correct(generated: str, answer: str) -> bool:
    """The published rule: the whole generated text, stripped and lower-cased, equals the gold answer."""
    return composed(generated).strip().lower() == answer.strip().lower()


def _stop_tokens(model: MultimodalModel) -> list[int]:
    """The tokens that end an answer."""
    stop = model.network.generation_config.eos_token_id
    stop = model.processor.tokenizer.eos_token_id if stop is None else stop
    return stop if isinstance(stop, list) else [stop]


def answer_together(
    model: MultimodalModel, prompts: Sequence[Prepared], blind: Sequence[bool]
) -> list[tuple[Answer, Answer | None]]:
    """The model's greedy answer to each prompt, and where asked the one with the visual tokens hidden from all others.

    Greedy whatever the folder's generation_config.json asks for, up to ``max_new_tokens`` tokens.

    Args:
        model: The model.
        prompts: The prompts.
        blind: Which of them are also answered with the image hidden.

    Raises:
        torch.OutOfMemoryError: a single prompt does not fit into memory.
    """
    if not prompts:
        return []
    stop, most = _stop_tokens(model), model.settings.max_new_tokens
    ran = halving(
        list(zip(prompts, blind, strict=True)),
        lambda part: generate(model, [prompt for prompt, _ in part], [hidden for _, hidden in part], stop, most),
        "prompts",
    )
    found = [each for pair in ran for each in pair if each is not None]
    with torch.inference_mode():
        logits = torch.stack([each.logits for each in found])
        probabilities = iter(torch.softmax(logits.double(), dim=-1).cpu())

    def answer_of(generated: Generated | None) -> Answer | None:
        if generated is None:
            return None
        text = model.processor.tokenizer.decode(generated.tokens, skip_special_tokens=True).strip()
        return Answer(text, generated.tokens, next(probabilities))

    return [(answer_of(seeing), answer_of(hidden)) for seeing, hidden in ran]  # type: ignore[misc]


def answer(model: MultimodalModel, prepared: Prepared) -> Answer:
    """The model's greedy answer to one prompt."""
    ((seeing, _),) = answer_together(model, [prepared], [False])
    return seeing


def zeroed(prepared: Prepared) -> Prepared:
    """The same prompt with zeroed pixels."""
    pixels = torch.zeros_like(prepared.inputs["pixel_values"])
    return replace(prepared, inputs=prepared.inputs | {"pixel_values": pixels})


def swapped_images(questions: Sequence[ChosenQuestion], seed: int) -> dict[str, str]:
    """Question -> the image of a random other question; left out where there is no other image."""
    images = np.array([question.image_id for question in questions])
    swapped = {}
    for question in questions:
        others = images[images != question.image_id]
        if len(others):
            generator = np.random.default_rng(derived_seed(seed, question.question_id, "swapped"))
            swapped[question.question_id] = str(generator.choice(others))
    return swapped


def _rows(
    model: MultimodalModel, questions: Sequence[tuple[Prepared, Prepared | None]], baselines: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of some questions, each with its swapped image if there is one."""
    prompts = [prepared for prepared, _ in questions]
    others: list[tuple[int, str, Prepared]] = []
    for number, (prepared, swapped) in enumerate(questions):
        if "zeroed" in baselines:
            others.append((number, "zeroed", zeroed(prepared)))
        if swapped is not None:
            others.append((number, "swapped", swapped))
    answered = answer_together(
        model, [*prompts, *(other for _, _, other in others)], [True] * len(prompts) + [False] * len(others)
    )
    rows = [_row(model, prepared, *pair) for prepared, pair in zip(prompts, answered, strict=False)]  # type: ignore[arg-type]
    for (number, baseline, _), (found, _) in zip(others, answered[len(prompts) :], strict=True):
        row = rows[number]
        row[f"generated_{baseline}"] = found.text
        row[f"correct_{baseline}"] = is_correct(found.text, prompts[number].question.answer)
        row[f"p_{baseline}"] = float(found.probabilities[row["first_token"]])
    return rows


def _row(model: MultimodalModel, prepared: Prepared, seeing: Answer, blind: Answer) -> dict[str, Any]:
    question = prepared.question
    first_token = seeing.tokens[0]
    options = option_tokens(model.processor.tokenizer, seeing.text, question.true_option, question.false_option)
    return dict.fromkeys(ANSWERS.names) | {
        "question_id": question.question_id,
        "image_id": question.image_id,
        "generated": seeing.text,
        "correct": is_correct(seeing.text, question.answer),
        "first_token": first_token,
        "p_clean": float(seeing.probabilities[first_token]),
        "generated_blind": blind.text,
        "correct_blind": is_correct(blind.text, question.answer),
        "p_blind": float(blind.probabilities[first_token]),
        "tokens": prepared.positions.length,
        "options_coincide": None if options is None else options.true == options.false,
        "answer_tokens": seeing.tokens,
    }


def write_answers(
    job: Job, skipped: Path, baselines: tuple[Literal["zeroed", "swapped"], ...] = (), seed: int = 0
) -> None:
    """Answer the questions of one category, with the image and without it.

    Finished questions survive a killed job.

    Args:
        job: The job.
        skipped: Table of the questions that cannot be used (CSV).
        baselines: Further answers without the image.
        seed: Seed of the swapped images.

    Raises:
        CrossflowError: the model cannot be used, or none of the questions.
    """
    questions = read_chosen(job.questions)
    device = take_device(job.device)
    plan = announce(job.settings, questions, device, prompts=1 + len(baselines))
    model = load_model(job.settings, device)
    determined = job.determining(model.prompt) | {"baselines": list(baselines), "seed": seed}
    swapped = swapped_images(questions, seed) if "swapped" in baselines else {}

    def requests(question: ChosenQuestion) -> list[PrepareRequest]:
        """The question, and at once with the other image if it has one."""
        own, other = PrepareRequest(question, question.image_id), swapped.get(question.question_id)
        # The boxes are not about the other image, whatever its size.
        return [own] if other is None else [own, PrepareRequest(replace(question, image_size=None), other)]

    def run(batch: Sequence[Item], given: Sequence[Given]) -> list[Outcome]:
        usable: list[tuple[Prepared, Prepared | None]] = []
        outcomes: list[Outcome | None] = []
        for seen, *other in given:
            broken = next((each for each in (seen, *other) if isinstance(each, BrokenQuestion)), None)
            outcomes.append(broken)
            if broken is None:
                usable.append((seen, other[0] if other else None))  # type: ignore[arg-type]
        rows = iter(_rows(model, usable, baselines))
        return [partial(dict, next(rows)) if outcome is None else outcome for outcome in outcomes]

    at_once = 1 if plan is None else plan.questions
    batches = [
        [Item(question, requests(question)) for question in questions[first : first + at_once]]
        for first in range(0, len(questions), at_once)
    ]
    with finished_entries(job, model, __name__, determined, batches, run) as (entries, broken):
        require_some_usable(broken, len(questions), job.questions)
        rows = [entries[question.question_id] for question in questions if question.question_id not in broken]
        lost = [
            {
                "question_id": question.question_id,
                "image_id": question.image_id,
                "reason": str(broken[question.question_id]),
            }
            for question in questions
            if question.question_id in broken
        ]
        write_csv(skipped, SKIPPED, lost)
        write_parquet(job.output, ANSWERS, rows, determined | {"layers": len(model.layers), "answered": len(rows)})

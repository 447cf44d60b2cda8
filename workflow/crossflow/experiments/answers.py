"""Greedy answers, with the image and without it.

Three baselines take the image away. *Removed*: its tokens are there, but no other position attends to them. *Zeroed*:
the vision tower is given zeros, which is the mean colour. *Swapped*: the image of another question.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig

from crossflow.core.columns import SKIPPED
from crossflow.core.devices import take_device
from crossflow.core.errors import BrokenQuestion, require_some_usable
from crossflow.core.records import ChosenQuestion
from crossflow.core.seeds import derived_seed
from crossflow.core.tables import ANSWERS, write_csv, write_parquet
from crossflow.data.chosen import read_chosen
from crossflow.engine.forward import image_removed
from crossflow.engine.planning import announce
from crossflow.experiments.job import Given, Item, Job, Outcome, finished_entries
from crossflow.experiments.option_tokens import option_tokens
from crossflow.models.attention import Mode, Plain, using
from crossflow.models.loading import load_model
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
    return generated.strip().lower() == answer.strip().lower()


def _greedy(model: MultimodalModel) -> GenerationConfig:
    """Greedy decoding, whatever the folder's generation_config.json asks for."""
    folder = model.network.generation_config
    stop = folder.eos_token_id if folder.eos_token_id is not None else model.processor.tokenizer.eos_token_id
    first_stop = stop[0] if isinstance(stop, list) else stop
    pad = model.processor.tokenizer.pad_token_id
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        num_beams=1,
        max_new_tokens=model.settings.max_new_tokens,
        eos_token_id=stop,
        pad_token_id=first_stop if pad is None else pad,
        bos_token_id=folder.bos_token_id,
    )


def _generate(model: MultimodalModel, prepared: Prepared, mode: Mode, cache: DynamicCache) -> Answer:
    first_states: list[Tensor] = []

    def keep(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not first_states:
            first_states.append(output[:, -1])

    # generate() falls back on the folder's own settings for whatever is unset, so they are put aside.
    folder = model.network.generation_config
    greedy = _greedy(model)
    model.network.generation_config = greedy
    handle = model.norm.register_forward_hook(keep)
    try:
        with using(mode), torch.inference_mode():
            generated = model.network.generate(
                **prepared.inputs, generation_config=greedy, **{model.cache_argument: cache}
            )
    finally:
        handle.remove()
        model.network.generation_config = folder
    tokens = generated[0, prepared.positions.length :].tolist()
    text = model.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    logits = model.logits(first_states[0])[0]
    return Answer(text, tokens, torch.softmax(logits.double(), dim=-1))


def _empty_cache() -> DynamicCache:
    # A cache made for the model forgets what a sliding window has left behind; positions would be shifted.
    return DynamicCache()


def answer(model: MultimodalModel, prepared: Prepared) -> Answer:
    """The model's greedy answer."""
    return _generate(model, prepared, Plain(), _empty_cache())


def answer_blind(model: MultimodalModel, prepared: Prepared) -> Answer:
    """The greedy answer with the visual tokens hidden from every other position, in every layer."""
    return _generate(model, prepared, image_removed(prepared), _empty_cache())


def answer_seeing_and_blind(model: MultimodalModel, prepared: Prepared) -> tuple[Answer, Answer]:
    """Both `answer` and `answer_blind`, at little more than the cost of the first.

    Removing the image changes nothing up to its end, so the second goes on from there, on the keys and values of the
    first.
    """
    cache = _empty_cache()
    seeing = _generate(model, prepared, Plain(), cache)
    image_stop = int(prepared.positions["image"][-1]) + 1
    cache.crop(image_stop - cache.get_seq_length())
    return seeing, _generate(model, prepared.without_pixels(), image_removed(prepared), cache)


def answer_zeroed(model: MultimodalModel, prepared: Prepared) -> Answer:
    """The greedy answer to zeroed pixels."""
    pixels = torch.zeros_like(prepared.inputs["pixel_values"])
    return answer(model, replace(prepared, inputs=prepared.inputs | {"pixel_values": pixels}))


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


def _row(
    model: MultimodalModel, prepared: Prepared, baselines: Sequence[str], swapped: Prepared | None
) -> dict[str, Any]:
    question = prepared.question
    seeing, blind = answer_seeing_and_blind(model, prepared)
    first_token = seeing.tokens[0]
    options = option_tokens(model.processor.tokenizer, seeing.text, question.true_option, question.false_option)
    others: dict[str, Answer] = {}
    if "zeroed" in baselines:
        others["zeroed"] = answer_zeroed(model, prepared)
    if swapped is not None:
        others["swapped"] = answer(model, swapped)
    row: dict[str, Any] = dict.fromkeys(ANSWERS.names)
    for baseline, other in others.items():
        row[f"generated_{baseline}"] = other.text
        row[f"correct_{baseline}"] = is_correct(other.text, question.answer)
        row[f"p_{baseline}"] = float(other.probabilities[first_token])
    return row | {
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
        skipped: Table of the questions that can not be used (CSV).
        baselines: Further answers without the image.
        seed: Seed of the swapped images.

    Raises:
        CrossflowError: the model can not be used, or none of the questions.
    """
    questions = read_chosen(job.questions)
    device = take_device(job.device)
    announce(job.settings, questions, device)
    model = load_model(job.settings, device)
    determined = job.determining(model.prompt) | {"baselines": list(baselines), "seed": seed}
    swapped = swapped_images(questions, seed) if "swapped" in baselines else {}

    def requests(question: ChosenQuestion) -> list[PrepareRequest]:
        """The question, and at once with the other image if it has one."""
        own, other = PrepareRequest(question, question.image_id), swapped.get(question.question_id)
        # The boxes are not about the other image, whatever its size.
        return [own] if other is None else [own, PrepareRequest(replace(question, image_size=None), other)]

    def run(batch: Sequence[Item], given: Sequence[Given]) -> list[Outcome]:
        ((seen, *other),) = given
        for prepared in (seen, *other):
            if isinstance(prepared, BrokenQuestion):
                return [prepared]
        try:
            row = _row(model, seen, baselines, other[0] if other else None)  # type: ignore[arg-type]
        except BrokenQuestion as reason:
            return [reason]
        return [lambda: row]

    batches = [[Item(question, requests(question))] for question in questions]
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

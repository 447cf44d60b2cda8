"""Greedy answers, with the image and without it, and the logit lens of each.

Three baselines take the image away. *Removed*: its tokens are there, but no other position attends to them. *Zeroed*:
the vision tower is given zeros, which is the mean colour. *Swapped*: the image of another question.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from crossflow.core.columns import SKIPPED
from crossflow.core.devices import take_device
from crossflow.core.errors import BrokenQuestion, require_some_usable
from crossflow.core.records import ChosenQuestion
from crossflow.core.tables import ANSWERS, LENS, question_rows, write_csv, write_parquet
from crossflow.data.text import composed
from crossflow.engine.greedy import Generated, generate
from crossflow.engine.planning import plan_parts
from crossflow.experiments.donors import swapped_images
from crossflow.experiments.job import Given, Item, Job, Outcome, Part, finished_parts
from crossflow.experiments.logit_lens import track_options
from crossflow.experiments.option_tokens import option_tokens
from crossflow.experiments.selection import SELECTIONS, Select
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
        states: See `crossflow.engine.greedy.Generated`.
    """

    text: str
    tokens: list[int]
    probabilities: Tensor
    states: Tensor | None


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
        return Answer(text, generated.tokens, next(probabilities), generated.states)

    return [(answer_of(seeing), answer_of(hidden)) for seeing, hidden in ran]  # type: ignore[misc]


def answer(model: MultimodalModel, prepared: Prepared) -> Answer:
    """The model's greedy answer to one prompt."""
    ((seeing, _),) = answer_together(model, [prepared], [False])
    return seeing


def zeroed(prepared: Prepared) -> Prepared:
    """The same prompt with zeroed pixels."""
    pixels = torch.zeros_like(prepared.inputs["pixel_values"])
    return replace(prepared, inputs=prepared.inputs | {"pixel_values": pixels})


def _entries(
    model: MultimodalModel,
    questions: Sequence[tuple[Prepared, Prepared | None]],
    baselines: Sequence[str],
    read: Sequence[bool],
) -> list[dict[str, Any]]:
    """The entries of some questions, each with its swapped image if there is one.

    An entry holds a question's row of the answers table and, if its answer is correct or wrong as ``read`` lists, the
    columns of its logit lens.
    """
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
    entries = []
    for prepared, (seeing, _), row in zip(prompts, answered, rows, strict=False):
        lens = None
        if row["correct"] in read and seeing.states is not None:
            lens = track_options(model, prepared.question, seeing.states)
        entries.append({"answer": row, "lens": lens})
    return entries


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


def _lost(questions: Sequence[ChosenQuestion], broken: Mapping[str, BrokenQuestion]) -> list[dict[str, str]]:
    """The rows of the table of skipped questions."""
    return [
        {"question_id": each.question_id, "image_id": each.image_id, "reason": str(broken[each.question_id])}
        for each in questions
        if each.question_id in broken
    ]


def write_answers(
    job: Job,
    baselines: tuple[Literal["zeroed", "swapped"], ...] = (),
    seed: int = 0,
    logit_lens: Path | None = None,
    select: Select = "correct",
) -> None:
    """Answer questions, with the image and without it, and read the answers off every layer by the logit lens.

    Beside each table of answers, {category}.skipped.csv lists the questions that cannot be used. Finished questions
    survive a killed job.

    Args:
        job: The job.
        baselines: Further answers without the image.
        seed: Seed of the swapped images.
        logit_lens: Folder of the logit lens tables, {category}.parquet; without it, there are none.
        select: Of which questions the logit lens is kept, by the model's answer.

    Raises:
        CrossflowError: the model cannot be used, or none of a category's questions.
    """
    categories = job.categories()
    device = take_device(job.device)
    together = plan_parts(job.settings, list(categories.values()), device, prompts=1 + len(baselines))
    model = load_model(job.settings, device)
    read = () if logit_lens is None else SELECTIONS[select]
    determined = {category: job.determining(category, model.prompt) for category in categories}
    own = {"baselines": list(baselines), "seed": seed}

    def items(questions: Sequence[ChosenQuestion]) -> Iterator[Item]:
        """Each question, and at once with the other image if it has one."""
        swapped = swapped_images(questions, seed) if "swapped" in baselines else {}
        for question in questions:
            requests = [PrepareRequest(question, question.image_id)]
            if other := swapped.get(question.question_id):
                # The boxes are not about the other image, whatever its size.
                requests.append(PrepareRequest(replace(question, image_size=None), other))
            yield Item(question, requests)

    def run(batch: Sequence[Item], given: Sequence[Given]) -> list[Outcome]:
        usable: list[tuple[Prepared, Prepared | None]] = []
        outcomes: list[Outcome | None] = []
        for seen, *other in given:
            broken = next((each for each in (seen, *other) if isinstance(each, BrokenQuestion)), None)
            outcomes.append(broken)
            if broken is None:
                usable.append((seen, other[0] if other else None))  # type: ignore[arg-type]
        entries = iter(_entries(model, usable, baselines, read))
        return [partial(dict, next(entries)) if outcome is None else outcome for outcome in outcomes]

    parts = [
        Part.of(category, determined[category] | own | {"lens": list(read)}, list(items(questions)), at_once, run)
        for (category, questions), at_once in zip(categories.items(), together, strict=True)
    ]
    with finished_parts(job, model, __name__, parts) as finished:
        for table, questions, (_, broken) in zip(job.questions, categories.values(), finished, strict=True):
            require_some_usable(broken, len(questions), table)
        for (category, questions), (entries, broken) in zip(categories.items(), finished, strict=True):
            answered = [(each, entries[each.question_id]) for each in questions if each.question_id not in broken]
            layers = {"layers": len(model.layers)}
            write_csv(job.output / f"{category}.skipped.csv", SKIPPED, _lost(questions, broken))
            write_parquet(
                job.output / f"{category}.parquet",
                ANSWERS,
                [entry["answer"] for _, entry in answered],
                determined[category] | own | layers | {"answered": len(answered)},
            )
            if logit_lens is not None:
                kept = [(question, entry["lens"]) for question, entry in answered if entry["lens"] is not None]
                write_parquet(
                    logit_lens / f"{category}.parquet",
                    LENS,
                    question_rows(LENS, kept),
                    determined[category] | layers | {"select": select, "selected": len(kept)},
                )

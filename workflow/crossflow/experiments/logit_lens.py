"""The logit lens: how likely the answer's first token is, read off the last position after every layer.

The hidden state of the last position (layer 0: the embeddings; layer l: after l decoder layers) is multiplied with the
output embedding, with the final norm before it (``normed``) or without. The published program leaves the norm out,
except after the last layer.

Source: nostalgebraist, interpreting GPT: the logit lens (2020); the study's code for the tokens and the norm.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from crossflow.core.devices import take_device
from crossflow.core.files import hash_file
from crossflow.core.tables import ANSWERS, LENS, question_rows, read_parquet, write_parquet
from crossflow.data.chosen import read_chosen
from crossflow.engine.forward import CleanRun, run_clean_together
from crossflow.engine.planning import announce
from crossflow.experiments.job import (
    Given,
    Item,
    Job,
    Outcome,
    finished_entries,
    require_same_clean_run,
    require_same_prompt,
    still_usable,
)
from crossflow.experiments.selection import Select, selected
from crossflow.models.loading import load_model
from crossflow.models.memory import halving
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.preparing import PrepareRequest

TOKENS = ("answer", "answer_capitalized", "false_option", "false_option_capitalized")


def tracked_tokens(tokenizer: Any, answer: str, false_option: str | None) -> dict[str, int]:
    """The tracked first tokens, by their names in `TOKENS`; a question without options has no false one."""
    texts = {"answer": answer, "answer_capitalized": answer.capitalize()}
    if false_option:
        texts |= {"false_option": false_option, "false_option_capitalized": false_option.capitalize()}
    return {name: int(tokenizer.encode(text, add_special_tokens=False)[0]) for name, text in texts.items()}


def run_to_last(model: MultimodalModel, prompts: Sequence[Prepared]) -> list[CleanRun]:
    """The clean runs of some prompts, recorded at their last positions."""
    return run_clean_together(model, prompts, [prompt.positions.length - 1 for prompt in prompts])


def track(model: MultimodalModel, clean: CleanRun, tokens: Mapping[str, int]) -> dict[str, list[Any]]:
    """Probabilities of some tokens after every layer, without and with the final norm.

    Args:
        model: The model.
        clean: A clean run; its last position is read.
        tokens: Name -> token.

    Returns:
        Columns ``layer`` (0 .. number of layers), ``normed``, ``token`` (its name) and ``probability`` (0..1).
    """
    states = clean.states[:, -1]
    columns: dict[str, list[Any]] = {"layer": [], "normed": [], "token": [], "probability": []}
    with torch.inference_mode():
        for normed in (False, True):
            logits = model.logits(model.norm(states) if normed else states)
            probabilities = torch.softmax(logits.double(), dim=-1)[:, list(tokens.values())].tolist()
            for layer, row in enumerate(probabilities):
                columns["layer"] += [layer] * len(tokens)
                columns["normed"] += [normed] * len(tokens)
                columns["token"] += list(tokens)
                columns["probability"] += row
    return columns


def track_options(model: MultimodalModel, clean: CleanRun, answered: Any = None) -> dict[str, list[Any]]:
    """The logit lens of a question: `track` of its `tracked_tokens`.

    Args:
        model: The model.
        clean: The question's clean run.
        answered: Its row of the answers table; if given, the answer must still be as probable.

    Raises:
        CrossflowError: the probability differs.
    """
    question = clean.prepared.question
    if answered is not None:
        found = float(torch.softmax(clean.logits.double(), dim=-1)[answered.first_token])
        require_same_clean_run(question.question_id, answered.p_clean, found, model.settings.dtype)
    return track(model, clean, tracked_tokens(model.processor.tokenizer, question.answer, question.false_option))


def write_logit_lens(job: Job, answers: Path, select: Select = "correct") -> None:
    """Read the answer off the last position after every layer.

    Finished questions survive a killed job.

    Args:
        job: The job.
        answers: Table of the model's answers to the questions.
        select: Which questions are read, by the model's answer.

    Raises:
        CrossflowError: the model or a question cannot be used.
    """
    table, answered = read_parquet(answers, ANSWERS)
    chosen = selected(read_chosen(job.questions), table, select)
    device = take_device(job.device)
    plan = announce(job.settings, [question for question, _ in chosen], device)
    model = load_model(job.settings, device)
    require_same_prompt(answers, answered, model.prompt)
    determined = job.determining(model.prompt) | {"answers": hash_file(answers), "select": select}

    def run(batch: Sequence[Item], given: Sequence[Given]) -> list[Outcome]:
        prompts = [still_usable(prepared, item.question) for item, prepared in zip(batch, given, strict=True)]
        cleans = halving(prompts, partial(run_to_last, model), "questions")
        found = [track_options(model, clean, item.answer) for item, clean in zip(batch, cleans, strict=True)]
        return [partial(dict, columns) for columns in found]

    items = [Item(question, [PrepareRequest(question, question.image_id)], row) for question, row in chosen]
    at_once = 1 if plan is None else plan.questions
    batches = [items[first : first + at_once] for first in range(0, len(items), at_once)]
    with finished_entries(job, model, __name__, determined, batches, run) as (entries, _):
        rows = question_rows(LENS, ((question, entries[question.question_id]) for question, _ in chosen))
        write_parquet(job.output, LENS, rows, determined | {"layers": len(model.layers), "selected": len(chosen)})

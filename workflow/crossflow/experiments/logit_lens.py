"""The logit lens: how likely the answer's first token is, read off the last position after every layer.

The hidden state of the last position (layer 0: the embeddings; layer l: after l decoder layers) is multiplied with the
output embedding, with the final norm before it (``normed``) or without. The published program leaves the norm out,
except after the last layer.

Source: nostalgebraist, interpreting GPT: the logit lens (2020); the study's code for the tokens and the norm.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossflow.core.devices import take_device
from crossflow.core.errors import CrossflowError
from crossflow.core.files import hash_file
from crossflow.core.tables import ANSWERS, LENS, question_rows, read_parquet, write_parquet
from crossflow.data.chosen import read_chosen
from crossflow.engine.forward import full_forward
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
from crossflow.models.attention import Plain
from crossflow.models.loading import load_model
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.preparing import PrepareRequest

TOKENS = ("answer", "answer_capitalized", "false_option", "false_option_capitalized")


def tracked_tokens(tokenizer: Any, answer: str, false_option: str | None) -> dict[str, int]:
    """The tracked first tokens, by their names in `TOKENS`; a question without options has no false one."""
    texts = {"answer": answer, "answer_capitalized": answer.capitalize()}
    if false_option:
        texts |= {"false_option": false_option, "false_option_capitalized": false_option.capitalize()}
    return {name: int(tokenizer.encode(text, add_special_tokens=False)[0]) for name, text in texts.items()}


@contextmanager
def _states(model: MultimodalModel, places: slice) -> Iterator[list[Tensor]]:
    """Collect the hidden states of some positions, entering every decoder layer and the final norm."""
    states: list[Tensor] = []

    def keep(module: nn.Module, positional: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        hidden = positional[0] if positional else named["hidden_states"]
        # A view would keep the whole prompt's hidden states of every layer alive.
        states.append(hidden[0, places].clone())

    handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in (*model.layers, model.norm)]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def hidden_states(
    model: MultimodalModel, prepared: Prepared, places: slice = slice(None)
) -> Float[Tensor, "states positions width"]:
    """The hidden states of the clean run: embeddings, then after every decoder layer, before the final norm.

    Args:
        model: The model.
        prepared: A question.
        places: Positions; by default all.

    Raises:
        CrossflowError: a layer was not called exactly once.
    """
    with _states(model, places) as states:
        full_forward(model, prepared, Plain())
    if len(states) != len(model.layers) + 1:
        raise CrossflowError(
            f"{model.settings.path}: {len(states)} hidden states of {len(model.layers)} layers were recorded; the "
            "logit lens cannot be read."
        )
    return torch.stack(states)


def track(model: MultimodalModel, prepared: Prepared, tokens: Mapping[str, int]) -> dict[str, list[Any]]:
    """Probabilities of some tokens after every layer, without and with the final norm.

    Args:
        model: The model.
        prepared: A question.
        tokens: Name -> token.

    Returns:
        Columns ``layer`` (0 .. number of layers), ``normed``, ``token`` (its name) and ``probability`` (0..1).
    """
    return _read_off(model, _last_states(model, prepared), tokens)


def _last_states(model: MultimodalModel, prepared: Prepared) -> Float[Tensor, "states width"]:
    return hidden_states(model, prepared, slice(-1, None))[:, 0]


def _read_off(model: MultimodalModel, states: Tensor, tokens: Mapping[str, int]) -> dict[str, list[Any]]:
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


def track_options(model: MultimodalModel, prepared: Prepared, answered: Any = None) -> dict[str, list[Any]]:
    """The logit lens of a question: `track` of its `tracked_tokens`.

    Args:
        model: The model.
        prepared: The question.
        answered: Its row of the answers table; if given, the answer's probability must be the same.

    Raises:
        CrossflowError: the probability differs.
    """
    question, states = prepared.question, _last_states(model, prepared)
    if answered is not None:
        with torch.inference_mode():
            probabilities = torch.softmax(model.logits(model.norm(states[-1:])).double(), dim=-1)
        found = float(probabilities[0, answered.first_token])
        require_same_clean_run(question.question_id, answered.p_clean, found, model.settings.dtype)
    return _read_off(model, states, tracked_tokens(model.processor.tokenizer, question.answer, question.false_option))


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
    announce(job.settings, [question for question, _ in chosen], device)
    model = load_model(job.settings, device)
    require_same_prompt(answers, answered, model.prompt)
    determined = job.determining(model.prompt) | {"answers": hash_file(answers), "select": select}

    def run(batch: Sequence[Item], given: Sequence[Given]) -> list[Outcome]:
        ((item,), (prepared,)) = batch, given
        columns = track_options(model, still_usable(prepared, item.question), item.answer)
        return [lambda: columns]

    batches = [[Item(question, [PrepareRequest(question, question.image_id)], row)] for question, row in chosen]
    with finished_entries(job, model, __name__, determined, batches, run) as (entries, _):
        rows = question_rows(LENS, ((question, entries[question.question_id]) for question, _ in chosen))
        write_parquet(job.output, LENS, rows, determined | {"layers": len(model.layers), "selected": len(chosen)})

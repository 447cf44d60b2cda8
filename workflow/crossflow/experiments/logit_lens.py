"""The logit lens: how likely the answer's first token is, read off the last position after every layer.

The hidden state of the last position (layer 0: the embeddings; layer l: after l decoder layers) is multiplied with the
output embedding, with the final norm before it (``normed``) or without. The published program leaves the norm out,
except after the last layer.

Source: nostalgebraist, interpreting GPT: the logit lens (2020); the study's code for the tokens and the norm.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.core.records import ChosenQuestion
from crossflow.engine.forward import run_clean_together
from crossflow.models.model import MultimodalModel, Prepared

TOKENS = ("answer", "answer_capitalized", "false_option", "false_option_capitalized")


def tracked_tokens(tokenizer: Any, answer: str, false_option: str | None) -> dict[str, int]:
    """The tracked first tokens, by their names in `TOKENS`; a question without options has no false one."""
    texts = {"answer": answer, "answer_capitalized": answer.capitalize()}
    if false_option:
        texts |= {"false_option": false_option, "false_option_capitalized": false_option.capitalize()}
    return {name: int(tokenizer.encode(text, add_special_tokens=False)[0]) for name, text in texts.items()}


def last_states(model: MultimodalModel, prompts: Sequence[Prepared]) -> list[Float[Tensor, "states width"]]:
    """The hidden states at the last position of some prompts: embeddings, then after every layer."""
    cleans = run_clean_together(model, prompts, [prompt.positions.length - 1 for prompt in prompts])
    return [clean.states[:, -1] for clean in cleans]


def track(
    model: MultimodalModel, states: Float[Tensor, "states width"], tokens: Mapping[str, int]
) -> dict[str, list[Any]]:
    """Probabilities of some tokens after every layer, without and with the final norm.

    Args:
        model: The model.
        states: As `last_states` returns them.
        tokens: Name -> token.

    Returns:
        Columns ``layer`` (0 .. number of layers), ``normed``, ``token`` (its name) and ``probability`` (0..1).
    """
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


def track_options(
    model: MultimodalModel, question: ChosenQuestion, states: Float[Tensor, "states width"]
) -> dict[str, list[Any]]:
    """The logit lens of a question: `track` of its `tracked_tokens`."""
    return track(model, states, tracked_tokens(model.processor.tokenizer, question.answer, question.false_option))

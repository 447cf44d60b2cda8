"""Greedy answers by their definition: one full forward for each token, without a cache."""

from collections.abc import Callable

import torch

from crossflow.experiments.answers import Answer
from crossflow.models.attention import Mode, Plain, using
from crossflow.models.model import MultimodalModel, Prepared


def answer_by_full_forwards(
    model: MultimodalModel,
    prepared: Prepared,
    mode_of: Callable[[Prepared], Mode] = lambda prompt: Plain(),
    most: int = 4,
) -> Answer:
    """The greedy answer, up to ``most`` tokens; ends before a token that would be taken for a further image.

    Args:
        model: The model.
        prepared: The prompt.
        mode_of: The attention, given the prompt followed by the tokens so far.
        most: Most tokens.
    """
    tokens: list[int] = []
    first: torch.Tensor | None = None
    while len(tokens) < most and model.network.config.image_token_id not in tokens:
        # The last token of an answer is not an input of its forwards, so one is put behind it.
        prompt = prepared.answered_by([*tokens, 0]) if tokens else prepared
        with using(mode_of(prompt)), torch.inference_mode():
            hidden = model.network.base_model(**prompt.inputs, use_cache=False).last_hidden_state[:, -1]
            logits = model.logits(hidden)[0]
        first = torch.softmax(logits.double(), dim=-1) if first is None else first
        tokens.append(int(logits.argmax()))
    assert first is not None
    return Answer(model.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip(), tokens, first, None)


def assert_begins_as(ours: Answer, theirs: Answer, tolerance: float = 1e-6) -> None:
    """The same tokens as far as they are known, and probabilities of the first within a tolerance."""
    assert ours.tokens[: len(theirs.tokens)] == theirs.tokens
    torch.testing.assert_close(ours.probabilities, theirs.probabilities, rtol=0, atol=tolerance)

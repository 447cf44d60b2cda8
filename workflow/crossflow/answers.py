"""Greedy answers: with the picture, and what remains of them without it.

Three baselines take the picture away. *Removed*: its tokens are there, but no other position attends to them. *Zeroed*:
the vision tower is given zeros, which is the mean colour. *Swapped*: the picture of another question.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig

from crossflow.attention import Mode, Plain, using
from crossflow.forward import picture_removed
from crossflow.gqa import ChosenQuestion
from crossflow.models import MultimodalModel, Prepared
from crossflow.seeds import derived_seed


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
            generated = model.network.generate(**prepared.inputs, generation_config=greedy, past_key_values=cache)
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
    return _generate(model, prepared, picture_removed(prepared), _empty_cache())


def answer_seeing_and_blind(model: MultimodalModel, prepared: Prepared) -> tuple[Answer, Answer]:
    """What `answer` and `answer_blind` give, at little more than the price of the first.

    Removing the picture changes nothing up to its end, so the second goes on from there, on the keys and values of the
    first.
    """
    cache = _empty_cache()
    seeing = _generate(model, prepared, Plain(), cache)
    image_stop = int(prepared.positions["image"][-1]) + 1
    cache.crop(image_stop - cache.get_seq_length())
    return seeing, _generate(model, prepared.without_pixels(), picture_removed(prepared), cache)


def answer_zeroed(model: MultimodalModel, prepared: Prepared) -> Answer:
    """The greedy answer to zeroed pixels."""
    pixels = torch.zeros_like(prepared.inputs["pixel_values"])
    return answer(model, replace(prepared, inputs=prepared.inputs | {"pixel_values": pixels}))


def swapped_pictures(questions: Sequence[ChosenQuestion], seed: int) -> dict[str, str]:
    """Question -> the picture of a random other question; left out where there is no other picture."""
    images = np.array([question.image_id for question in questions])
    swapped = {}
    for question in questions:
        others = images[images != question.image_id]
        if len(others):
            generator = np.random.default_rng(derived_seed(seed, question.question_id, "swapped"))
            swapped[question.question_id] = str(generator.choice(others))
    return swapped

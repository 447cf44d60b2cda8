"""From a template and a question to tokens, with the characters that each token stands for.

A prompt is written as text with one marker for the picture, tokenised with character offsets, and the marker's
token is then repeated once per visual token. Position sets come from the offsets: a token belongs to a span of
text if it overlaps one of its characters, and the decoded tokens of the question must be the question.

The published program tokenises the text before the picture and the text after it as two texts of their own. With
Llama's tokenizer the second then begins with a blank of its own; whether it does where the whole prompt is tokenised at
once depends on the tokenizer's ``legacy`` and on the version of transformers. The published templates therefore do as
the program does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from crossflow.errors import BrokenQuestion, CrossflowError

_INSTRUCTION = " \nAnswer the question using a single word or phrase."
_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_LLAMA_3_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


class Span(NamedTuple):
    """Characters ``start .. stop - 1`` of a text."""

    start: int
    stop: int


@dataclass(frozen=True)
class PromptText:
    """A prompt before tokenisation.

    Attributes:
        text: The whole prompt; the picture is one marker, such as ``<image>``.
        question: Characters of the question.
        role: Characters of the role header after the user's text.
        begins: How many begin-of-text tokens the published program feeds, which tokenises the text before and after the
            picture apart; None for a template that is tokenised as the model's folder says.
    """

    text: str
    question: Span
    role: Span
    begins: int | None = None


def _vicuna_v1(user: str, processor: Any) -> str:
    return f"{_VICUNA_SYSTEM} USER: {user} ASSISTANT:"


def _llava_llama_3(user: str, processor: Any) -> str:
    return (
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{_LLAMA_3_SYSTEM}<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n \n"
    )


def _chat_template(user: str, processor: Any) -> str:
    text = user.removeprefix(f"{processor.image_token}\n")
    content = [{"type": "image"}, {"type": "text", "text": text}]
    if getattr(processor, "chat_template", None) is None:
        raise CrossflowError(
            "The model's folder holds no chat template: choose prompt vicuna-v1 or llava-llama-3 for it in params.yaml."
        )
    rendered = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    bos = processor.tokenizer.bos_token
    # The tokenizer adds the begin-of-text token itself.
    return str(rendered).removeprefix(bos) if bos else str(rendered)


class Template(NamedTuple):
    """How a prompt is written.

    Attributes:
        write: From the user's text, with the picture's marker, and the processor to the whole text.
        begins: See `PromptText`.
    """

    write: Callable[[str, Any], str]
    begins: int | None


TEMPLATES = {
    "vicuna-v1": Template(_vicuna_v1, 1),
    # The published program feeds the template's begin-of-text token and the tokenizer's.
    "llava-llama-3": Template(_llava_llama_3, 2),
    "chat-template": Template(_chat_template, None),
}


def render(template: str, question: str, processor: Any) -> PromptText:
    """Write the prompt of one question.

    Args:
        template: A key of `TEMPLATES`.
        question: The question as asked.
        processor: The model's processor; its ``image_token`` marks the picture.

    Raises:
        BrokenQuestion: the picture's marker is in the question, or the question is not in the prompt exactly once.
        CrossflowError: the template is unknown, or the model's folder has no chat template.
    """
    if template not in TEMPLATES:
        raise CrossflowError(f"Prompt {template!r} is unknown; known are {', '.join(TEMPLATES)}.")
    marker: str = processor.image_token
    if marker in question:
        raise BrokenQuestion(f"the question holds the picture's marker {marker}")
    asked = question + _INSTRUCTION
    text = TEMPLATES[template].write(f"{marker}\n{asked}", processor)
    if text.count(asked) != 1 or text.count(marker) != 1:
        raise BrokenQuestion(f"the question's text is not found exactly once in the prompt of template {template}")
    start = text.index(asked)
    role = Span(start + len(asked), len(text))
    return PromptText(text, Span(start, start + len(question)), role, TEMPLATES[template].begins)


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as token ids, the picture expanded.

    Attributes:
        ids: Token ids, one per position.
        spans: Characters of the text that each position stands for, ``(positions, 2)``; equal for all visual tokens,
            empty for tokens that the tokenizer added.
        image: Positions of the visual tokens.
        text: The text that was tokenised.
    """

    ids: Int[np.ndarray, " positions"]
    spans: Int[np.ndarray, "positions 2"]
    image: range
    text: PromptText

    def tokens_over(self, span: Span) -> Int[np.ndarray, " tokens"]:
        """Positions whose token overlaps a character of ``span``, ascending."""
        return np.flatnonzero((self.spans[:, 0] < span.stop) & (self.spans[:, 1] > span.start))


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def _encode(prompt: PromptText, processor: Any) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of a prompt with one token for the picture, and the characters of each.

    Raises:
        CrossflowError: the prompt begins with a token that the tokenizer does not have.
    """
    tokenizer, marker = processor.tokenizer, processor.image_token
    if prompt.begins is None:
        encoded = tokenizer(prompt.text, return_offsets_mapping=True)
        return list(encoded["input_ids"]), list(encoded["offset_mapping"])
    if tokenizer.bos_token_id is None:
        raise CrossflowError("The model's tokenizer has no begin-of-text token: choose prompt chat-template for it.")
    before, after = (
        tokenizer(text, return_offsets_mapping=True, add_special_tokens=False) for text in prompt.text.split(marker)
    )
    begins = [tokenizer.bos_token_id] * (prompt.begins - before["input_ids"].count(tokenizer.bos_token_id))
    start = prompt.text.index(marker)
    stop = start + len(marker)
    return (
        [*begins, *before["input_ids"], processor.image_token_id, *after["input_ids"]],
        [
            *((0, 0) for _ in begins),
            *before["offset_mapping"],
            (start, stop),
            *((first + stop, last + stop) for first, last in after["offset_mapping"]),
        ],
    )


def tokenize(prompt: PromptText, processor: Any, visual_tokens: int) -> TokenizedPrompt:
    """Tokenise a prompt and put ``visual_tokens`` positions in the picture's place.

    Raises:
        BrokenQuestion: the question's tokens do not decode to the question (blanks apart), as with a word that the
            tokenizer does not know.
        CrossflowError: the tokenizer gives no character offsets, or does not keep the picture's marker whole.
    """
    tokenizer = processor.tokenizer
    if not tokenizer.is_fast:
        raise CrossflowError("The model's tokenizer gives no character offsets: its folder needs a tokenizer.json.")
    ids, spans = _encode(prompt, processor)
    markers = [index for index, token in enumerate(ids) if token == processor.image_token_id]
    if len(markers) != 1:
        raise CrossflowError(
            f"The model's tokenizer does not keep the picture's marker {processor.image_token!r} as one token."
        )
    (marker,) = markers
    repeats = np.ones(len(ids), dtype=np.int64)
    repeats[marker] = visual_tokens
    tokenized = TokenizedPrompt(
        np.repeat(np.asarray(ids, dtype=np.int64), repeats),
        np.repeat(np.asarray(spans, dtype=np.int64), repeats, axis=0),
        range(marker, marker + visual_tokens),
        prompt,
    )
    asked = prompt.text[slice(*prompt.question)]
    decoded = tokenizer.decode(
        tokenized.ids[tokenized.tokens_over(prompt.question)].tolist(), clean_up_tokenization_spaces=False
    )
    if _without_blanks(decoded) != _without_blanks(asked):
        raise BrokenQuestion(f"the question's tokens decode to {decoded!r}, not to {asked!r}")
    return tokenized

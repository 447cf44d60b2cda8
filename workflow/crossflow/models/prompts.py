"""From a template and a question to tokens, with the characters that each token covers.

A prompt is written as text with one marker for the image. The marker is then expanded to one token per visual token,
plus the tokens that some architectures put around and between them (``<img>``, ``<row_1_col_1>``). The expanded text is
tokenised with character offsets, and position sets follow from the offsets: a token belongs to a span of text if it
overlaps one of its characters, and the question's tokens must decode to the question.

The published program tokenises the text before the image and the text after it separately. With Llama's tokenizer, the
second text then begins with a blank token; if the whole prompt is tokenised at once, this depends on the tokenizer's
``legacy`` and on the version of transformers. The published templates therefore follow the program.

A model generates after the last token of the template. Tokens that a tokenizer adds after it, such as ``</s>``, are
removed; before the template, it may add one begin-of-text token only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from jinja2 import TemplateSyntaxError

from crossflow.core.errors import BrokenQuestion, CrossflowError, blaming_question

INSTRUCTION = "Answer the question using a single word or phrase."
"""The published text after the question."""
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
        text: The whole prompt; the image is one marker, such as ``<image>``.
        question: Characters of the question.
        role: Characters of the role header after the user's text.
        begins: Number of begin-of-text tokens that the published program feeds; None for a template that is tokenised
            as a whole, as the model's folder says.
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


def _own_template(processor: Any) -> str:
    """The chat template of a model's folder: its processor's, or else its tokenizer's; of several, the default one.

    Raises:
        CrossflowError: there is no template, or none of several is the default.
    """
    held = (getattr(holder, "chat_template", None) for holder in (processor, processor.tokenizer))
    found = next((template for template in held if template), None)
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}
    if isinstance(found, dict):
        if "default" not in found and len(found) > 1:
            raise CrossflowError(
                f"The model's folder has the chat templates {', '.join(found)}; none is named default."
            )
        found = found.get("default") or next(iter(found.values()), None)
    if found is None:
        raise CrossflowError(
            "The model's folder has no chat template: set its prompt to vicuna-v1 or llava-llama-3 in params.yaml."
        )
    return str(found)


def _chat_template(user: str, processor: Any) -> str:
    template, marker = _own_template(processor), processor.image_token
    text = user.removeprefix(f"{marker}\n")

    def rendered(content: object) -> str:
        message = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(message, chat_template=template, add_generation_prompt=True))

    # Templates of multimodal models expect a list; those of language models expect text, and would print a list as
    # Python does.
    given: tuple[object, ...] = ([{"type": "image"}, {"type": "text", "text": text}], user)
    found, errors = [], []
    for content in given:
        try:
            found.append(rendered(content))
        except TemplateSyntaxError as error:
            raise CrossflowError(f"The model's chat template does not parse ({error}).") from error
        except Exception as error:  # noqa: BLE001 - a template may raise any error
            errors.append(error)
    right = (prompt for prompt in found if prompt.count(marker) == 1 and prompt.count(text) == 1)
    prompt = next(right, None) or next(iter(found), None)
    if prompt is None:
        with blaming_question("the chat template"):
            raise errors[0]
    tokenizer = processor.tokenizer
    # Most tokenizers add the begin-of-text token; SmolVLM's does not, and its template begins with it.
    adds = tokenizer.bos_token is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return prompt.removeprefix(tokenizer.bos_token) if adds else prompt


class Template(NamedTuple):
    """How to write a prompt.

    Attributes:
        write: From the user's text, with the image's marker, and the processor to the whole text.
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


def render(template: str, question: str, processor: Any, instruction: str | None = None) -> PromptText:
    """Write the prompt of one question.

    Args:
        template: A key of `TEMPLATES`.
        question: The question.
        processor: The model's processor; its ``image_token`` marks the image.
        instruction: Text after the question, on a line of its own; None = `INSTRUCTION`, empty = none.

    Raises:
        BrokenQuestion: the question is not valid UTF-8, contains the image's marker, or is not in the prompt exactly
            once.
        CrossflowError: the template is unknown, or the model's folder has no chat template.
    """
    if template not in TEMPLATES:
        raise CrossflowError(f"Unknown prompt {template!r}; choose from {', '.join(TEMPLATES)}.")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BrokenQuestion(f"the question is not valid UTF-8 ({error})") from error
    marker: str = processor.image_token
    if marker in question:
        raise BrokenQuestion(f"the question contains the image's marker {marker}")
    after = INSTRUCTION if instruction is None else instruction
    asked = f"{question} \n{after}" if after else question
    text = TEMPLATES[template].write(f"{marker}\n{asked}", processor)
    if text.count(asked) != 1 or text.count(marker) != 1:
        raise BrokenQuestion(f"the prompt of template {template} does not contain the question's text exactly once")
    start = text.index(asked)
    role = Span(start + len(asked), len(text))
    return PromptText(text, Span(start, start + len(question)), role, TEMPLATES[template].begins)


class Expansion(NamedTuple):
    """The replacement of an image's marker.

    Attributes:
        text: Text whose tokens replace the marker: the visual tokens, and those around and between them.
        visual: Id of the visual tokens.
    """

    text: str
    visual: int


def repeated(processor: Any, visual_tokens: int) -> Expansion:
    """The marker, once per visual token."""
    return Expansion(processor.image_token * visual_tokens, processor.image_token_id)


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as token ids, the image expanded.

    Attributes:
        ids: Token ids, one per position.
        spans: Characters of the unexpanded text that each position covers, ``(positions, 2)``: the marker's span for
            all tokens that replace it, an empty span for tokens that the tokenizer added.
        image: Positions from the first visual token to the last; in some architectures, with other tokens between.
        visual: Which of them are visual tokens.
        text: The text that was tokenised.
    """

    ids: Int[np.ndarray, " positions"]
    spans: Int[np.ndarray, "positions 2"]
    image: range
    visual: Bool[np.ndarray, " run"]
    text: PromptText

    def tokens_over(self, span: Span) -> Int[np.ndarray, " tokens"]:
        """Positions whose token overlaps a character of ``span``, ascending."""
        return np.flatnonzero((self.spans[:, 0] < span.stop) & (self.spans[:, 1] > span.start))


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def _tokenized(tokenizer: Any, text: str, **options: bool) -> Any:
    with blaming_question("the tokenizer"):
        return tokenizer(text, **options)


def _as_generated_after(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids and character spans of a prompt that is tokenised as a whole, without tokens added after it.

    Raises:
        CrossflowError: the tokenizer adds tokens inside the prompt, or anything but one begin-of-text token before it.
    """
    encoded = _tokenized(tokenizer, text, add_special_tokens=False, return_offsets_mapping=True)
    ids, whole, begin = encoded["input_ids"], _tokenized(tokenizer, text)["input_ids"], tokenizer.bos_token_id
    start = next((n for n in range(len(whole) - len(ids) + 1) if whole[n : n + len(ids)] == ids), None)
    if start is None:
        raise CrossflowError("The model's tokenizer changes the tokens of a prompt when it adds special tokens to it.")
    added = whole[:start]
    if added and (added != [begin] or ids[:1] == [begin]):
        written = tokenizer.convert_ids_to_tokens([*added, *ids[:1]])
        raise CrossflowError(
            f"The model's tokenizer begins a prompt with {' '.join(written)} instead of one begin-of-text token: "
            "correct the post-processor in the folder's tokenizer.json."
        )
    return [*added, *ids], [*((0, 0) for _ in added), *encoded["offset_mapping"]]


def _encode(prompt: PromptText, processor: Any, expansion: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of the expanded prompt, and the characters of the unexpanded text that each stands for.

    Raises:
        CrossflowError: the tokenizer lacks the token with which the prompt begins.
    """
    tokenizer, marker = processor.tokenizer, processor.image_token
    start = prompt.text.index(marker)
    stop = start + len(marker)
    if prompt.begins is None:
        ids, offsets = _as_generated_after(tokenizer, prompt.text.replace(marker, expansion))
        longer = len(expansion) - len(marker)

        def unexpanded(character: int, inside: int) -> int:
            if character <= start:
                return character
            return character - longer if character >= stop + longer else inside

        return ids, [(unexpanded(first, start), unexpanded(last, stop)) for first, last in offsets]
    if tokenizer.bos_token_id is None:
        raise CrossflowError("The model's tokenizer has no begin-of-text token: set its prompt to chat-template.")
    before, image, after = (
        _tokenized(tokenizer, text, return_offsets_mapping=True, add_special_tokens=False)
        for text in (prompt.text[:start], expansion, prompt.text[stop:])
    )
    begins = [tokenizer.bos_token_id] * (prompt.begins - before["input_ids"].count(tokenizer.bos_token_id))
    return (
        [*begins, *before["input_ids"], *image["input_ids"], *after["input_ids"]],
        [
            *((0, 0) for _ in begins),
            *before["offset_mapping"],
            *((start, stop) for _ in image["input_ids"]),
            *((first + stop, last + stop) for first, last in after["offset_mapping"]),
        ],
    )


def tokenize(prompt: PromptText, processor: Any, expansion: Expansion) -> TokenizedPrompt:
    """Tokenise a prompt, the image's marker expanded.

    Raises:
        BrokenQuestion: the question's tokens do not decode to the question (blanks aside), for example because of an
            unknown word, or one of them is a special token.
        CrossflowError: the tokenizer gives no character offsets, or splits visual tokens.
    """
    tokenizer = processor.tokenizer
    if not tokenizer.is_fast:
        raise CrossflowError("The model's tokenizer gives no character offsets: its folder needs a tokenizer.json.")
    encoded, spans = _encode(prompt, processor, expansion.text)
    ids = np.asarray(encoded, dtype=np.int64)
    visual = ids == expansion.visual
    if not visual.any():
        raise CrossflowError(
            f"The model's tokenizer does not keep the image's marker {processor.image_token!r} as one token."
        )
    image = range(int(visual.argmax()), len(ids) - int(visual[::-1].argmax()))
    tokenized = TokenizedPrompt(ids, np.asarray(spans, dtype=np.int64), image, visual[image.start : image.stop], prompt)
    asked = prompt.text[slice(*prompt.question)]
    tokens = tokenized.ids[tokenized.tokens_over(prompt.question)].tolist()
    decoded = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    if _without_blanks(decoded) != _without_blanks(asked):
        raise BrokenQuestion(f"the question's tokens decode to {decoded!r}, not to {asked!r}")
    # For example <|eot_id|>, which would end the user's turn.
    added = tokenizer.added_tokens_decoder
    if special := [added[token].content for token in tokens if token in added and added[token].special]:
        raise BrokenQuestion(f"the question contains the special token {special[0]}")
    return tokenized

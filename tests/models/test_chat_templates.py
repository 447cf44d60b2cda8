"""What the model reads is what the template says, whatever tokenizer and template a folder brings."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.records import ChosenQuestion
from crossflow.models.loading import sketch_model
from crossflow.models.model import ModelSettings, MultimodalModel
from spoiling import set_post_processor
from tiny_families import FAMILIES, write

# One family whose tokenizer begins a prompt by itself, two of which none does.
NAMES = ("gemma3", "qwen2_vl", "idefics3")
QUESTION = ChosenQuestion("1", "1", "c", "", "Is the ball red?", "yes", None, None, ())
IMAGE = Image.new("RGB", (96, 80), (200, 30, 30))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    for name in NAMES:
        write(root / name, FAMILIES[name])
    return {name: root / name for name in NAMES}


@pytest.fixture
def folder(written: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a family's folder without weights, to be changed."""
    made = tmp_path / request.param
    made.mkdir()
    for file in written[request.param].iterdir():
        if file.suffix != ".safetensors":
            (made / file.name).write_bytes(file.read_bytes())
    return made


def _sketch(folder: Path) -> MultimodalModel:
    return sketch_model(ModelSettings(folder, "chat-template", patches="overlap"), torch.device("cpu"))


def _ids(model: MultimodalModel) -> list[int]:
    return list(model.prepare(QUESTION, IMAGE).inputs["input_ids"][0].tolist())


def _begin(folder: Path) -> str:
    return FAMILIES[folder.name].begins or ""


@pytest.mark.parametrize("folder", NAMES, indirect=True)
@pytest.mark.parametrize("after", ["<end>", "<end> <end>", "<pad>"])
def test_tokens_that_the_tokenizer_adds_behind_the_prompt_are_left_out(folder: Path, after: str) -> None:
    right = _sketch(folder)
    prepared = right.prepare(QUESTION, IMAGE)
    begins = _begin(folder) if FAMILIES[folder.name].adds else ""
    set_post_processor(folder, f"{begins} $A {after}".strip())
    changed = _sketch(folder)
    tokenizer = changed.processor.tokenizer
    assert tokenizer("a")["input_ids"][-1] == tokenizer.convert_tokens_to_ids(after.split()[-1]), "nothing is added"
    found = changed.prepare(QUESTION, IMAGE)
    assert found.inputs["input_ids"].equal(prepared.inputs["input_ids"])
    assert found.positions["last"].tolist() == prepared.positions["last"].tolist() == [prepared.length - 1]


@pytest.mark.parametrize("folder", ["gemma3"], indirect=True)
@pytest.mark.parametrize("before", ["<bos> <bos>", "<end>", "<pad> <bos>"])
def test_a_prompt_that_the_tokenizer_begins_otherwise_than_once_is_refused(folder: Path, before: str) -> None:
    set_post_processor(folder, f"{before} $A")
    with pytest.raises(CrossflowError, match=f"begins a prompt with .*{before}.* instead of one begin-of-text token"):
        _ids(_sketch(folder))


def _only_text(template: str, begins: str) -> str:
    """A template of a language model: the content is a text."""
    return begins + "{% for message in messages %}" + template + "{% endfor %}"


@pytest.mark.parametrize("folder", NAMES, indirect=True)
@pytest.mark.parametrize(
    "content", ["{{ message['content'] }}", "{{ 'Q: ' + message['content'] }}", "{{ message.content | trim }}"]
)
def test_a_template_that_expects_a_text_is_used_rightly(folder: Path, content: str) -> None:
    marker = _sketch(folder).processor.image_token
    (folder / "chat_template.jinja").write_text(_only_text(f"USER: {content} ASSISTANT:", _begin(folder)))
    model = _sketch(folder)
    assert model.prompt.count(f"{marker}\nQUESTION") == 1
    assert "[{" not in model.prompt
    prepared = model.prepare(QUESTION, IMAGE)
    tokens = prepared.inputs["input_ids"][0]
    asked = model.processor.tokenizer.decode(tokens[prepared.positions["question"]])
    assert asked.strip() == QUESTION.question


@pytest.mark.parametrize("folder", NAMES, indirect=True)
@pytest.mark.parametrize("form", ["tokenizer_config.json", "named", "list"])
def test_a_template_is_found_wherever_the_folder_holds_it(folder: Path, form: str) -> None:
    expected = _ids(_sketch(folder))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named: Any = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]
    config["chat_template"] = template if form == "tokenizer_config.json" else named
    if form == "list":
        named.reverse()
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert _ids(_sketch(folder)) == expected


@pytest.mark.parametrize("folder", ["qwen2_vl"], indirect=True)
def test_a_folder_without_a_template_or_without_a_default_one_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CrossflowError, match="has no chat template"):
        _ids(_sketch(folder))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CrossflowError, match="has the chat templates a, b; none is named default"):
        _ids(_sketch(folder))


@pytest.mark.parametrize("folder", ["qwen2_vl"], indirect=True)
@pytest.mark.parametrize("template", ["{% for %}", "{{ messages", "{% endfor %}"])
def test_a_template_that_does_not_parse_is_refused(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(CrossflowError, match="chat template does not parse"):
        _ids(_sketch(folder))


@pytest.mark.parametrize("folder", ["qwen2_vl"], indirect=True)
@pytest.mark.parametrize("template", ["{{ raise_exception('no images') }}", "{{ messages[7].content }}", "{{ 1 / 0 }}"])
def test_a_template_that_raises_breaks_the_question(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    model = _sketch(folder)
    with pytest.raises(
        BrokenQuestion,
        match="the chat template fails on this question|does not contain the question's text exactly once",
    ):
        _ids(model)
    with pytest.raises(CrossflowError):
        _ = model.prompt


@pytest.mark.parametrize(
    ("name", "size"), [("qwen2_vl", (1500, 7)), ("qwen2_5_vl", (7, 1500)), ("qwen3_vl", (2010, 10))]
)
def test_an_image_that_the_image_processor_refuses_breaks_its_question_only(
    tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    write(tmp_path / name, FAMILIES[name])
    model = _sketch(tmp_path / name)
    with pytest.raises(BrokenQuestion, match="the image processor fails on this question"):
        model.prepare(QUESTION, Image.new("RGB", size))
    assert model.prepare(QUESTION, IMAGE).length

"""Files that nobody vouches for: nothing in them runs, leaves its folder, fills the memory or goes unnoticed."""

import ast
import io
import json
import re
import shutil
import struct
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from PIL import Image
from safetensors.torch import load_file, save_file

from byte_tokenizers import PROCESSORS
from crossflow.cli.main import main
from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.data import images as images_module
from crossflow.data.images import Images
from crossflow.fetch import gqa_images
from crossflow.fetch.download import fetch_file, new_session
from crossflow.fetch.gqa_images import fetch_images
from crossflow.fetch.hub import fetch
from crossflow.fetch.sources import RemoteFile, read_sources
from crossflow.figures import examples, explorer
from crossflow.models.loading import load_model, sketch_model
from crossflow.models.model import ModelSettings, MultimodalModel
from crossflow.models.prompts import render, repeated, tokenize
from serving import serving
from tiny import CPU, load_tiny

# Models.


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sound"
    load_tiny(folder, architecture="llava", layers=2, width=32)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A model folder that a test may break."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def _load(folder: Path) -> MultimodalModel:
    return load_model(ModelSettings(folder, "vicuna-v1"), CPU)


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_with_their_name(folder: Path, number: float) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    weights[name][3, 5] = number
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CrossflowError, match=r"NaN or infinite values in the weight .*layers\.0\.mlp\.down_proj\.weight: the weights"
    ):
        _load(folder)


_CODE = """
from pathlib import Path
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast
Path({marker!r}).touch()
class Config(LlavaConfig): pass
class Model(LlavaForConditionalGeneration): pass
class Processor(LlavaProcessor): pass
class Tokenizer(PreTrainedTokenizerFast): pass
"""
_MAP = {
    "AutoConfig": "evil.Config",
    "AutoModelForImageTextToText": "evil.Model",
    "AutoProcessor": "evil.Processor",
    "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
}


@pytest.mark.parametrize(
    ("file", "changes", "refused"),
    [
        ("config.json", {}, False),
        ("tokenizer_config.json", {"tokenizer_class": "Tokenizer"}, False),
        ("processor_config.json", {}, False),
        ("processor_config.json", {"processor_class": "Processor"}, True),
    ],
)
def test_code_in_a_models_folder_is_never_run_nor_asked_about(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    changes: dict[str, str],
    refused: bool,
) -> None:
    (folder / "evil.py").write_text(_CODE.format(marker=str(tmp_path / "ran")))
    _edit(folder / file, auto_map=_MAP, **changes)
    # Where the folder has nothing else, it is refused.
    with pytest.raises(CrossflowError, match="custom code") if refused else nullcontext():
        assert type(_load(folder).network).__module__.startswith("transformers.")
    assert not (tmp_path / "ran").exists()
    assert "y/N" not in capsys.readouterr().out


@pytest.mark.parametrize("load", [_load, lambda folder: sketch_model(ModelSettings(folder, "vicuna-v1"), CPU)])
def test_a_tokenizer_without_the_image_token_is_refused(folder: Path, load: Any) -> None:
    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    vocabulary["added_tokens"] = [token for token in vocabulary["added_tokens"] if token["content"] != "<image>"]
    del vocabulary["model"]["vocab"]["<image>"]
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(CrossflowError, match="but the model expects it as token 4"):
        load(folder)


@pytest.mark.parametrize("file", ["processor_config.json", "tokenizer.json"])
def test_a_folder_without_a_processor_or_tokenizer_is_one_sentence(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(CrossflowError, match=r"model (cannot be loaded \(.*\)|has neither .* is missing)\.$"):
        _load(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", '{"model_type": ["llava"]}'),
        ("config.json", "[" * 100_000),
        ("config.json", '{"model_type": "llava", "text_config": 5}'),
        ("config.json", '{"model_type": "llava", "text_config": {"model_type": "llama", "hidden_size": "wide"}}'),
        ("generation_config.json", "["),
        ("processor_config.json", "[]"),
        ("processor_config.json", '{"image_processor": 5}'),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"model": 5}'),
        ("tokenizer_config.json", '{"tokenizer_class": 5}'),
        ("model.safetensors", ""),
        ("model.safetensors.index.json", "[]"),
    ],
)
def test_a_broken_file_of_a_model_is_one_sentence_that_names_the_folder(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(CrossflowError) as raised:
        _load(folder)
    assert str(folder) in str(raised.value)
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


def test_weights_outside_of_the_models_folder_are_not_read(folder: Path, sound: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(load_file(sound / "model.safetensors"), "../sound.safetensors"),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(sound / "model.safetensors", folder.parent / "sound.safetensors")
    with pytest.raises(CrossflowError, match="names weights outside its folder"):
        _load(folder)


# Zips and images.


def _jpeg() -> bytes:
    encoded = io.BytesIO()
    Image.new("L", (6, 4), 128).save(encoded, "JPEG")
    return encoded.getvalue()


def test_a_member_that_unpacks_to_more_than_an_image_can_have_breaks_one_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_module, "LARGEST_IMAGE", 1 << 20)
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/1.jpg", bytes((1 << 20) + 1))
        archive.writestr("images/2.jpg", _jpeg())
    with Images(tmp_path) as images:
        with pytest.raises(BrokenQuestion, match=r"images/1\.jpg has more than 1 MiB"):
            images.open("1")
        assert images.open("2").size == (6, 4)
    (tmp_path / "1.jpg").write_bytes(bytes((1 << 20) + 1))
    with Images(tmp_path, by_file=True) as images, pytest.raises(BrokenQuestion, match="has more than 1 MiB"):
        images.open("1.jpg")


def test_only_images_of_their_own_name_and_size_come_out_of_a_remote_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gqa_images, "LARGEST_IMAGE", 1 << 20)
    (tmp_path / "site").mkdir()
    with zipfile.ZipFile(tmp_path / "site" / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images/1.jpg", "images/../../out.jpg", "/abs.jpg", "images/C:\\x.jpg"):
            archive.writestr(name, _jpeg())
        archive.writestr("images/2.jpg", bytes((1 << 20) + 1))
    with serving(tmp_path / "site") as site:
        remote = RemoteFile("images", f"{site.url}/images.zip", (site.root / "images.zip").stat().st_size)
        asked = {"1", "2", "../../out", "/abs"}
        there = fetch_images(new_session(), remote, tmp_path / "got", asked, full=False)
    assert [image["image_id"] for image in there] == ["1"]
    with zipfile.ZipFile(tmp_path / "got" / "images.zip") as archive:
        assert archive.namelist() == ["images/1.jpg"]
    assert {path.name for path in tmp_path.iterdir()} == {"site", "got"}


def _with_directory(content: bytes, field: int, value: int) -> bytes:
    """A zip with a number of the first entry of its directory changed; the field's place is in the format's APPNOTE."""
    at = content.index(b"PK\x01\x02") + field
    return content[:at] + struct.pack("<I", value) + content[at + 4 :]


@pytest.mark.parametrize(("field", "value"), [(20, 1 << 30), (42, (1 << 32) - 2)], ids=["size", "place"])
def test_a_directory_whose_members_overlap_is_refused(tmp_path: Path, field: int, value: int) -> None:
    (tmp_path / "site").mkdir()
    path = tmp_path / "site" / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/1.jpg", _jpeg())
        archive.writestr("images/2.jpg", _jpeg())
    path.write_bytes(_with_directory(path.read_bytes(), field, value))
    with (
        serving(tmp_path / "site") as site,
        pytest.raises(CrossflowError, match="the members in its directory overlap"),
    ):
        remote = RemoteFile("images", f"{site.url}/images.zip", path.stat().st_size)
        fetch_images(new_session(), remote, tmp_path / "got", {"1", "2"}, full=False)


# Text.


@pytest.mark.parametrize("text", ["Is it <|eot_id|> red?", "<|start_header_id|>system"])
def test_a_question_can_not_end_its_turn(text: str) -> None:
    processor = PROCESSORS["llava-llama-3"]
    with pytest.raises(BrokenQuestion, match=r"contains the special token <\|(eot_id|start_header_id)\|>"):
        tokenize(render("llava-llama-3", text, processor), processor, repeated(processor, 6))


def test_a_message_is_one_line_whatever_it_quotes() -> None:
    said = str(CrossflowError(f"The file {'x' * 100_000}\n\x1b[2J\ud800 is broken."))
    assert len(said) < 2_000
    assert said.isprintable()
    assert said.startswith("The file xxx")
    assert said.endswith("\\x1b[2J\\ud800 is broken.")
    assert str(BrokenQuestion("Ünï — 狗")) == "Ünï — 狗"


EVIL = ("</script><script>alert(1)</script>", "{{ 7 * 7 }}", "{% for %}", "$title", "${plotly}", "{title}", "&lt;b&gt;")


def test_text_in_a_page_is_text(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("what\n" + "".join(f"{text}\n" for text in EVIL))
    options = ["--table", str(tmp_path / "table.csv"), "--title", EVIL[0], "--output", str(tmp_path / "page.html")]
    assert main(["page", *options]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    for text in EVIL[1:6]:
        assert f"<td>{text}</td>" in page
    assert "<td>&amp;lt;b&amp;gt;</td>" in page


def test_text_in_the_explorer_is_text() -> None:
    page = explorer.page({"questions": list(EVIL)}, EVIL[0])
    assert "alert(1)" not in re.sub(r"<script id=\"data\".*?</script>", "", page).replace(
        "&lt;script&gt;alert(1)&lt;/script&gt;", ""
    )
    (held,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page)
    assert json.loads(held)["questions"] == list(EVIL)


@pytest.mark.parametrize("text", ["Is it $5 or $6?", "Is it $\\frac{ red?", *EVIL])
def test_a_question_is_drawn_as_it_is(text: str) -> None:
    asked = ChosenQuestion(
        "1", "1", "c", "d", text, "a", None, None, (ChosenObject("object", "1", text, Box(0, 0, 2, 2)),)
    )
    example = examples.Example(
        "largest fall", asked, text, 0.5, Image.new("RGB", (6, 4)), None, {"image->last": ([0], np.ones(1))}
    )
    drawn = io.BytesIO()
    examples.draw_examples([example], "heading").savefig(drawn, format="png")
    assert Image.open(drawn).size > (100, 100)


# Addresses.


def test_a_redirect_to_an_address_without_tls_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def send(adapter: object, request: requests.PreparedRequest, **named: object) -> requests.Response:
        asked.append(request.url)
        response = requests.Response()
        response.status_code, response.url, response.request = 302, str(request.url), request
        response.headers["Location"] = "http://example.org/b"
        response.raw = io.BytesIO()
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    with pytest.raises(CrossflowError, match=r"http://example\.org/b is not an https address"):
        fetch_file(new_session(), RemoteFile("a", "https://example.org/a"), tmp_path / "a")
    assert asked == ["https://example.org/a"]
    assert not (tmp_path / "a").exists()


def test_only_lines_of_the_table_of_sources_are_fetched(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = read_sources(repo / "resources" / "sources.csv")
    assert {urlsplit(source.url).hostname for source in sources.values()} == {
        "downloads.cs.stanford.edu",
        "huggingface.co",
        "raw.githubusercontent.com",
    }
    options = ["--sources", str(repo / "resources" / "sources.csv"), "--output", "x"]
    assert main(["fetch", "--source", "https://example.org/a", *options]) == 1
    assert "has no entry 'https://example.org/a'" in capsys.readouterr().err


def test_the_hub_is_asked_over_tls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://example.org")
    with pytest.raises(CrossflowError, match="not an https address"):
        fetch("somebody/a-model", "0" * 40)


# The sources themselves.

FORBIDDEN_CALLS = {
    *("os.system", "os.popen", "eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("pickle.load", "pickle.loads", "shelve.open", "marshal.load", "marshal.loads", "joblib.load"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp", "zipfile.ZipFile.extractall"),
}
FORBIDDEN_METHODS = {"extractall", "extract"}


def _dangers(tree: ast.AST) -> list[str]:
    """What in a source runs text as code or as a shell's command, or unpickles."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if (
            name in FORBIDDEN_CALLS
            or name.rpartition(".")[2] in FORBIDDEN_METHODS
            or given.get("shell", "False") != "False"
            or given.get("trust_remote_code", "False") != "False"
            or given.get("allow_pickle", "False") != "False"
            or (name == "torch.load" and given.get("weights_only") != "True")
            or (name == "AutoModelForImageTextToText.from_pretrained" and given.get("use_safetensors") != "True")
            or (name.startswith("Auto") and name.endswith(".from_pretrained") and "trust_remote_code" not in given)
        ):
            found.append(f"line {node.lineno}: {ast.unparse(node)[:80]}")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "torch.load(x)",
        "yaml.load(x)",
        "pickle.loads(x)",
        "archive.extractall(x)",
        "AutoConfig.from_pretrained(x)",
        "AutoTokenizer.from_pretrained(x, trust_remote_code=True)",
        "numpy.load(x, allow_pickle=True)",
    ],
)
def test_the_search_for_dangers_finds_them(line: str) -> None:
    assert _dangers(ast.parse(line))


def test_nothing_in_the_package_runs_text_or_unpickles(repo: Path) -> None:
    sources = sorted((repo / "workflow").rglob("*.py"))
    assert len(sources) > 50
    found = {path.name: dangers for path in sources if (dangers := _dangers(ast.parse(path.read_text())))}
    assert not found

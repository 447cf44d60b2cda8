"""What must hold of bad input: it is refused by one sentence, or what comes of it is right.

`KINDS` is the table; `judge` runs one input. Everything but `CrossflowError` and `BrokenQuestion` is a fault, and so is
an accepted input whose result does not hold.
"""

import io
import json
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

import fuzz_inputs as drawn
from byte_tokenizers import PROCESSORS
from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.flows import BASIC_SETS, SET_NAMES, controls_of, parse_flow
from crossflow.core.records import ChosenObject, ChosenQuestion
from crossflow.data.categories import CATEGORIES
from crossflow.data.chosen import read_chosen, write_chosen
from crossflow.data.filtering import filter_questions
from crossflow.data.images import Images
from crossflow.data.published import read_published
from crossflow.data.question_table import read_question_table
from crossflow.fetch.download import new_session
from crossflow.fetch.gqa_images import fetch_images
from crossflow.fetch.sources import RemoteFile
from crossflow.models.loading import sketch_model
from crossflow.models.model import ModelSettings, MultimodalModel
from crossflow.models.positions import positions_of
from crossflow.models.prompts import render, repeated, tokenize
from crossflow.models.visual_tokens import VisualTokens
from crossflow.study import inputs, parameters
from crossflow.study.results import result_files
from fuzz_models import model_changes, spoken, stored_images, use_image, use_model, use_tokenizer
from serving import serving

ACCEPTED, REFUSED = "accepted", "refused"
LONGEST = 2_000  # characters of a sentence that a person still reads
VISUAL = 6
SCHEMA = drawn.REPO / "workflow" / "schemas" / "params.schema.yaml"


class Kind(NamedTuple):
    """A kind of input.

    Attributes:
        inputs: How it is drawn.
        use: Uses one in an empty folder; raises what refuses it, and AssertionError where what comes of it is wrong.
        share: Percent of a campaign.
    """

    inputs: st.SearchStrategy[Any]
    use: Callable[[Any, Path], None]
    share: int


def judge(kind: str, drawn: Any, folder: Path) -> str:
    """Use one input: `ACCEPTED`, or `REFUSED` by one sentence. Whatever else is raised is a fault."""
    try:
        with redirect_stderr(io.StringIO()):  # bars, and what the server says of connections that break
            KINDS[kind].use(drawn, folder)
    except (CrossflowError, BrokenQuestion) as error:
        said = str(error)
        assert said.strip(), "an empty message"
        assert not set(said) & set("\n\r\x00\x1b"), f"not one line: {said[:300]!r}"
        assert len(said) <= LONGEST, f"{len(said)} characters: {said[:300]!r}"
        said.encode("utf-8")  # it can be printed
        if isinstance(error, CrossflowError):
            assert said.endswith((".", "?")), said
        return REFUSED
    return ACCEPTED


def _parameters(config: Any, folder: Path) -> None:
    parameters.validate(config, SCHEMA)
    study = parameters.read_study(config)
    files = [file for files in result_files(study).values() for file in files]
    assert len(files) == len(set(files))
    assert all(not {"..", ""} & set(Path(file).parts) and file.startswith("results/") for file in files)
    assert study.dataset in config["datasets"]
    assert set(study.models) <= config["models"].keys()
    for flow in [*study.flows, *study.controls]:
        parse_flow(flow)
    for windows in study.windows.values():
        assert all(window in ("bottom", "top") or int(window) >= 1 for window in windows)
    assert study.number == "all" or int(study.number) >= 1
    # As the workflow goes on.
    inputs.dataset_root(config, study.dataset)
    for category in study.categories:
        inputs.question_files(config, study.dataset, category)
        inputs.image_files(config, study, category)
    for slug in study.models:
        inputs.model_files(config, slug)
        options = inputs.model_options(config, slug, inputs.SETTINGS)
        assert all(isinstance(option, str) for option in options)


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _right(question: ChosenQuestion) -> None:
    """What every chosen question must be, wherever it comes from."""
    assert question.question_id.strip()
    assert (question.true_option is None) == (question.false_option is None)
    for chosen in question.objects:
        assert all(type(side) is int for side in chosen.box), chosen
        assert chosen.box.w >= 0 <= chosen.box.h, chosen
        assert isinstance(chosen.name, str)


def _come_back(questions: list[ChosenQuestion], folder: Path) -> None:
    write_chosen(folder / "chosen.csv", questions)
    assert read_chosen(folder / "chosen.csv") == questions


def _gqa(files: tuple[bytes, bytes], folder: Path) -> None:
    _write(folder / "questions" / f"{drawn.SPLIT}_questions.json", files[0])
    _write(folder / "sceneGraphs" / "val_sceneGraphs.json", files[1])
    found = [found for _, found in filter_questions(folder, drawn.SPLIT, CATEGORIES)]
    chosen = [question for question in found if isinstance(question, ChosenQuestion)]
    # Read by another parser than the package's, to which two further control characters are blanks.
    blanks = bytes.maketrans(b"\v\f", b"  ")
    records = json.loads(files[0].translate(blanks)) if chosen else {}
    graphs = json.loads(files[1].translate(blanks)) if any(question.objects for question in chosen) else {}
    for question in chosen:
        _right(question)
        record = records[question.question_id]
        assert (question.image_id, question.question) == (record["imageId"], record["question"])
        category = CATEGORIES[question.category]
        assert question.detailed in category.detailed
        assert len(question.objects) in category.objects
        if question.true_option is not None:
            assert question.answer == question.true_option != question.false_option
        for one in question.objects:
            entry = graphs[question.image_id]["objects"][one.id]
            assert one.box == tuple(entry[side] for side in one.box._fields)
    _come_back(chosen, folder)


def _good(document: int) -> bytes:
    return json.dumps(drawn.drawn_world()[document]).encode()


def _images(drawn: tuple[bytes, str], folder: Path) -> None:
    content, further = drawn
    _write(folder / "in" / "images.zip", content)
    refused: dict[str, BrokenQuestion] = {}
    with Images(folder / "in") as images:
        for image_id in ("1", "2", "../x", "/abs", "C:\\x", further):
            try:
                image = images.open(image_id)
            except BrokenQuestion as reason:
                refused[image_id] = reason
            else:
                assert image.mode == "RGB"
                assert image.width * image.height <= 2 * (Image.MAX_IMAGE_PIXELS or 0)
                assert not {"..", "/"} & set(Path(image_id).parts)
    assert sorted(path.name for path in folder.rglob("*")) == ["images.zip", "in"]
    if "1" in refused:
        raise refused["1"]


def _fetched(content: bytes, folder: Path) -> None:
    path = _write(folder / "site" / "images.zip", content)
    with serving(folder / "site") as site, ExitStack() as stack:
        stack.enter_context(mock.patch("crossflow.fetch.download._BACKOFF", 0.0))
        stack.enter_context(mock.patch("crossflow.fetch.remote_zip.time", SimpleNamespace(sleep=lambda seconds: None)))
        remote = RemoteFile("images", f"{site.url}/images.zip", path.stat().st_size)
        there = fetch_images(new_session(), remote, folder / "got", {"1", "2", "../x", "/abs"}, full=False)
        assert not any(part is None for _, part in site.asked), "the whole zip was asked for"
    assert {image["image_id"] for image in there} <= {"1", "2"}
    assert {path.name for path in folder.iterdir()} <= {"site", "got"}
    inside = {path.name for path in (folder / "got").rglob("*")}
    assert inside <= {"images.zip", "images.directory.json", ".images.lock"}, inside


def _asked(text: str, objects: tuple[ChosenObject, ...] = ()) -> ChosenQuestion:
    words = text.split() or [""]
    return ChosenQuestion("1", "1", "ChooseAttr", "d", text, words[0], words[0], words[-1], objects)


def _prompts(drawn: tuple[str, str], folder: Path) -> None:
    template, text = drawn
    processor = PROCESSORS[template]
    prompt = tokenize(render(template, text, processor), processor, repeated(processor, VISUAL))
    positions = positions_of(prompt, _asked(text), VisualTokens(*np.zeros((5, VISUAL), dtype=bool)))
    assert np.concatenate([positions[name] for name in BASIC_SETS]).tolist() == list(range(len(prompt.ids)))
    assert len(positions["image"]) == VISUAL
    ids = prompt.ids[positions["question"]].tolist()
    assert "".join(processor.tokenizer.decode(ids).split()) == "".join(text.split())
    special = {token for token, added in processor.tokenizer.added_tokens_decoder.items() if added.special}
    assert not set(ids) & special, "a token of the template's own in the question"
    covered = {at for start, stop in prompt.spans[positions["question"]] for at in range(start, stop)}
    asked = prompt.text.question
    assert {at for at in range(*asked) if not prompt.text.text[at].isspace()} <= covered


@lru_cache
def _sketch() -> MultimodalModel:
    return sketch_model(ModelSettings(drawn.REPO / "resources" / "mini-llava", "vicuna-v1"), torch.device("cpu"))


def _boxes(drawn: tuple[tuple[int, int], list[dict[str, Any]]], folder: Path) -> None:
    """Boxes as a table of one's own gives them, up to the visual tokens."""
    size, entries = drawn
    images = folder / "images"
    images.mkdir()
    Image.new("RGB", size, "teal").save(images / "1.png")
    text = json.dumps(entries).replace('"', '""')
    _write(
        folder / "t.csv",
        f'question_id,image,question,answer,objects\n1,1.png,Is the ball red or blue?,red,"{text}"\n'.encode(),
    )
    (question,) = read_question_table(folder / "t.csv", images)
    _right(question)
    with Images(images, by_file=True) as opened:
        prepared = _sketch().prepare(question, opened.open("1.png"))
    visual, positions = prepared.visual, prepared.positions
    assert not (visual.related & visual.padding).any() or not visual.padding.any()
    outside = all(
        one.box.x >= size[0] or one.box.y >= size[1] or one.box.x + one.box.w < 0 or one.box.y + one.box.h < 0
        for one in question.objects
    )
    assert not (outside and len(positions["related"]))
    whole = any(one.box.x <= 0 >= one.box.y and one.box.x + one.box.w >= size[0] and one.box.y + one.box.h >= size[1]
                for one in question.objects)  # fmt: skip
    assert not whole or set(positions["related"]) >= set(positions["image"][~visual.padding])


def _flows(name: str, folder: Path) -> None:
    flow = parse_flow(name)
    assert flow.name == name
    assert flow.parts
    for part in flow.parts:
        assert {part.source, part.target, *part.spared} <= set(SET_NAMES)
        assert part.control != "moved" or part.source == "related"
    if not name.startswith("only:"):
        again = "+".join(
            f"{part.source}{'~' if part.control else ''}{part.control or ''}->{part.target}" for part in flow.parts
        )
        assert again == name
    for control in controls_of(name, 2):
        assert parse_flow(control).parts[0].control


def _table(content: bytes, folder: Path) -> None:
    images = folder / "images"
    _write(images / "cat.jpg", drawn.image_files()[0])
    _write(images / "more" / "dog.jpg", drawn.image_files()[0])
    questions = read_question_table(_write(folder / "t.csv", content), images)
    for question in questions:
        _right(question)
        assert (images / question.image_id).resolve().is_relative_to(images.resolve())
        assert question.question
        assert question.answer
    _come_back(questions, folder)


def _published(content: bytes, folder: Path) -> None:
    questions = read_published(_write(folder / "p.csv", content), "ChooseAttr")
    for question in questions:
        _right(question)
        assert question.answer == question.true_option != question.false_option
        assert len(question.objects) == 1
    _come_back(questions, folder)


def _chosen(content: bytes, folder: Path) -> None:
    questions = read_chosen(_write(folder / "c.csv", content))
    for question in questions:
        _right(question)
    _come_back(questions, folder)


def _chosen_rows() -> list[list[str]]:
    one = json.dumps([{"role": "object", "id": "1", "name": "cat", "x": 1, "y": 2, "w": 3, "h": 4}])
    return [
        [
            "question_id",
            "image_id",
            "category",
            "detailed",
            "question",
            "answer",
            "true_option",
            "false_option",
            "objects",
        ],
        ["1", "7", "ChooseAttr", "chooseAttr", "Red, or blue?", "red", "red", "blue", one],
        ["2", "8", "QueryAttr", "positionQuery", "Where?", "left", "", "", "[]"],
    ]


_side = st.integers(-50, 250) | drawn.numbers
KINDS = {
    "params.yaml": Kind(
        st.sampled_from(list(drawn.params()["studies"]))
        .flatmap(lambda study: drawn.mutated(drawn.params(study), drawn.yaml_values))
        .filter(lambda config: isinstance(config, dict)),  # Snakemake takes nothing else
        _parameters,
        16,
    ),
    "question files": Kind(st.tuples(drawn.json_files(drawn.drawn_world()[0]), st.just(_good(1))), _gqa, 16),
    "scene graphs": Kind(st.tuples(st.just(_good(0)), drawn.json_files(drawn.drawn_world()[1])), _gqa, 11),
    "zips, local": Kind(st.tuples(drawn.zips(), drawn.odd_text), _images, 8),
    "zips, by ranges": Kind(drawn.zips(), _fetched, 4),
    "prompts": Kind(st.tuples(st.sampled_from(list(PROCESSORS)), drawn.questions_asked), _prompts, 10),
    "boxes": Kind(
        st.tuples(
            st.tuples(st.integers(1, 200), st.integers(1, 200)),
            st.lists(
                st.fixed_dictionaries({"name": drawn.odd_text, "x": _side, "y": _side, "w": _side, "h": _side}),
                max_size=2,
            ),
        ),
        _boxes,
        2,
    ),
    "flows": Kind(drawn.flow_names, _flows, 6),
    "question tables": Kind(drawn.csv_files(drawn.table_rows()), _table, 4),
    "published sets": Kind(drawn.csv_files(drawn.published_rows()), _published, 4),
    "chosen questions": Kind(drawn.csv_files(_chosen_rows()), _chosen, 2),
    "images": Kind(stored_images, use_image, 8),
    "tokenizers": Kind(spoken, use_tokenizer, 8),
    "model folders": Kind(model_changes, use_model, 1),
}
assert sum(kind.share for kind in KINDS.values()) == 100

"""Composed and decomposed accents are one text, and one name of a file."""

import json
import zipfile
from pathlib import Path
from unicodedata import normalize

import pytest
from PIL import Image

from crossflow.data.gqa import read_questions, read_scenes
from crossflow.data.images import Images
from crossflow.data.question_table import read_question_table
from crossflow.experiments.answers import is_correct
from crossflow.experiments.trace import own_question

FORMS = ("NFC", "NFD")
NAME = normalize("NFC", "café-ñandú")


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, "PNG")


@pytest.mark.parametrize("named", FORMS)
@pytest.mark.parametrize("written", FORMS)
def test_a_table_and_its_images_may_be_in_either_form(tmp_path: Path, written: str, named: str) -> None:
    _image(tmp_path / "images" / normalize(named, f"{NAME}.png"))
    objects = json.dumps([{"name": normalize(written, NAME), "x": 0, "y": 0, "w": 4, "h": 4}])
    cells = [NAME, f"{NAME}.png", f"Is the {NAME} red?", NAME, objects.replace('"', '""')]
    row = ",".join(f'"{normalize(written, cell)}"' for cell in cells)
    (tmp_path / "t.csv").write_text(f"question_id,image,question,answer,objects\n{row}\n", encoding="utf-8")
    (question,) = read_question_table(tmp_path / "t.csv", tmp_path / "images")
    (only,) = question.objects
    assert only.name in question.question
    assert (question.question_id, question.answer, only.name) == (NAME, NAME, NAME)
    assert question.image_size == (8, 8)
    with Images(tmp_path / "images", by_file=True) as images:
        assert images.open(question.image_id).size == (8, 8)


def _gqa(root: Path, form: str, *, escaped: bool) -> None:
    step = {"operation": "select", "dependencies": [], "argument": f"{NAME} (1)"}
    record = {
        "imageId": NAME, "question": f"Where is the {NAME}?", "answer": NAME, "types": {"detailed": "x"},
        "semantic": [step],
    }  # fmt: skip
    scene = {"objects": {NAME: {"name": NAME, "x": 0, "y": 0, "w": 1, "h": 1}}}
    for name, content in (("val_balanced_questions", {NAME: record}), ("val_sceneGraphs", {NAME: scene})):
        text = json.dumps(content, ensure_ascii=False)
        text = normalize(form, text)
        written = json.dumps(json.loads(text), ensure_ascii=escaped)
        (root / f"{name}.json").write_text(written, encoding="utf-8")


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_questions_and_scene_graphs_of_gqa_are_composed(tmp_path: Path, form: str, escaped: bool) -> None:
    _gqa(tmp_path, form, escaped=escaped)
    (question,) = read_questions(tmp_path, "val_balanced")
    assert question.question == f"Where is the {NAME}?"
    assert question.program[0].argument == f"{NAME} (1)"
    scene = read_scenes(tmp_path, "val_balanced", {question.image_id})[question.image_id]
    assert [(key, found.name) for key, found in scene.objects.items()] == [(NAME, NAME)]


@pytest.mark.parametrize("form", FORMS)
def test_images_in_a_folder_and_in_a_zip_are_found_in_either_form(tmp_path: Path, form: str) -> None:
    file = normalize(form, f"{NAME}.jpg")
    _image(tmp_path / "folder/images" / file)
    (tmp_path / "zip").mkdir()
    with zipfile.ZipFile(tmp_path / "zip/images.zip", "w") as archive:
        archive.write(tmp_path / "folder/images" / file, f"images/{file}")
    for root in ("folder", "zip"):
        with Images(tmp_path / root) as images:
            assert images.open(NAME).size == (8, 8)


@pytest.mark.parametrize("form", FORMS)
def test_questions_of_ones_own_and_answers_of_a_model_are_composed(form: str) -> None:
    question = own_question(normalize(form, NAME), [], options=(normalize(form, NAME), "other"))
    assert question.question == question.answer == question.true_option == NAME
    assert is_correct(normalize(form, NAME), question.answer)
    assert not is_correct("cafe-nandu", question.answer)

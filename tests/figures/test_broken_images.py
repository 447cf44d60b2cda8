"""What shows single questions says why it leaves some out, and says one sentence where none is left."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from crossflow.analysis.results import Results
from crossflow.cli.main import main
from crossflow.core.errors import CrossflowError
from crossflow.core.records import ChosenQuestion
from crossflow.data.chosen import write_chosen
from crossflow.data.images import Images
from crossflow.figures import explorer
from crossflow.figures.examples import choose_examples, examples_of
from crossflow.models.loading import sketch_model
from crossflow.models.model import ModelSettings
from small_study import ids_of, write_study
from tiny import CPU


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    """A small study without its images; the figures' curves, which need none, are left out."""
    folder = tmp_path / "results"
    write_study(folder, {"c": 4})
    questions = [ChosenQuestion(name, name, "c", "d", "Is it red?", "yes", None, None, ()) for name in ids_of(10)]
    write_chosen(folder / "questions" / "c.csv", questions)
    (folder / "claims.json").write_text(json.dumps({"claims": []}))
    (tmp_path / "data" / "images").mkdir(parents=True)
    monkeypatch.setattr(explorer, "read_csv", lambda path, columns: [])
    return Results(folder, ("mini:3",), ("c",), 0)


def _explored(results: Results, images: Images) -> Any:
    return explorer.collect(results, images)["questions"]


def _examples(results: Results, images: Images) -> Any:
    (table,) = results.all_knockouts()
    mini = Path(__file__).resolve().parents[2] / "resources/mini-llava"
    return examples_of(table, results, sketch_model(ModelSettings(mini, "vicuna-v1"), CPU), images)


@pytest.mark.parametrize("show", [_explored, _examples])
def test_questions_of_which_none_has_its_image_are_one_sentence(results: Results, show: Any) -> None:
    with Images(results.results.parent / "data") as images, pytest.raises(CrossflowError) as raised:
        show(results, images)
    assert str(raised.value).startswith("None of the ")
    assert "because the image " in str(raised.value)
    assert str(raised.value).endswith("is missing.")


def test_one_question_with_its_image_is_enough_for_the_explorer(results: Results) -> None:
    (table,) = results.all_knockouts()
    root = results.results.parent / "data"
    Image.new("RGB", (20, 20)).save(root / "images" / f"{next(iter(choose_examples(table)))}.jpg")
    with Images(root) as images:
        assert len(_explored(results, images)) == 4


@pytest.mark.parametrize("content", [None, b"no image", b""])
def test_a_trace_of_an_image_that_can_not_be_used_is_one_sentence(
    repo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
) -> None:
    monkeypatch.chdir(repo)
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    options = ["--image", str(path), "--question", "Is it red?", "--device", "cpu", "--output", str(tmp_path / "out")]
    assert main(["trace", *options]) == 1
    (said,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert said.startswith(f"crossflow trace: {path}: the image {path} ")

"""Substitutions in a job: whose keys and values are read, where there is no donor, and what a whole substitution means."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crossflow.cli.main import main
from crossflow.core.measures import KNOCKOUT
from crossflow.core.records import ChosenQuestion
from crossflow.core.tables import ANSWERS, read_parquet
from crossflow.data.chosen import write_chosen
from crossflow.data.images import Images
from crossflow.engine import planning
from crossflow.experiments import donors, knockouts
from crossflow.experiments.donors import Donors, layouts_of, swapped_images
from crossflow.models.model import MultimodalModel
from tiny import draw_world, load_tiny

LAYERS = 3
QUESTIONS = 12
FLOWS = [
    "image=swapped->all",
    "related=swapped->question",
    "image=mean->question",
    "question=swapped->last",
    "last=swapped->last",
    "image->question",
]


def _one_per_image(questions: list[ChosenQuestion]) -> list[ChosenQuestion]:
    return list({question.image_id: question for question in questions}.values())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("donors")
    load_tiny(root / "model", layers=LAYERS, width=32)
    write_chosen(root / "questions.csv", _one_per_image(draw_world(root / "world", 20)["ChooseAttr"])[:QUESTIONS])
    job = ["--questions", str(root / "questions.csv"), "--root", str(root / "world"), *_model(root)]
    assert main(["answers", *job, "--output", str(root / "answers"), "--baselines", "swapped"]) == 0
    return root


def _model(root: Path) -> list[str]:
    model = ["--model-path", str(root / "model"), "--prompt", "vicuna-v1", "--device", "cpu"]
    return [*model, "--max-new-tokens", "3"]


def _knock_out(root: Path, output: Path, *options: str, window: str = "top") -> tuple[pd.DataFrame, dict[str, object]]:
    job = ["--questions", str(root / "questions.csv"), "--root", str(root / "world"), *_model(root)]
    settings = ["--answers", str(root / "answers"), "--select", "all", "--window", window, "--flows", *FLOWS]
    # max_new_tokens is no option of knockouts.
    assert main(["knockout", *job[:-2], *settings, "--output", str(output), *options]) == 0
    return read_parquet(output / "questions.parquet", KNOCKOUT)


def test_reading_only_the_other_image_gives_the_probability_of_the_swapped_baseline(made: Path, tmp_path: Path) -> None:
    table, metadata = _knock_out(made, tmp_path)
    answers, _ = read_parquet(made / "answers" / "questions.parquet", ANSWERS)
    whole = table[(table.flow == "image=swapped->all") & (table.layer == 0)].merge(answers, on="question_id")
    assert len(whole) == QUESTIONS
    np.testing.assert_allclose(whole.p_knockout, whole.p_swapped, rtol=0, atol=1e-6)
    assert (whole.p_knockout - whole.p_clean_y).abs().max() > 1e-3
    assert metadata["mean_images"] == QUESTIONS
    # Reading its own keys and values is among the rows that show the rounding.
    assert 0 < metadata["noise_floor"] <= 1e-6  # type: ignore[operator]
    assert (table.edges > 0).all()
    # The last position of the donor's prompt is not the same: it has read another image.
    last = table[table.flow == "last=swapped->last"]
    assert last.change_percent.abs().max() > 0.1


@pytest.mark.long
def test_the_reference_makes_the_same_table_of_whole_answers(made: Path, tmp_path: Path) -> None:
    ours, _ = _knock_out(made, tmp_path / "ours", "--whole-answer", window="2")
    theirs, _ = _knock_out(made, tmp_path / "theirs", "--whole-answer", "--engine", "reference", window="2")
    for column in ("p_knockout", "attention"):
        np.testing.assert_allclose(ours[column], theirs[column], rtol=0, atol=2e-6)
    np.testing.assert_allclose(ours.answer_logprob_change, theirs.answer_logprob_change, rtol=0, atol=2e-5)


def test_a_killed_job_ends_with_the_same_bytes(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "AT_ONCE", 2)
    _knock_out(made, tmp_path / "whole")
    run, calls = knockouts.knock_out, []

    def killed(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(knockouts, "knock_out", killed)
    with pytest.raises(KeyboardInterrupt):
        _knock_out(made, tmp_path / "killed")
    assert (tmp_path / "killed" / "questions.journal.jsonl").exists()
    _knock_out(made, tmp_path / "killed")
    whole, resumed = (tmp_path / name / "questions.parquet" for name in ("whole", "killed"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_a_mean_of_too_few_images_is_missing_with_its_reason(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(donors, "FEWEST_IMAGES", QUESTIONS + 1)
    with caplog.at_level(logging.WARNING):
        table, metadata = _knock_out(made, tmp_path)
    mean = table[table.flow == "image=mean->question"]
    assert (mean.edges == 0).all()
    assert mean.change_percent.isna().all()
    assert "mean_images" not in metadata
    assert f"=mean is missing for {QUESTIONS} of {QUESTIONS} questions" in caplog.text
    assert f"fewer than {QUESTIONS + 1} images" in caplog.text
    assert (table[table.flow != "image=mean->question"].edges > 0).all()


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> MultimodalModel:
    return load_tiny(tmp_path_factory.mktemp("tiled"), architecture="llava_next", layers=LAYERS, width=32)


def _shapes(root: Path, shapes: list[tuple[int, int]]) -> list[ChosenQuestion]:
    """A folder of images of some sizes, with a question about each."""
    (root / "images").mkdir()
    questions = []
    for number, size in enumerate(shapes):
        Image.new("RGB", size, (number, 90, 200)).save(root / "images" / f"{number}.jpg")
        questions.append(
            ChosenQuestion(str(number), str(number), "own", "", "Is the ball red or blue?", "red", None, None, ())
        )
    return questions


def test_donors_are_drawn_among_images_of_the_same_layout(
    tiled: MultimodalModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Six wide, three tall and one of a shape of its own; the last image is missing.
    questions = _shapes(tmp_path, [(300, 150)] * 6 + [(150, 300)] * 3 + [(400, 90)] + [(300, 150)])
    (tmp_path / "images" / "10.jpg").unlink()
    with Images(tmp_path) as images:
        layouts = layouts_of(tiled, images, questions)
        for question in questions[:10]:
            prepared = tiled.prepare(question, images.open(question.image_id))
            assert prepared.layout == layouts[question.image_id]
    assert len(set(layouts.values())) == 3
    assert "10" not in layouts
    for seed in range(5):
        swapped = swapped_images(questions, seed, layouts)
        assert {layouts[image] == layouts[question] for question, image in swapped.items()} == {True}
        assert all(image != question for question, image in swapped.items())
        assert set(swapped) == {str(number) for number in range(9)}
    with caplog.at_level(logging.WARNING):
        found = Donors(tiled, {"swapped", "mean"}, questions, questions[:10], lambda: Images(tmp_path), 0)
    assert "=swapped is missing for 1 of 10 questions, such as 9: no other image" in caplog.text
    assert "=mean is missing for 10 of 10 questions" in caplog.text
    assert found.averaged == []


def test_where_all_images_are_laid_out_alike_the_donor_is_the_image_of_the_baseline(made: Path) -> None:
    questions = _one_per_image(draw_world(made / "again", 20)["ChooseAttr"])[:QUESTIONS]
    with_layouts = swapped_images(questions, 0, {question.image_id: (b"one",) for question in questions})
    assert with_layouts == swapped_images(questions, 0)
    shutil.rmtree(made / "again")

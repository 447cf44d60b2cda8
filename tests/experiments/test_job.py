"""The long jobs, answers and knockouts and the logit lens, from their tables to their tables: whole, killed, and on broken input."""

import io
import json
import os
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from crossflow.cli.main import main
from crossflow.core.columns import SKIPPED
from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.journal import Journal
from crossflow.core.measures import KNOCKOUT
from crossflow.core.tables import ANSWERS, LENS, read_csv, read_parquet
from crossflow.data.chosen import write_chosen
from crossflow.engine import planning
from crossflow.experiments import answers as answers_module
from crossflow.experiments import job as job_module
from crossflow.experiments import knockouts
from crossflow.models import preparing
from tiny import CPU, draw_world, load_tiny

LAYERS = 3
FLOWS = ["image->last", "related->question", "object->last"]


class Study:
    """A folder with a model, a world, and the jobs on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.world = root / "world"
        self.questions = root / "questions.csv"
        self.answers = root / "answers/questions.parquet"
        self.skipped = root / "answers/questions.skipped.csv"
        self.knockout = root / "knockout/questions.parquet"
        self.lens = root / "lens/questions.parquet"
        self.model = [
            "--model-path",
            str(root / "model"),
            "--prompt",
            "vicuna-v1",
            "--device",
            "cpu",
            "--max-new-tokens",
            "3",
        ]

    def run_answers(self, *options: str) -> int:
        lens = ["--logit-lens", str(self.lens.parent), "--select", "all"]
        tables = ["--output", str(self.answers.parent), *lens, *options]
        return main(["answers", "--questions", str(self.questions), "--root", str(self.world), *tables, *self.model])

    def run_knockout(self, *options: str, select: str = "all") -> int:
        tables = ["--questions", str(self.questions), "--answers", str(self.answers.parent), "--root", str(self.world)]
        options = (*tables, "--output", str(self.knockout.parent), "--select", select, "--window", "1", *options)
        return main(["knockout", *options, "--flows", *FLOWS, *self.model])

    def keep_images(self, keep: Callable[[str], bytes | None]) -> None:
        """Rewrite images.zip with other content per image id; None leaves it out."""
        path = self.world / "images.zip"
        with zipfile.ZipFile(path) as archive:
            content = {Path(name).stem: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for image_id, encoded in content.items():
                if (kept := keep(image_id)) is not None:
                    archive.writestr(f"images/{image_id}.jpg", kept or encoded)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("jobs")
    load_tiny(root / "model", layers=LAYERS, width=32)
    questions = draw_world(root / "world", 5)["ChooseAttr"][:5]
    write_chosen(root / "questions.csv", questions)
    return root


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Study:
    return Study(Path(shutil.copytree(made, tmp_path / "study")))


def _last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_answers_and_knockouts_fill_their_tables(study: Study) -> None:
    assert study.run_answers() == 0
    assert study.run_knockout() == 0
    answers, metadata = read_parquet(study.answers, ANSWERS)
    assert len(answers) == metadata["answered"] == 5
    assert metadata["layers"] == LAYERS
    assert answers.p_clean.between(0, 1).all()
    assert answers.p_blind.between(0, 1).all()
    assert (answers.p_clean - answers.p_blind).abs().max() > 1e-3
    knockout, metadata = read_parquet(study.knockout, KNOCKOUT)
    assert len(knockout) == 5 * len(FLOWS) * LAYERS
    assert (metadata["selected"], metadata["excluded"], metadata["layers"]) == (5, 0, LAYERS)
    assert 0 <= metadata["noise_floor"] <= 1e-6
    for _, curve in knockout.groupby(["question_id", "flow"]):
        assert curve.layer.tolist() == list(range(LAYERS))
    measured = knockout[knockout.edges > 0]
    change = (measured.p_knockout - measured.p_clean) / measured.p_clean * 100
    np.testing.assert_allclose(measured.change_percent, change, rtol=1e-9, atol=1e-9)
    merged = measured.merge(answers, on="question_id")
    np.testing.assert_allclose(merged.p_clean_x, merged.p_clean_y, rtol=0, atol=1e-6)
    assert measured.change_percent.abs().max() > 1
    assert not list(study.root.rglob("*.jsonl"))


def test_the_logit_lens_of_each_answer_fills_its_table_also_after_a_kill(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study.run_answers() == 0
    table, metadata = read_parquet(study.lens, LENS)
    assert (metadata["selected"], metadata["layers"]) == (5, LAYERS)
    # Each state with and without the norm, for the answer and the false option in two forms.
    assert len(table) == 5 * (LAYERS + 1) * 2 * 4
    assert table.probability.between(0, 1).all()
    whole = study.answers.read_bytes(), study.lens.read_bytes()

    study.answers.unlink()
    study.lens.unlink()
    track, calls = answers_module.track_options, []
    monkeypatch.setattr(planning, "AT_ONCE", 1)

    def die_at_the_third(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return track(*arguments)

    monkeypatch.setattr(answers_module, "track_options", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        study.run_answers()
    assert study.run_answers() == 0
    assert len(calls) == 3 + 3, "two were finished"
    monkeypatch.setattr(planning, "AT_ONCE", 8)
    assert study.run_answers("--output", str(study.root / "again"), "--logit-lens", str(study.root / "lens-again")) == 0
    again = [study.root / folder / "questions.parquet" for folder in ("again", "lens-again")]
    assert tuple(each.read_bytes() for each in again) == whole


@pytest.mark.parametrize("select", ["correct", "wrong"])
def test_the_logit_lens_is_kept_of_the_selected_answers(
    study: Study, monkeypatch: pytest.MonkeyPatch, select: str
) -> None:
    monkeypatch.setattr(answers_module, "is_correct", lambda generated, answer: generated == "right")
    decode = answers_module.answer_together

    def every_second_is_right(*arguments: object) -> list[tuple[object, object]]:
        return [
            (seeing._replace(text=("right", "wrong")[number % 2]), blind)
            for number, (seeing, blind) in enumerate(decode(*arguments))
        ]

    monkeypatch.setattr(answers_module, "answer_together", every_second_is_right)
    assert study.run_answers("--select", select) == 0
    answers, _ = read_parquet(study.answers, ANSWERS)
    lens, metadata = read_parquet(study.lens, LENS)
    expected = answers.question_id[answers.correct == (select == "correct")].tolist()
    assert len(expected) == {"correct": 3, "wrong": 2}[select] == metadata["selected"]
    assert lens.question_id.unique().tolist() == expected


def test_several_categories_in_one_job_are_as_each_alone(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.read_csv(study.questions, dtype=str)
    tables = [study.root / f"{name}.csv" for name in ("first", "second")]
    table[:2].to_csv(tables[0], index=False)
    table[2:].to_csv(tables[1], index=False)
    for each in tables:
        study.questions = each
        assert study.run_answers() == study.run_knockout() == 0
    folders = [path.parent for path in (study.answers, study.knockout, study.lens)]
    alone = {path: path.read_bytes() for folder in folders for path in folder.glob("*.parquet")}
    assert len(alone) == 6
    for path in alone:
        path.unlink()

    # A job that is killed in its second category has both in its journals, and goes on there.
    both = ["--questions", *map(str, tables)]
    answered, calls = answers_module._entries, []

    def until_the_second(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answered(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(answers_module, "_entries", until_the_second)
        with pytest.raises(KeyboardInterrupt):
            study.run_answers(*both)
        assert not list(study.answers.parent.glob("*.parquet"))
        assert study.run_answers(*both) == 0
    assert len(calls) == 3
    assert study.run_knockout(*both) == 0
    assert {path: path.read_bytes() for path in alone} == alone


def test_a_category_that_is_given_twice_is_refused(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.run_answers("--questions", str(study.questions), str(study.questions)) == 1
    assert "questions.csv: the category questions is given twice." in _last_line(capsys)


@pytest.mark.parametrize("image", ["another", "mirrored", "brighter"])
def test_an_image_that_changed_after_the_answers_stops_the_knockouts(
    study: Study, capsys: pytest.CaptureFixture[str], image: str
) -> None:
    assert study.run_answers() == 0
    second = pd.read_csv(study.questions, dtype=str).image_id[1]

    def changed(content: bytes) -> bytes:
        with Image.open(io.BytesIO(content)) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        new = {
            "another": np.random.default_rng(0).integers(256, size=pixels.shape, dtype=np.uint8),
            "mirrored": pixels[:, ::-1],
            "brighter": 255 - (255 - pixels) // 2,
        }[image]
        encoded = io.BytesIO()
        Image.fromarray(new).save(encoded, "png")
        return encoded.getvalue()

    with zipfile.ZipFile(study.world / "images.zip") as archive:
        (name,) = (name for name in archive.namelist() if Path(name).stem == second)
        content = archive.read(name)
    study.keep_images(lambda image_id: changed(content) if image_id == second else b"")
    table, _ = read_parquet(study.answers, ANSWERS)
    assert study.run_knockout() == 1
    said = _last_line(capsys)
    assert f"Question {table.question_id[1]}: its answer had the probability {table.p_clean[1]:.4f}" in said
    assert not study.knockout.exists()


def test_answers_to_a_prompt_that_changes_with_the_time_are_refused(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    study.model[study.model.index("vicuna-v1")] = "chat-template"
    template = study.root / "model" / "chat_template.jinja"
    text = "{{ messages[0].content[1].text }}"
    template.write_text("USER: <image>\n" + text + " {{ strftime_now('%H%M%S%f') }} ASSISTANT:")
    assert study.run_answers() == 0
    assert study.run_knockout() == 1
    assert "were given to the prompt 'USER: <image>\\nQUESTION" in _last_line(capsys)
    template.write_text("USER: <image>\n" + text + " ASSISTANT:")
    assert study.run_answers() == study.run_knockout() == 0


def test_an_empty_source_set_is_missing_and_not_zero(study: Study) -> None:
    table = pd.read_csv(study.questions, dtype=str)
    elsewhere = json.loads(table.objects[0])
    elsewhere[0].update(x=-500, w=10, name="unicorn")
    table.loc[0, "objects"] = json.dumps(elsewhere)
    table.to_csv(study.questions, index=False)
    assert study.run_answers() == 0
    assert study.run_knockout() == 0
    knockout, _ = read_parquet(study.knockout, KNOCKOUT)
    first = knockout[knockout.question_id == table.question_id[0]]
    for flow, missing in (("image->last", False), ("related->question", True), ("object->last", True)):
        rows = first[first.flow == flow]
        assert len(rows) == LAYERS
        assert (rows.edges == 0).all() == missing
        measures = rows[["p_clean", "p_knockout", "change_percent", "logprob_change", "flipped"]]
        assert measures.isna().all(axis=None) if missing else measures.notna().all(axis=None)


def test_the_reference_engine_gives_the_same_table(study: Study) -> None:
    assert study.run_answers() == 0
    assert study.run_knockout() == 0
    ours, _ = read_parquet(study.knockout, KNOCKOUT)
    assert study.run_knockout("--engine", "reference") == 0
    theirs, metadata = read_parquet(study.knockout, KNOCKOUT)
    assert metadata["engine"] == "reference"
    assert metadata["noise_floor"] == 0
    np.testing.assert_allclose(ours.p_knockout, theirs.p_knockout, rtol=0, atol=1e-6)
    assert ours.flow.tolist() == theirs.flow.tolist()


@pytest.mark.parametrize("finished", [1, *(pytest.param(count, marks=pytest.mark.long) for count in (0, 2))])
def test_a_killed_job_resumes_and_writes_the_same_bytes(
    study: Study, finished: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "AT_ONCE", 2)
    assert study.run_answers() == 0
    assert study.run_knockout() == 0
    whole = study.answers.read_bytes(), study.knockout.read_bytes()

    for module, work, pieces, run, table in (
        (answers_module, "_entries", 3, study.run_answers, study.answers),
        (knockouts, "knock_out", 3, study.run_knockout, study.knockout),
    ):
        table.unlink()
        original = getattr(module, work)
        done: list[object] = []

        def until_killed(*arguments: object, original: Callable = original, done: list = done) -> object:
            if len(done) == finished:
                raise KeyboardInterrupt
            done.append(arguments)
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(module, work, until_killed)
            with pytest.raises(KeyboardInterrupt):
                run()
        assert not table.exists()
        with monkeypatch.context() as patch:
            resumed: list[object] = []
            patch.setattr(
                module, work, lambda *a, original=original, resumed=resumed: resumed.append(a) or original(*a)
            )
            assert run() == 0
        assert len(resumed) == pieces - finished
    assert (study.answers.read_bytes(), study.knockout.read_bytes()) == whole


def test_questions_that_were_together_are_together_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "AT_ONCE", 3)
    assert study.run_answers() == 0
    assert study.run_knockout() == 0
    whole = study.knockout.read_bytes()
    study.knockout.unlink()
    kept: list[str] = []

    def until_the_second(self: Journal, key: str, entry: object, add: Callable = Journal.add) -> None:
        if len(kept) == 2:
            raise KeyboardInterrupt
        add(self, key, entry)
        kept.append(key)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", until_the_second)
        with pytest.raises(KeyboardInterrupt):
            study.run_knockout()
    together: list[int] = []
    original = knockouts.knock_out
    monkeypatch.setattr(knockouts, "knock_out", lambda *a: together.append(len(a[1])) or original(*a))
    assert study.run_knockout() == 0
    assert together == [3, 2]
    assert study.knockout.read_bytes() == whole


def test_processes_that_prepare_questions_change_nothing(study: Study) -> None:
    baselines = ["--baselines", "zeroed", "swapped"]
    assert study.run_answers(*baselines) == 0
    assert study.run_knockout() == 0
    whole = study.answers.read_bytes(), study.knockout.read_bytes()
    study.answers.unlink()
    study.knockout.unlink()
    assert study.run_answers(*baselines, "--workers", "2") == 0
    assert study.run_knockout("--workers", "2") == 0
    assert (study.answers.read_bytes(), study.knockout.read_bytes()) == whole


def test_a_killed_process_that_prepares_questions_ends_the_job_in_one_sentence(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare = preparing._prepare

    def killed(model: object, images: object, request: preparing.PrepareRequest) -> object:
        if request.question.question_id == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return prepare(model, images, request)

    last = pd.read_csv(study.questions, dtype=str).question_id.tolist()[-1]
    monkeypatch.setattr(preparing, "_prepare", killed)
    assert study.run_answers("--workers", "1") == 1
    assert "A process that prepares questions was killed" in _last_line(capsys)
    monkeypatch.undo()
    assert study.run_answers() == 0
    assert len(read_parquet(study.answers, ANSWERS)[0]) == 5


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError(), FileNotFoundError(2, "socket")])
def test_a_process_that_is_gone_before_its_memory_is_asked_for_is_told_likewise(error: Exception) -> None:
    """It lies between a worker's death and its parent's signal, too short a time to be hit at will."""

    def found() -> Iterator[Exception]:
        yield BrokenQuestion("first")
        raise error

    given = preparing._elsewhere(found(), CPU)
    assert str(next(given)) == "first"
    with pytest.raises(CrossflowError, match="A process that prepares questions was killed"):
        next(given)


def test_what_a_process_met_itself_is_not_taken_for_its_death() -> None:
    class Absent(torch.utils.data.Dataset[Exception]):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, place: int) -> Exception:
            raise FileNotFoundError(2, "No such file", "images.zip")

    loader = torch.utils.data.DataLoader(Absent(), batch_size=None, num_workers=1)
    with pytest.raises(FileNotFoundError, match=r"images\.zip"):
        next(preparing._elsewhere(loader, CPU))


def test_a_broken_image_is_listed_and_the_others_are_answered(study: Study) -> None:
    ids = pd.read_csv(study.questions, dtype=str).image_id.tolist()
    broken = {ids[1]: None, ids[3]: b"no image"}
    study.keep_images(lambda image_id: broken.get(image_id, b""))
    assert study.run_answers() == 0
    assert study.run_knockout() == 0
    skipped = read_csv(study.skipped, SKIPPED)
    reasons = {row["image_id"]: row["reason"] for row in skipped}
    assert reasons.keys() == broken.keys()
    assert "is missing from" in reasons[ids[1]]
    assert "does not decode" in reasons[ids[3]]
    answers, _ = read_parquet(study.answers, ANSWERS)
    assert not set(answers.image_id) & broken.keys()
    assert len(answers) + len(skipped) == 5


def test_a_study_whose_images_are_all_missing_fails_in_one_sentence(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    study.keep_images(lambda image_id: None)
    assert study.run_answers() == 1
    assert "None of the 5 questions" in _last_line(capsys)
    assert not study.answers.exists()


def test_images_that_are_all_gone_after_the_answers_stop_the_knockouts_in_one_sentence(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study.run_answers() == 0
    study.keep_images(lambda image_id: None)
    capsys.readouterr()
    assert study.run_knockout() == 1
    assert "was answered before but is no longer usable: the image" in _last_line(capsys)
    assert not study.knockout.exists()


@pytest.mark.parametrize("library", ["torch", "transformers", "pillow"])
def test_a_job_that_goes_on_with_another_library_begins_anew(
    study: Study, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setattr(planning, "AT_ONCE", 1)
    assert study.run_answers() == 0
    original, done = knockouts.knock_out, []

    def until_killed(*arguments: object) -> object:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(knockouts, "knock_out", until_killed)
        with pytest.raises(KeyboardInterrupt):
            study.run_knockout()
    version = job_module.metadata.version
    monkeypatch.setattr(job_module.metadata, "version", lambda name: "99.0" if name == library else version(name))
    again: list[object] = []
    monkeypatch.setattr(knockouts, "knock_out", lambda *given: again.append(given) or original(*given))
    assert study.run_knockout() == 0
    assert len(again) == 5, "what the other version finished was taken up"
    (aside,) = study.root.rglob("*.set-aside")
    assert len(aside.read_text().splitlines()) == 1 + 2


def test_an_image_that_vanishes_after_the_answers_stops_the_knockouts_and_keeps_them(
    study: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "AT_ONCE", 2)
    assert study.run_answers() == 0
    ids = pd.read_csv(study.questions, dtype=str).image_id.tolist()
    shutil.copy(study.world / "images.zip", study.root / "kept.zip")
    study.keep_images(lambda image_id: None if image_id == ids[2] else b"")
    assert study.run_knockout() == 1
    assert "is no longer usable" in _last_line(capsys)
    (journal,) = study.root.rglob("*.jsonl")
    assert len(journal.read_text().splitlines()) == 1 + 2
    shutil.copy(study.root / "kept.zip", study.world / "images.zip")
    assert study.run_knockout() == 0
    assert len(read_parquet(study.knockout, KNOCKOUT)[0]) == 5 * len(FLOWS) * LAYERS


def test_no_question_left_after_the_selection_is_an_empty_table(study: Study) -> None:
    assert study.run_answers() == 0
    answers, _ = read_parquet(study.answers, ANSWERS)
    assert not answers.correct.any(), "a random model is not expected to be right"
    assert study.run_knockout(select="correct") == 0
    knockout, metadata = read_parquet(study.knockout, KNOCKOUT)
    assert len(knockout) == 0
    assert list(knockout.columns) == KNOCKOUT.names
    assert (metadata["selected"], metadata["excluded"], metadata["layers"]) == (0, 5, LAYERS)


def test_a_window_that_covers_the_model_from_every_centre_is_refused_before_the_weights_are_read(
    study: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study.run_answers() == 0
    assert study.run_knockout("--window", str(2 * LAYERS - 1)) == 0
    monkeypatch.setattr(knockouts, "with_weights", lambda _: pytest.fail("the weights were read"))
    assert study.run_knockout("--window", str(2 * LAYERS)) == 1
    assert "A window of 6 layers does not fit" in _last_line(capsys)


def test_a_model_that_was_not_fetched_is_one_sentence(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study.model = ["--model-manifest", "data/models/absent.json", "--prompt", "vicuna-v1"]
    assert study.run_answers() == 1
    assert "data/models/absent.json is not a valid manifest of a fetched model" in _last_line(capsys)

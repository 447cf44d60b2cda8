"""GQA from the hub, in parquet files: fetched from a stand-in on this machine."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

import hub_gqa
from crossflow.cli.main import main
from crossflow.core.errors import CrossflowError
from crossflow.core.records import ChosenQuestion
from crossflow.data.categories import CATEGORIES
from crossflow.data.chosen import write_chosen
from crossflow.data.filtering import filter_questions
from crossflow.fetch.hub_gqa import fetch_hub_images, repo_of
from crossflow.fetch.hub_repo import HubRepo
from crossflow.fetch.sources import COLUMNS, read_sources
from hub_server import REVISION, Hub, hub_of

SPLIT = "val_balanced"
REPO = HubRepo(hub_gqa.NAME, REVISION, "dataset")
QUESTIONS = f"{SPLIT}_instructions/val-00000-of-00001.parquet"
# Three files of four row groups of two images.
SIZE = 100_000
# Twice the end of a file, with its BESIDE, and the ids.
BESIDE = 140_000
IMAGES = {str(number): os.urandom(SIZE) for number in range(24)}
RECORD = {
    "imageId": "1",
    "question": "Is the café red?",
    "answer": "yes",
    "types": {"detailed": "verifyAttr"},
    "semantic": [{"operation": "select", "argument": "café (7)", "dependencies": []}],
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "repository"
    hub_gqa.write_questions(folder, {"001": RECORD, "002": RECORD | {"imageId": "5"}})
    hub_gqa.write_images(folder, list(IMAGES.items()), shards=3, rows=2)
    with hub_of(folder, hub_gqa.NAME) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 2)
        monkeypatch.chdir(tmp_path)
        _write_sources(tmp_path / "sources.csv", hub_gqa.NAME, REVISION)
        yield hub


def _write_sources(path: Path, name: str, revision: str) -> None:
    url = f"https://huggingface.co/datasets/{name}/tree/{revision}"
    path.write_text(f"{','.join(COLUMNS)}\ngqa-hub,{url},,,CC BY 4.0\n")


def _fetch_questions() -> int:
    named = ["--source", "gqa-hub", "--sources", "sources.csv", "--split", SPLIT]
    return main(["hub-questions", *named, "--output", "gqa/questions/val_balanced_questions.json"])


def _sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said in the end, after the bars."""
    said = capsys.readouterr().err.rstrip("\n").rpartition("\n")[2]
    assert said.startswith("crossflow hub-questions: ")
    return said


def _inside(root: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(root / "images.zip") as archive:
        return {Path(name).stem: archive.read(name) for name in archive.namelist()}


def test_questions_are_fetched_once_and_written_in_the_official_layout(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _fetch_questions() == 0
    output = tmp_path / "gqa/questions/val_balanced_questions.json"
    assert json.loads(output.read_text()) == {"001": RECORD, "002": RECORD | {"imageId": "5"}}
    assert hub.asked == [(QUESTIONS, 0)]
    output.unlink()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert _fetch_questions() == 0
    assert output.is_file()
    assert len(hub.asked) == 1


def test_only_the_row_groups_of_needed_images_are_fetched_and_nothing_twice(hub: Hub, tmp_path: Path) -> None:
    # Of the first file the group of 0 and 3, of the second the group of 7 and 10.
    rows = fetch_hub_images(REPO, SPLIT, tmp_path / "gqa", {"0", "3", "7", "99"}, full=False)
    assert [row["image_id"] for row in rows] == ["0", "3", "7"]
    assert _inside(tmp_path / "gqa") == {image_id: IMAGES[image_id] for image_id in ("0", "3", "7")}
    group = 2 * SIZE
    sent = [hub.sent[f"{SPLIT}_images/val-0000{shard}-of-00003.parquet"] for shard in range(3)]
    assert group < sent[0] < group + BESIDE
    assert group < sent[1] < group + BESIDE
    assert 0 < sent[2] < BESIDE
    hub.asked.clear()
    fetch_hub_images(REPO, SPLIT, tmp_path / "gqa", {"0", "3"}, full=False)
    assert hub.asked == []
    fetch_hub_images(REPO, SPLIT, tmp_path / "gqa", {"0", "2"}, full=False)
    assert {name for name, _ in hub.asked} == {f"{SPLIT}_images/val-00002-of-00003.parquet"}
    assert set(_inside(tmp_path / "gqa")) == {"0", "2", "3", "7"}


def test_a_server_without_ranges_sends_whole_files_which_are_checked(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.ranges = False
    rows = fetch_hub_images(REPO, SPLIT, tmp_path / "gqa", {"0"}, full=False)
    assert [row["image_id"] for row in rows] == ["0"]
    assert "the server does not send parts of files" in caplog.text
    path = hub.folder / f"{SPLIT}_images/val-00000-of-00003.parquet"
    cached = REPO.cached(f"{SPLIT}_images/val-00000-of-00003.parquet")
    assert cached is not None
    assert hashlib.sha256(cached.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()


def test_all_images_come_from_whole_files_and_then_without_a_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_hub_images(REPO, SPLIT, tmp_path / "gqa", {"0"}, full=True)
    assert _inside(tmp_path / "gqa") == IMAGES
    assert sorted(start for _, start in hub.asked) == [0, 0, 0]
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    fetch_hub_images(REPO, SPLIT, tmp_path / "other", {"4"}, full=False)
    assert _inside(tmp_path / "other") == {"4": IMAGES["4"]}


def test_a_broken_connection_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    name = f"{SPLIT}_images/val-00000-of-00003.parquet"
    hub.break_off = {name}
    fetch_hub_images(REPO, SPLIT, tmp_path / "gqa", {"0"}, full=False)
    assert _inside(tmp_path / "gqa") == {"0": IMAGES["0"]}
    starts = [start for asked, start in hub.asked if asked == name]
    assert starts[0] == starts[1]


def test_whole_files_with_another_checksum_are_refused(hub: Hub, tmp_path: Path) -> None:
    assert _fetch_questions() == 0
    path = REPO.cached(QUESTIONS)
    assert path is not None
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert _fetch_questions() == 1


def _wait_for(there: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not there.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.long
def test_a_killed_job_is_taken_up_where_it_was(hub: Hub, repo: Path, tmp_path: Path) -> None:
    ids = ["0", "6", "12", "18"]  # a row group each
    about = [ChosenQuestion(number, number, "c", "", "Q?", "a", None, None, ()) for number in ids]
    write_chosen(tmp_path / "q.csv", about)
    command = [
        sys.executable, "-m", "crossflow", "fetch-images", "--source", "gqa-hub", "--sources", "sources.csv", "--split",
        SPLIT, "--questions", "q.csv", "--root", "gqa", "--output", "images.csv",
    ]  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": str(repo / "workflow"), "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"),
    }  # fmt: skip
    hub.pause = 0.2
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as process:
        _wait_for(tmp_path / "gqa/images.zip.part.d/0.jpg", process)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "gqa/images.zip").exists()
    kept = {path.stem for path in (tmp_path / "gqa/images.zip.part.d").glob("*.jpg")}
    assert "18" not in kept
    hub.pause = 0.0
    hub.asked.clear()
    hub.sent.clear()
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == 0
    assert set(_inside(tmp_path / "gqa")) == set(ids)
    missing = len(ids) - len(kept)
    assert sum(hub.sent.values()) < missing * 2 * SIZE + BESIDE


def test_a_licence_to_accept_a_missing_repository_and_a_missing_revision_are_one_sentence_each(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.gated = True
    assert _fetch_questions() == 1
    page = f"https://huggingface.co/datasets/{hub_gqa.NAME}"
    assert f"accept its licence: do so at {page}" in capsys.readouterr().err
    hub.gated = False
    _write_sources(tmp_path / "sources.csv", "nobody/nothing", REVISION)
    assert _fetch_questions() == 1
    assert "nobody/nothing is not on the hub" in capsys.readouterr().err
    _write_sources(tmp_path / "sources.csv", hub_gqa.NAME, "f" * 40)
    assert _fetch_questions() == 1
    assert f"has no revision {'f' * 40}; its revisions are listed at {page}/commits" in capsys.readouterr().err
    assert hub.asked == []


def test_too_small_a_disk_is_said_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.sizes = {QUESTIONS: 10**15}
    assert _fetch_questions() == 1
    assert "needs 1000000.0 GB, but the disk of" in capsys.readouterr().err
    assert hub.asked == []
    monkeypatch.setattr("crossflow.fetch.download.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(CrossflowError, match="fetching 1 images needs 0.0 GB, but"):
        fetch_hub_images(REPO, SPLIT, tmp_path / "gqa", {"0"}, full=False)


def _replace(hub: Hub, name: str, change: Any) -> None:
    path = hub.folder / name
    pq.write_table(change(pq.read_table(path)), path, row_group_size=2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda table: table.drop_columns(["answer"]),
            "has no column 'answer'; its columns are id, imageId, question,",
        ),
        (
            lambda table: table.set_column(0, "id", pa.array([1, 2])),
            "the column 'id' has the type int64; expected text",
        ),
        (lambda table: pa.concat_tables([table, table]), "contains question 001 twice"),
        (
            lambda table: table.set_column(table.schema.get_field_index("answer"), "answer", pa.array(["yes", None])),
            "question 002 does not have GQA's form",
        ),
    ],
)
def test_questions_of_another_form_are_one_sentence(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, said: str
) -> None:
    _replace(hub, QUESTIONS, change)
    assert _fetch_questions() == 1
    assert said in _sentence(capsys)
    assert not (tmp_path / "gqa/questions/val_balanced_questions.json").exists()


def test_a_file_that_is_cut_short_is_one_sentence(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    path = hub.folder / QUESTIONS
    path.write_bytes(path.read_bytes()[:-20])
    assert _fetch_questions() == 1
    assert f"{QUESTIONS} is not a parquet file, or is truncated or damaged (" in _sentence(capsys)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop_columns(["image"]), "has no column 'image'; its columns are id"),
        (lambda table: table.set_column(1, "image", table["id"]), "has the type string; expected images"),
        (lambda table: table.set_column(0, "id", pa.array(["x"] * len(table))), "contains image x twice"),
    ],
)
def test_images_of_another_form_are_one_sentence_and_finished_ones_are_kept(
    hub: Hub, tmp_path: Path, change: Any, said: str
) -> None:
    fetch_hub_images(REPO, SPLIT, tmp_path / "gqa", {"0"}, full=False)
    (tmp_path / "gqa/images.shards.json").unlink()
    _replace(hub, f"{SPLIT}_images/val-00001-of-00003.parquet", change)
    with pytest.raises(CrossflowError, match=said):
        fetch_hub_images(REPO, SPLIT, tmp_path / "gqa", {"0", "3"}, full=False)
    assert _inside(tmp_path / "gqa") == {"0": IMAGES["0"]}


def test_an_image_without_bytes_is_left_out_and_a_lost_file_is_named(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub_gqa.write_images(hub.folder, [*list(IMAGES.items())[:23], ("23", None)], shards=3, rows=2)
    rows = fetch_hub_images(REPO, SPLIT, tmp_path / "gqa", {"23", "0"}, full=False)
    assert [row["image_id"] for row in rows] == ["0"]
    assert "holds no bytes of the image 23" in caplog.text
    (hub.folder / f"{SPLIT}_images/val-00001-of-00003.parquet").unlink()
    with pytest.raises(CrossflowError, match="val_balanced_images should have 3 files, but only 2 are there"):
        fetch_hub_images(REPO, SPLIT, tmp_path / "gqa", {"4"}, full=False)
    with pytest.raises(CrossflowError, match="has no parquet files in train_balanced_images at revision"):
        fetch_hub_images(REPO, "train_balanced", tmp_path / "gqa", {"4"}, full=False)


def test_the_table_of_sources_names_the_data_set_at_a_commit_and_gqas_own_licence(repo: Path) -> None:
    found = repo_of(read_sources(repo / "resources/sources.csv")["gqa-hub"])
    assert found is not None
    assert (found.repo, found.kind, len(found.revision)) == ("lmms-lab/GQA", "dataset", 40)


@pytest.mark.long
def test_the_published_questions_are_chosen_alike_from_both_layouts(hub: Hub, repo: Path, tmp_path: Path) -> None:
    official = repo.parent / "shared/gqa/published"
    if not official.is_dir():
        pytest.skip("needs the questions of the published sets, which are not in the repository")
    records = json.loads((official / "questions/val_balanced_questions.json").read_text())
    assert len(records) == 2776
    hub_gqa.write_questions(hub.folder, records)
    assert _fetch_questions() == 0
    (tmp_path / "gqa/sceneGraphs").symlink_to(official / "sceneGraphs")
    chosen = list(filter_questions(official, SPLIT, CATEGORIES))
    assert {found.category for _, found in chosen} >= set(CATEGORIES)
    assert list(filter_questions(tmp_path / "gqa", SPLIT, CATEGORIES)) == chosen

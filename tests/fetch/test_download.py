"""Files, single members of zips and images from a server that may misbehave."""

import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from crossflow.cli.main import main
from crossflow.core.errors import CrossflowError
from crossflow.core.records import ChosenQuestion
from crossflow.data.chosen import write_chosen
from crossflow.data.images import Images
from crossflow.fetch import download, remote_zip
from crossflow.fetch.download import NoRangesError, fetch_file, new_session, require_space
from crossflow.fetch.gqa_images import fetch_images
from crossflow.fetch.remote_zip import fetch_member, read_directory
from crossflow.fetch.sources import COLUMNS, RemoteFile, read_sources, require_safe
from serving import Site, serving

IMAGE = 147_000  # bytes of an image of GQA, on average
MEMBERS, WANTED = 5_000, 20


@pytest.fixture(autouse=True)
def _in_no_hurry_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_BACKOFF", 0.01)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "site").mkdir()
    with serving(tmp_path / "site") as site:
        yield site


@pytest.fixture
def session() -> requests.Session:
    return new_session()


def _remote(site: Site, name: str, recorded: bool = True) -> RemoteFile:
    path = site.root / name
    content = hashlib.sha256(path.read_bytes()).hexdigest() if recorded and path.stat().st_size < 1 << 30 else None
    return RemoteFile(name, f"{site.url}/{name}", path.stat().st_size if recorded else None, content)


def _jpeg_like(number: int, size: int) -> bytes:
    """Bytes that do not pack, as a JPEG's."""
    return random.Random(number).randbytes(size)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A zip in the layout of GQA's, thousands of images that begin beyond 4 GiB, so that it needs zip64."""
    path = tmp_path_factory.mktemp("images") / "images.zip"
    wanted = [str(2_300_000 + number * (MEMBERS // WANTED)) for number in range(WANTED)]
    with path.open("wb") as file:
        file.seek(5 << 30)  # a hole, which takes no room
        with zipfile.ZipFile(file, "w") as archive:
            archive.mkdir("images")
            for number in range(MEMBERS):
                name = str(2_300_000 + number)
                packing = zipfile.ZIP_DEFLATED if number % 500 == 0 else zipfile.ZIP_STORED
                archive.writestr(
                    f"images/{name}.jpg", _jpeg_like(number, IMAGE if name in wanted else 500), compress_type=packing
                )
    return SimpleNamespace(
        path=path, wanted=wanted, bytes={name: _jpeg_like(int(name) - 2_300_000, IMAGE) for name in wanted}
    )


@pytest.fixture
def gqa(site: Site, images: SimpleNamespace) -> RemoteFile:
    (site.root / "images.zip").symlink_to(images.path)
    return RemoteFile("gqa-images", f"{site.url}/images.zip", images.path.stat().st_size, "0" * 64)


def _fetch(session: requests.Session, gqa: RemoteFile, root: Path, image_ids: list[str]) -> list[str]:
    return [image["image_id"] for image in fetch_images(session, gqa, root, image_ids, full=False)]


def _read(root: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(root / "images.zip") as archive:
        assert archive.testzip() is None
        return {Path(name).stem: archive.read(name) for name in archive.namelist()}


# Single images out of a zip.


def test_the_zip_of_the_test_needs_zip64(images: SimpleNamespace) -> None:
    with zipfile.ZipFile(images.path) as archive:
        assert min(entry.header_offset for entry in archive.infolist()) > 1 << 32


def test_twenty_of_thousands_of_images_cost_less_than_one_and_a_half_times_their_bytes(
    site: Site, session: requests.Session, gqa: RemoteFile, images: SimpleNamespace, tmp_path: Path
) -> None:
    assert _fetch(session, gqa, tmp_path / "gqa", images.wanted) == images.wanted
    assert _read(tmp_path / "gqa") == images.bytes
    assert site.sent < 1.5 * WANTED * IMAGE
    assert not (tmp_path / "gqa" / "images.zip.part.d").exists()


def test_images_that_are_there_are_not_asked_for_again(
    site: Site, session: requests.Session, gqa: RemoteFile, images: SimpleNamespace, tmp_path: Path
) -> None:
    _fetch(session, gqa, tmp_path, images.wanted[:5])
    asked = len(site.asked)
    assert _fetch(session, gqa, tmp_path, images.wanted[2:5]) == images.wanted[2:5]
    assert len(site.asked) == asked
    assert _fetch(session, gqa, tmp_path, images.wanted[3:8]) == images.wanted[3:8]
    assert len(site.asked) == asked + 3, "three more images, and the directory is known"
    assert _read(tmp_path) == {name: images.bytes[name] for name in images.wanted[:8]}


def test_a_damaged_image_is_noticed_and_fetched_again(
    site: Site, session: requests.Session, gqa: RemoteFile, images: SimpleNamespace, tmp_path: Path
) -> None:
    directory = read_directory(session, gqa, tmp_path / "directory.json")
    site.corrupt = {directory[f"images/{name}.jpg"].start for name in images.wanted[:3]}
    asked = len(site.asked)
    assert _fetch(session, gqa, tmp_path / "gqa", images.wanted) == images.wanted
    assert _read(tmp_path / "gqa") == images.bytes
    starts = [part[0] for _, part in site.asked[asked:] if part]
    assert sum(starts.count(directory[f"images/{name}.jpg"].start) for name in images.wanted) == WANTED + 3


def test_a_image_that_is_always_damaged_ends_the_job_and_keeps_the_others(
    site: Site, session: requests.Session, gqa: RemoteFile, images: SimpleNamespace, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    read = remote_zip.read_directory

    def lie(*arguments: object) -> dict[str, remote_zip.Member]:
        members = read(*arguments)  # type: ignore[arg-type]
        name = f"images/{images.wanted[-1]}.jpg"
        return members | {name: members[name]._replace(crc=0)}

    monkeypatch.setattr("crossflow.fetch.gqa_images.read_directory", lie)
    with pytest.raises(CrossflowError, match=rf"{images.wanted[-1]}.jpg could not be fetched in 3 tries .*CRC"):
        _fetch(session, gqa, tmp_path, images.wanted)
    monkeypatch.undo()
    finished = sorted(path.stem for path in (tmp_path / "images.zip.part.d").glob("*.jpg"))
    assert finished
    assert images.wanted[-1] not in finished
    asked = len(site.asked)
    _fetch(session, gqa, tmp_path, images.wanted)
    assert len(site.asked) - asked == WANTED - len(finished)
    assert _read(tmp_path) == images.bytes


def test_a_killed_job_is_taken_up_where_it_was(
    site: Site, gqa: RemoteFile, images: SimpleNamespace, tmp_path: Path
) -> None:
    questions = [
        ChosenQuestion(name, name, "ChooseAttr", "chooseAttr", "Is it?", "yes", None, None, ())
        for name in images.wanted
    ]
    write_chosen(tmp_path / "questions.csv", questions)
    with (tmp_path / "sources.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS, [gqa.name, gqa.url, gqa.bytes, gqa.sha256, ""]])
    command = [
        sys.executable, "-m", "crossflow", "fetch-images", "--sources", "sources.csv", "--source", "gqa-images",
        "--questions", "questions.csv", "--root", "gqa", "--output", "images.csv",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(Path(download.__file__).parents[2])}
    site.pause = 0.4
    parts = tmp_path / "gqa" / "images.zip.part.d"
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as job:
        end = time.monotonic() + 60
        while len(list(parts.glob("*.jpg")) if parts.is_dir() else []) < 5 and time.monotonic() < end:
            time.sleep(0.02)
        job.send_signal(signal.SIGKILL)
    finished = {path.stem for path in parts.glob("*.jpg")}
    assert 5 <= len(finished) < WANTED
    time.sleep(1)  # answers that were under way
    site.pause, asked = 0.0, len(site.asked)
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert len(site.asked) - asked == WANTED - len(finished), "neither the directory nor a finished image"
    assert _read(tmp_path / "gqa") == images.bytes
    listed = list(csv.DictReader((tmp_path / "images.csv").open()))
    assert [(row["image_id"], int(row["bytes"]), int(row["crc32"], 16)) for row in listed] == [
        (name, IMAGE, zlib.crc32(images.bytes[name])) for name in images.wanted
    ]


def test_an_absent_image_is_left_out_of_the_list_and_the_others_are_fetched(
    session: requests.Session, gqa: RemoteFile, images: SimpleNamespace, tmp_path: Path
) -> None:
    wanted = [images.wanted[0], "n999", "../../etc/passwd"]
    assert _fetch(session, gqa, tmp_path, wanted) == [images.wanted[0]]


def test_what_was_fetched_is_a_data_set_that_opens(session: requests.Session, site: Site, tmp_path: Path) -> None:
    from PIL import Image

    with zipfile.ZipFile(site.root / "images.zip", "w") as archive, archive.open("images/7.jpg", "w") as file:
        Image.new("RGB", (30, 20), "red").save(file, "jpeg")
    _fetch(session, _remote(site, "images.zip"), tmp_path, ["7"])
    with Images(tmp_path) as images:
        assert images.open("7").size == (30, 20)


@pytest.mark.parametrize("full", [True, False])
def test_the_whole_zip_is_fetched_if_asked_for_or_if_the_server_has_no_ranges(
    site: Site, session: requests.Session, tmp_path: Path, full: bool
) -> None:
    with zipfile.ZipFile(site.root / "images.zip", "w") as archive:
        for number in range(9):
            archive.writestr(f"images/{number}.jpg", _jpeg_like(number, 1000))
    site.ranges = full
    remote = _remote(site, "images.zip")
    there = fetch_images(session, remote, tmp_path, ["3"], full=full)
    assert [image["image_id"] for image in there] == ["3"]
    assert len(_read(tmp_path)) == 9
    asked = len(site.asked)
    fetch_images(session, remote, tmp_path, ["3", "4"], full=full)
    assert len(site.asked) == asked


def test_a_broken_local_zip_is_named(session: requests.Session, gqa: RemoteFile, tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK nothing")
    with pytest.raises(CrossflowError, match=r"images\.zip is not a readable zip .*delete it"):
        _fetch(session, gqa, tmp_path, ["1"])


# One large member.


@pytest.fixture
def questions(site: Site) -> bytes:
    content = json.dumps({str(number): _jpeg_like(number, 200).hex() for number in range(8000)}).encode()
    with zipfile.ZipFile(site.root / "questions.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_all_questions/0.json", content[::-1])
        archive.writestr("val_balanced_questions.json", content)
        archive.writestr("readme.txt", "")
    return content


def _fetch_questions(session: requests.Session, site: Site, path: Path) -> None:
    remote = _remote(site, "questions.zip", recorded=False)
    member = read_directory(session, remote, path.with_name("directory.json"))["val_balanced_questions.json"]
    fetch_member(session, remote, "val_balanced_questions.json", member, path)


def test_a_member_that_breaks_off_is_taken_up(
    site: Site, session: requests.Session, questions: bytes, tmp_path: Path
) -> None:
    site.break_off = {1, 2, 3}  # answer 0 is the directory
    _fetch_questions(session, site, tmp_path / "questions.json")
    assert (tmp_path / "questions.json").read_bytes() == questions
    packed = (site.root / "questions.zip").stat().st_size / 2
    assert site.sent < 1.2 * packed, "hardly anything is sent twice"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["questions.json", "site"]


def test_half_a_member_of_an_earlier_job_is_taken_up_and_a_wrong_half_is_thrown_away(
    site: Site, session: requests.Session, questions: bytes, tmp_path: Path
) -> None:
    _fetch_questions(session, site, tmp_path / "questions.json")
    member = remote_zip._ask_directory(session, _remote(site, "questions.zip"))[1]["val_balanced_questions.json"]
    packed = (site.root / "questions.zip").read_bytes()[member.start : member.stop]
    for half, most in ((packed[: len(packed) // 2], 0.6), (b"x" * (len(packed) // 2), 1.6)):
        (tmp_path / "questions.json.part").write_bytes(half)
        before = site.sent
        _fetch_questions(session, site, tmp_path / "questions.json")
        assert (tmp_path / "questions.json").read_bytes() == questions
        assert site.sent - before < most * len(packed)


def test_a_damaged_member_is_fetched_again(
    site: Site, session: requests.Session, questions: bytes, tmp_path: Path
) -> None:
    directory = remote_zip._ask_directory(session, _remote(site, "questions.zip"))[1]
    site.corrupt = {directory["val_balanced_questions.json"].start}
    _fetch_questions(session, site, tmp_path / "questions.json")
    assert (tmp_path / "questions.json").read_bytes() == questions


def test_a_member_that_claims_to_be_small_is_not_unpacked_without_end(
    site: Site, session: requests.Session, tmp_path: Path
) -> None:
    with zipfile.ZipFile(site.root / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", b"0" * 50_000_000)
    remote = _remote(site, "bomb.zip")
    member = read_directory(session, remote, tmp_path / "directory.json")["bomb"]
    with pytest.raises(CrossflowError, match="Bad CRC-32"):
        fetch_member(session, remote, "bomb", member._replace(size=10), tmp_path / "bomb")
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize("cut", [40, 1_000])
def test_a_truncated_zip_is_one_sentence(
    site: Site, session: requests.Session, questions: bytes, tmp_path: Path, cut: int
) -> None:
    whole = _remote(site, "questions.zip")
    (site.root / "questions.zip").write_bytes((site.root / "questions.zip").read_bytes()[:-cut])
    with pytest.raises(CrossflowError, match=r"questions\.zip is not a readable zip, or is truncated"):
        _fetch_questions(session, site, tmp_path / "questions.json")
    with pytest.raises(CrossflowError, match=rf"has {whole.bytes - cut} bytes, but .* says {whole.bytes}"):
        fetch_file(session, whole, tmp_path / "questions.zip")
    assert not (tmp_path / "questions.zip").exists()


# Whole files.


@pytest.fixture
def file(site: Site) -> RemoteFile:
    (site.root / "file.bin").write_bytes(_jpeg_like(0, 3_000_000))
    return _remote(site, "file.bin")


def test_a_whole_file_is_taken_up_where_it_broke_off(
    site: Site, session: requests.Session, file: RemoteFile, tmp_path: Path
) -> None:
    site.break_off = {0, 1, 2, 3}
    fetch_file(session, file, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == (site.root / "file.bin").read_bytes()
    assert site.sent < file.bytes + 4 * download._PIECE


def test_without_ranges_a_file_begins_anew(
    site: Site, session: requests.Session, file: RemoteFile, tmp_path: Path
) -> None:
    site.ranges, site.break_off = False, {0}
    fetch_file(session, file, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == (site.root / "file.bin").read_bytes()


def test_half_a_file_is_kept_when_the_server_gives_up(
    site: Site, session: requests.Session, file: RemoteFile, tmp_path: Path
) -> None:
    site.break_off = set(range(1_000))
    (tmp_path / "file.bin.part").write_bytes((site.root / "file.bin").read_bytes()[: file.bytes - 1])
    with pytest.raises(CrossflowError, match="keeps breaking"):
        fetch_file(session, file, tmp_path / "file.bin")
    site.break_off, before = set(), site.sent
    fetch_file(session, file, tmp_path / "file.bin")
    assert site.sent - before == 1


def test_a_wrong_checksum_is_one_sentence_and_leaves_nothing(
    session: requests.Session, file: RemoteFile, tmp_path: Path
) -> None:
    wrong = RemoteFile(file.name, file.url, file.bytes, "0" * 64)
    with pytest.raises(CrossflowError, match=rf"has SHA-256 {file.sha256}, but .* says 0000"):
        fetch_file(session, wrong, tmp_path / "file.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]


def test_an_older_half_is_not_trusted_without_a_checksum(
    site: Site, session: requests.Session, file: RemoteFile, tmp_path: Path
) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"of another version")
    fetch_file(session, RemoteFile(file.name, file.url), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == (site.root / "file.bin").read_bytes()


def test_a_busy_server_is_asked_again_and_an_absent_file_is_one_sentence(
    site: Site, session: requests.Session, file: RemoteFile, tmp_path: Path
) -> None:
    site.refuse = 3
    fetch_file(new_session(), file, tmp_path / "file.bin")
    absent = RemoteFile("absent", f"{site.url}/absent.bin")
    with pytest.raises(CrossflowError, match=r"absent\.bin could not be fetched: the server answers 404"):
        fetch_file(session, absent, tmp_path / "absent.bin")
    with pytest.raises(CrossflowError, match="could not be reached"):
        read_directory(session, absent, tmp_path / "directory.json")


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    nobody = RemoteFile("nobody", "http://127.0.0.1:9/file.bin")
    with pytest.raises(CrossflowError, match="could not be reached .*check the network"):
        fetch_file(new_session(), nobody, tmp_path / "file.bin")


def test_too_small_a_disk_is_said_before_anything_is_fetched(
    site: Site, session: requests.Session, gqa: RemoteFile, images: SimpleNamespace, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1_000_000))
    with pytest.raises(CrossflowError, match=r"fetching 20 images needs 0\.0 GB|has 0\.0 GB free; nothing was fetched"):
        _fetch(session, gqa, tmp_path, images.wanted)
    assert len(site.asked) <= 2, "the directory only"
    with pytest.raises(CrossflowError, match="nothing was fetched"):
        require_space(tmp_path, 2_000_000, "it")


# The table of sources.


def test_nothing_is_fetched_without_tls_except_from_this_machine(session: requests.Session, tmp_path: Path) -> None:
    require_safe("https://example.org/a")
    require_safe("http://127.0.0.1:80/a")
    for url in ("http://example.org/a", "ftp://example.org/a", "file:///etc/passwd", "http://127.0.0.1.example.org/a"):
        with pytest.raises(CrossflowError, match="not an https address"):
            fetch_file(session, RemoteFile("a", url), tmp_path / "a")


def test_the_table_of_sources_names_licence_and_size_of_what_is_fetched(repo: Path) -> None:
    sources = read_sources(repo / "resources" / "sources.csv")
    assert sources["gqa-images"].bytes == 21_817_965_542
    assert {name for name in sources if name.startswith("published-")} == {
        f"published-{name}"
        for name in ("ChooseAttr", "ChooseCat", "ChooseRel", "CompareAttr", "LogicalObj", "QueryAttr")
    }
    rows = list(csv.DictReader((repo / "resources" / "sources.csv").open()))
    assert all(row["licence"] for row in rows)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,https://a,12x,,", "bytes or sha256 of a"),
        ("a,https://a,,abc,", "bytes or sha256 of a"),
        ("a,http://a.org,,,", "not an https"),
    ],
)
def test_a_wrong_line_of_the_table_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "sources.csv").write_text(f"{','.join(COLUMNS)}\n{line}\n")
    with pytest.raises(CrossflowError, match=message):
        read_sources(tmp_path / "sources.csv")


def test_the_verb_fetches_a_member_with_and_without_ranges(
    site: Site, questions: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sources.csv").write_text(f"{','.join(COLUMNS)}\nquestions,{site.url}/questions.zip,,,\n")
    command = ["fetch", "--sources", str(tmp_path / "sources.csv"), "--source", "questions", "--member"]
    for ranges in (True, False):
        site.ranges = ranges
        output = tmp_path / f"{ranges}.json"
        assert main([*command, "val_balanced_questions.json", "--output", str(output)]) == 0
        assert output.read_bytes() == questions
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))
    assert left == ["False.json", "False.json.sha256", "True.json", "True.json.sha256", "site", "sources.csv"]
    assert main([*command, "absent.json", "--output", str(tmp_path / "absent.json")]) == 1
    assert "does not contain absent.json" in capsys.readouterr().err


@pytest.mark.parametrize("member", [None, "val_balanced_questions.json"])
def test_what_is_fetched_again_must_be_what_came_the_first_time(
    site: Site, questions: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], member: str | None
) -> None:
    (tmp_path / "sources.csv").write_text(f"{','.join(COLUMNS)}\nquestions,{site.url}/questions.zip,,,\n")
    output = tmp_path / "fetched" / "questions"
    command = ["fetch", "--sources", str(tmp_path / "sources.csv"), "--source", "questions", "--output", str(output)]
    command += ["--member", member] if member else []
    assert main(command) == 0
    first = output.read_bytes()
    record = output.with_name("questions.sha256")
    subprocess.run(["sha256sum", "--check", "--strict", record.name], cwd=output.parent, check=True)
    output.unlink()
    assert main(command) == 0, "the same again"
    with zipfile.ZipFile(site.root / "questions.zip", "w") as archive:
        archive.writestr("val_balanced_questions.json", "{}")
    output.with_name("questions.directory.json").unlink(missing_ok=True)
    before = record.read_text()
    assert main(command) == 1
    assert f"which differs from the first download's in {record}" in capsys.readouterr().err
    assert (output.read_bytes(), record.read_text()) == (first, before)
    assert not list(output.parent.glob("*.fetched*"))
    record.unlink()
    assert main(command) == 0
    assert output.read_bytes() != first
    # Another address is another file.
    sources = (tmp_path / "sources.csv").read_text()
    (site.root / "other.zip").write_bytes((site.root / "questions.zip").read_bytes())
    (tmp_path / "sources.csv").write_text(sources.replace("questions.zip", "other.zip"))
    assert main(command) == 0
    assert "other.zip" in record.read_text()


def test_no_ranges_is_told_from_other_failures(
    site: Site, session: requests.Session, questions: bytes, tmp_path: Path
) -> None:
    site.ranges = False
    with pytest.raises(NoRangesError):
        read_directory(session, _remote(site, "questions.zip"), tmp_path / "directory.json")

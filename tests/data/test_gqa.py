"""Reading GQA's official layout, whole or broken."""

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.data.chosen import read_chosen, write_chosen
from crossflow.data.gqa import read_questions, read_scenes
from crossflow.data.images import Images

RECORD: dict[str, Any] = {
    "imageId": "0007",
    "question": "On which side is the “café” sign?",
    "answer": "left",
    "types": {"detailed": "positionQuery"},
    "semantic": [{"operation": "select", "dependencies": [], "argument": "sign (12)"}],
}
GRAPH = {"width": 9, "height": 9, "objects": {"12": {"name": "sign", "x": -3, "y": 1, "w": 20, "h": 2}}}


def _write(root: Path, questions: str, scenes: str = "{}") -> None:
    for folder, name, text in (
        ("questions", "val_balanced_questions", questions),
        ("sceneGraphs", "val_sceneGraphs", scenes),
    ):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / f"{name}.json").write_text(text, encoding="utf-8")


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (6, 4), 128).save(buffer, "JPEG")
    return buffer.getvalue()


def test_questions_keep_their_leading_zeros_and_their_unicode(tmp_path: Path) -> None:
    _write(tmp_path, json.dumps({"00123": RECORD}, ensure_ascii=False))
    (question,) = read_questions(tmp_path, "val_balanced")
    assert (question.question_id, question.image_id) == ("00123", "0007")
    assert question.question == RECORD["question"]


def test_both_files_may_lie_at_the_top_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "val_balanced_questions.json").write_text(json.dumps({"1": RECORD}))
    (tmp_path / "val_sceneGraphs.json").write_text(json.dumps({"0007": GRAPH}))
    assert [question.question_id for question in read_questions(tmp_path, "val_balanced")] == ["1"]
    assert read_scenes(tmp_path, "val_balanced", {"0007"})["0007"].objects["12"].box == Box(-3, 1, 20, 2)


def test_only_the_asked_scene_graphs_are_kept(tmp_path: Path) -> None:
    _write(tmp_path, "{}", json.dumps({"1": GRAPH, "2": GRAPH}))
    assert read_scenes(tmp_path, "val_balanced", {"2", "3"}).keys() == {"2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"1": RECORD})[:-9], "is invalid or truncated JSON"),
        ("", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ('{"1": {}, "1": {}}', "question 1 does not have GQA's form"),
        (json.dumps({"1": RECORD})[:-1] + ', "1": {}}', "contains question 1 twice"),
        (json.dumps({"1": {**RECORD, "semantic": None}}), "question 1 does not have GQA's form"),
        (json.dumps({"1": {**RECORD, "answer": None}}), "question 1 .*answer is None, expected text"),
        (json.dumps({"1": {**RECORD, "types": {}}}), "question 1 .*detailed"),
        (json.dumps({"1": RECORD}) + "]", "is invalid or truncated JSON"),
    ],
)
def test_a_broken_questions_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    _write(tmp_path, text)
    with pytest.raises(CrossflowError, match=message) as raised:
        list(read_questions(tmp_path, "val_balanced"))
    assert "val_balanced_questions.json" in str(raised.value)


def test_the_bar_counts_the_bytes_of_the_file_to_its_end_and_is_silent_unless_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(tmp_path, json.dumps({str(number): RECORD for number in range(1000)}))
    assert len(list(read_questions(tmp_path, "val_balanced"))) == 1000
    assert capsys.readouterr().err == ""
    assert len(list(read_questions(tmp_path, "val_balanced", progress=True))) == 1000
    shown = capsys.readouterr().err
    assert "val_balanced_questions.json: 100%" in shown
    assert "B/s" in shown


def test_a_broken_scene_graph_is_named(tmp_path: Path) -> None:
    _write(tmp_path, "{}", json.dumps({"7": {"objects": {"12": {"name": "sign"}}}}))
    with pytest.raises(CrossflowError, match="val_sceneGraphs.json: the scene graph of 7"):
        read_scenes(tmp_path, "val_balanced", {"7"})


def test_an_absent_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrossflowError, match="contains neither questions/test_questions.json nor test_questions.json"):
        list(read_questions(tmp_path, "test"))


@pytest.fixture(params=["folder", "zip", "flat zip"])
def images_root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A data set with one good image and one that does not decode."""
    files = {"1.jpg": _jpeg(), "2.jpg": _jpeg()[:60]}
    if request.param == "folder":
        (tmp_path / "images").mkdir()
        for name, content in files.items():
            (tmp_path / "images" / name).write_bytes(content)
    else:
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name if request.param == "flat zip" else f"images/{name}", content)
    return tmp_path


def test_images_are_decoded_to_rgb(images_root: Path) -> None:
    with Images(images_root) as images:
        image = images.open("1")
    assert (image.mode, image.size) == ("RGB", (6, 4))


@pytest.mark.parametrize(("image_id", "message"), [("2", "2.jpg does not decode"), ("3", "3.jpg.* is missing")])
def test_a_image_that_can_not_be_used_breaks_one_question(images_root: Path, image_id: str, message: str) -> None:
    with Images(images_root) as images, pytest.raises(BrokenQuestion, match=message):
        images.open(image_id)


def test_a_image_id_can_not_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.jpg").write_bytes(_jpeg())
    with Images(tmp_path) as images, pytest.raises(BrokenQuestion, match="not a valid file name"):
        images.open("../secret")


def test_a_image_may_be_a_link_to_a_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(_jpeg())
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").symlink_to(tmp_path / "cache")
    with Images(tmp_path) as images:
        assert images.open("1").size == (6, 4)


def test_a_image_that_can_not_be_read_breaks_one_question(tmp_path: Path) -> None:
    (tmp_path / "images" / "1.jpg").mkdir(parents=True)
    with Images(tmp_path) as images, pytest.raises(BrokenQuestion, match="1.jpg cannot be read"):
        images.open("1")


def test_a_small_file_that_unpacks_to_a_giant_image_breaks_one_question(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(bomb)
    with Images(tmp_path) as images, pytest.raises(BrokenQuestion, match="1.jpg does not decode .*bomb"):
        images.open("1")


def test_postscript_under_a_images_name_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "images" / "1.jpg", "EPS")
    with Images(tmp_path) as images, pytest.raises(BrokenQuestion, match="does not decode .supported are JPEG, PNG"):
        images.open("1")


def test_only_the_two_places_of_a_zip_are_looked_at(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("thumbnails/1.jpg", _jpeg())
    with Images(tmp_path) as images, pytest.raises(BrokenQuestion, match="1.jpg is missing from .*images.zip"):
        images.open("1")


def test_a_zip_with_any_one_byte_wrong_never_stops_with_another_exception(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/1.jpg", _jpeg())
    whole = path.read_bytes()
    told = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            with Images(tmp_path) as images:
                images.open("1")
        except (BrokenQuestion, CrossflowError):
            told += 1
    # A few bytes (dates, attributes) do not matter; every byte of the image does.
    assert told > len(_jpeg()) // 2


def test_a_corrupt_member_of_a_zip_breaks_one_question(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/1.jpg", _jpeg())
    content = bytearray(path.read_bytes())
    content[content.index(b"\xff\xd8") + 30] ^= 0xFF
    path.write_bytes(bytes(content))
    with Images(tmp_path) as images, pytest.raises(BrokenQuestion, match="1.jpg cannot be read .*CRC"):
        images.open("1")


def test_a_truncated_zip_and_an_absent_one_are_errors_of_the_study(tmp_path: Path) -> None:
    with pytest.raises(CrossflowError, match="contains neither images/ nor images.zip"):
        Images(tmp_path)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("images/1.jpg", _jpeg())
    whole = (tmp_path / "images.zip").read_bytes()
    (tmp_path / "images.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CrossflowError, match="images.zip is not a readable zip, or is truncated"):
        Images(tmp_path)


CHOSEN = ChosenQuestion(
    "007", "01", "ChooseCat", "objThisChoose", 'A "cat", or a dog?', "cat", "cat", "dog",
    (ChosenObject("object", "9", "chat noir, été", Box(-1, 0, 700, 3)),),
)  # fmt: skip


def test_chosen_questions_come_back_as_they_were_written(tmp_path: Path) -> None:
    without = ChosenQuestion("2", "1", "LogicalObj", "existThatOr", "Any?", "yes", None, None, ())
    write_chosen(tmp_path / "q.csv", [CHOSEN, without])
    assert read_chosen(tmp_path / "q.csv") == [CHOSEN, without]


def test_a_question_chosen_twice_is_refused(tmp_path: Path) -> None:
    write_chosen(tmp_path / "q.csv", [CHOSEN, CHOSEN])
    with pytest.raises(CrossflowError, match="q.csv contains question 007 twice"):
        read_chosen(tmp_path / "q.csv")

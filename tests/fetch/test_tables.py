"""One's own questions in parquet files, on this disk or on a stand-in for the hub."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from PIL import Image

from crossflow.cli.main import main
from crossflow.core.records import Box
from crossflow.data.images import Images
from crossflow.data.question_table import Row, read_rows
from hub_server import REVISION, hub_of

NAME = "somebody/Counterfactuals"
COLOURS = ("yellow", "blue", "green")
# The layout of mgolov/Visual-Counterfact, whose answers may be texts that hold a list.
COLUMNS = [
    "question=What color is this {object}?",
    "answer=correct_answer",
    "image=original_image",
    "pair_image=counterfact_image",
    "pair_answer=incorrect_answer",
]


def _png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, "PNG")
    return file.getvalue()


def _image(colour: str) -> dict[str, Any]:
    return {"bytes": _png(colour), "path": f"{colour}.png"}


def _counterfactuals() -> pa.Table:
    return pa.table(
        {
            "correct_answer": ["['yellow', 'gold']", "blue"],
            "incorrect_answer": ["green", "green"],
            "object": ["banana", "[sky]"],
            "original_image": [_image("yellow"), _image("blue")],
            "counterfact_image": [_image("green"), _image("green")],
        }
    )


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _unpack(*options: str, images: bool = True) -> int:
    folder = ["--images", "table/images"] if images else []
    return main(["unpack-table", *options, *folder, "--output", "table/questions.csv"])


def _rows(images: str = "table/images") -> list[Row]:
    return read_rows(Path("table/questions.csv"), Path(images))


def test_counterfactual_images_become_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(_counterfactuals(), "color.parquet")
    assert _unpack("--files", "color.parquet", "--columns", *COLUMNS) == 0, capsys.readouterr().err
    first, second = _rows()
    assert [row.question.question_id for row in (first, second)] == ["1", "2"]
    assert (first.question.question, first.question.answer) == ("What color is this banana?", "yellow")
    assert second.question.question == "What color is this [sky]?"
    assert first.pair is not None
    assert second.pair is not None
    assert (first.pair.answer, first.pair.image_id) == ("green", second.pair.image_id)
    with Images(Path("table/images"), by_file=True) as images:
        assert images.open(first.question.image_id).getpixel((0, 0)) == (255, 255, 0)
        assert images.open(first.pair.image_id).getpixel((0, 0)) == (0, 128, 0)
    assert first.question.image_id == hashlib.sha256(_png("yellow")).hexdigest() + ".png"
    assert len(list(Path("table/images").iterdir())) == len(COLOURS)


def test_a_data_set_on_the_hub_is_fetched_once_in_all_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        path = tmp_path / f"repository/data/color-{number:05d}-of-00002.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_counterfactuals().slice(number), path)
    with hub_of(tmp_path / "repository", NAME) as hub:
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in (
            ("ENDPOINT", hub.url), ("HUGGINGFACE_CO_URL_TEMPLATE", template), ("HF_HUB_CACHE", str(tmp_path / "hf")),
        ):  # fmt: skip
            monkeypatch.setattr(constants, name, value)
        command = ["--repo", NAME, "--revision", REVISION, "--columns", *COLUMNS, "--pattern"]
        assert _unpack(*command, "data/color-*.parquet") == 0
        assert [row.question.question_id for row in _rows()] == ["1", "2", "3"]
        assert len(hub.asked) == 2
        assert _unpack(*command, "data/color-*.parquet") == 0
        assert len(hub.asked) == 2
        assert _unpack(*command, "data/size-*.parquet") == 1
        assert f"{NAME} has no file data/size-*.parquet at revision {REVISION}." in capsys.readouterr().err
        assert len(_rows()) == 3


def test_columns_of_the_tables_own_names_need_no_mapping() -> None:
    objects = [{"name": "sun", "x": 1, "y": 2, "w": 3, "h": 4}]
    table = pa.table(
        {
            "question_id": [7, 8], "image": [_png("yellow"), _png("blue")], "question": ["Q?", "R?"],
            "answer": [["a", "b"], ["c"]], "category": ["one", None], "objects": [objects, None], "ignored": [1.5, 2.5],
        }
    )  # fmt: skip
    pq.write_table(table, "mine.parquet")
    assert _unpack("--files", "mine.parquet") == 0
    first, second = (row.question for row in _rows())
    assert (first.question_id, first.answer, first.category) == ("7", "a", "one")
    assert [(found.name, found.box) for found in first.objects] == [("sun", Box(1, 2, 3, 4))]
    assert (second.category, second.objects) == ("questions", ())


def test_images_may_be_files_of_a_folder() -> None:
    Path("pictures").mkdir()
    Path("pictures/12.png").write_bytes(_png("blue"))
    pq.write_table(pa.table({"number": [12], "question": ["Q?"], "answer": ["a"]}), "mine.parquet")
    assert _unpack("--files", "mine.parquet", "--columns", "image={number}.png", images=False) == 0
    (row,) = _rows("pictures")
    assert row.question.image_id == "12.png"


GOOD = {"question_id": ["1", "2"], "image": [_png("yellow"), _png("blue")], "question": ["Q?"] * 2, "answer": ["a"] * 2}


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"answer": None}, [], "mine.parquet has no column 'answer'; its columns are question_id, image, question."),
        ({}, ["--columns", "answer=label"], "mine.parquet has no column 'label'"),
        ({}, ["--columns", "question=Is it {colour}?"], "mine.parquet has no column 'colour'"),
        ({"image": ["a.png", "b.png"]}, [], "the column 'image' has the type string; expected images, as bytes"),
        ({"question": [b"a", b"b"]}, [], "the column 'question' has the type binary; expected text, numbers or lists"),
        ({"question_id": ["1", "1"]}, [], "mine.parquet contains question 1 twice."),
        ({"image": [_png("blue"), None]}, [], "mine.parquet, row 2: the column 'image' holds no image."),
        ({}, ["--columns", "image={question_id}"], "image is '{question_id}'; expected the name of one column."),
    ],
)
def test_a_file_that_is_no_such_table_is_one_sentence_and_leaves_the_old_table(
    capsys: pytest.CaptureFixture[str], change: dict[str, Any], options: list[str], said: str
) -> None:
    pq.write_table(pa.table(GOOD), "mine.parquet")
    assert _unpack("--files", "mine.parquet") == 0
    columns = {name: values for name, values in (GOOD | change).items() if values is not None}
    pq.write_table(pa.table(columns), "mine.parquet")
    capsys.readouterr()
    assert _unpack("--files", "mine.parquet", *options) == 1
    assert said in capsys.readouterr().err
    assert len(_rows()) == 2


@pytest.mark.parametrize(
    "spoil",
    [lambda content: content[:-20], lambda content: b"no parquet", lambda content: content[:4] + content[4:][::-1]],
)
def test_a_truncated_file_is_one_sentence(capsys: pytest.CaptureFixture[str], spoil: Callable[[bytes], bytes]) -> None:
    pq.write_table(pa.table(GOOD), "mine.parquet")
    Path("mine.parquet").write_bytes(spoil(Path("mine.parquet").read_bytes()))
    assert _unpack("--files", "mine.parquet") == 1
    assert "mine.parquet is not a parquet file, or is truncated or damaged (" in capsys.readouterr().err
    assert _unpack("--files", "nowhere.parquet") == 1
    assert "nowhere.parquet does not exist." in capsys.readouterr().err


def test_bytes_that_are_no_image_are_left_to_the_jobs_which_skip_their_question() -> None:
    pq.write_table(pa.table(GOOD | {"image": [_png("blue"), b"none"]}), "mine.parquet")
    assert _unpack("--files", "mine.parquet") == 0
    _, broken = _rows()
    with (
        Images(Path("table/images"), by_file=True) as images,
        pytest.raises(Exception, match="does not decode"),
    ):
        images.open(broken.question.image_id)

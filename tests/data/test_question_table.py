"""Tables of one's own questions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from crossflow.cli.main import main
from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.records import Box
from crossflow.data.chosen import read_chosen
from crossflow.data.images import Images
from crossflow.data.question_table import read_question_table, read_rows

HEADER = "question_id,image,question,answer,category,true_option,false_option,objects"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name in ("cat.jpg", "more/dog.png"):
        (folder / name).write_bytes(b"")
    return folder


def _read(tmp_path: Path, images: Path, text: str, encoding: str = "utf-8") -> list:
    (tmp_path / "questions.csv").write_text(text, encoding=encoding)
    return read_question_table(tmp_path / "questions.csv", images)


def _quoted(objects: object) -> str:
    return '"' + json.dumps(objects).replace('"', '""') + '"'


def test_four_columns_are_enough(tmp_path: Path, images: Path) -> None:
    (question,) = _read(tmp_path, images, "answer,question,image,question_id\nyes,Is it a cat?,cat.jpg,007\n")
    assert (question.question_id, question.image_id, question.category) == ("007", "cat.jpg", "questions")
    assert (question.true_option, question.false_option, question.objects) == (None, None, ())


def test_every_column_is_read(tmp_path: Path, images: Path) -> None:
    one = _quoted([{"name": "cat", "x": 1, "y": 2, "w": 3, "h": 4}])
    two = _quoted([{"name": name, "x": 0, "y": 0, "w": 5, "h": 5} for name in ("dog", "cat")])
    questions = _read(
        tmp_path,
        images,
        f'{HEADER}\n1,cat.jpg,"Is it red, or blue?",Red,colour,red,blue,{one}\n2,more/dog.png,Wo ist der Müll?,da,where,,,{two}\n',
        "utf-8-sig",
    )
    first, second = questions
    assert (first.question, first.true_option, first.false_option) == ("Is it red, or blue?", "red", "blue")
    assert [(entry.role, entry.name, entry.box) for entry in first.objects] == [("object", "cat", Box(1, 2, 3, 4))]
    assert [entry.role for entry in second.objects] == ["object1", "object2"]
    assert second.image_id == "more/dog.png"


BOX = {"name": "cat", "x": 0, "y": 0, "w": 1, "h": 1}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1,cat.jpg,,yes,c,,,", "question is empty"),
        ("1,,Q?,yes,c,,,", "image is empty"),
        ("1,bird.jpg,Q?,yes,c,,,", "the image .*bird.jpg does not exist"),
        ("1,../secret.jpg,Q?,yes,c,,,", "is outside the folder of images"),
        ("1,/etc/passwd,Q?,yes,c,,,", "is outside the folder of images"),
        ("1,cat.jpg,Q?,yes,a b,,,", "the category 'a b' contains characters other than letters"),
        ("1,cat.jpg,Q?,yes,c,red,,", "only one of the two options is given"),
        ("1,cat.jpg,Q?,yes,c,,", "its number of cells differs"),
        ("1,cat.jpg,Q?,yes,c,,,,more", "its number of cells differs"),
        ("1,cat.jpg,Q?,yes,c,,,[", "objects is not a JSON list"),
        ("1,cat.jpg,Q?,yes,c,,,3", "objects is not a JSON list"),
        (f"1,cat.jpg,Q?,yes,c,,,{_quoted([{'name': 'cat'}])}", "objects is not a JSON list"),
        (f"1,cat.jpg,Q?,yes,c,,,{_quoted([BOX | {'x': 1.5}])}", "not a list of whole numbers"),
        (f"1,cat.jpg,Q?,yes,c,,,{_quoted([BOX | {'name': 3}])}", "name is 3, expected text"),
        (f"1,cat.jpg,Q?,yes,c,,,{_quoted([BOX | {'w': 0}])}", "has no area"),
        ("0,cat.jpg,Q?,yes,c,,,", "question_id 0 appears twice"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_reason(tmp_path: Path, images: Path, row: str, reason: str) -> None:
    with pytest.raises(CrossflowError, match=f"questions.csv has unusable rows: line 3: .*{reason}"):
        _read(tmp_path, images, f"{HEADER}\n0,cat.jpg,Q?,yes,c,,,\n{row}\n")


PAIRS = f"{HEADER},pair_image,pair_answer,pair_objects"


def test_a_row_may_name_its_pair(tmp_path: Path, images: Path) -> None:
    (images / "dog.jpg").write_bytes(b"")
    one, two = _quoted([BOX]), _quoted([BOX | {"x": 7}])
    rows = f"1,cat.jpg,Red or blue?,red,c,red,blue,{one},dog.jpg,Blue,{two}\n2,cat.jpg,Q?,yes,c,,,,,,\n"
    (tmp_path / "questions.csv").write_text(f"{PAIRS}\n{rows}")
    first, second = read_rows(tmp_path / "questions.csv", images)
    assert first.pair is not None
    changed = {
        "image_id": "dog.jpg", "answer": "Blue", "true_option": "blue", "false_option": "red",
        "objects": (replace(first.question.objects[0], box=Box(7, 0, 1, 1)),),
    }  # fmt: skip
    assert first.pair == replace(first.question, **changed)
    assert second.pair is None


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("yes,,,,bird.jpg,no,", "the image .*bird.jpg does not exist"),
        ("yes,,,,../more/dog.png,no,", "is outside the folder of images"),
        ("yes,,,,cat.jpg,no,", "pair_image is the question's own image cat.jpg"),
        ("yes,,,,more/dog.png,Yes,", "pair_answer is the question's own answer 'yes'"),
        ("red,red,blue,,more/dog.png,green,", "pair_answer 'green' differs from the false option 'blue'"),
        ("yes,,,,more/dog.png,,", "only one of pair_image and pair_answer is given"),
        ("yes,,,,,no,", "only one of pair_image and pair_answer is given"),
        (f"yes,,,,,,{_quoted([BOX])}", "pair_objects is given without pair_image"),
        ("yes,,,,more/dog.png,no,3", "pair_objects is not a JSON list"),
        (f"yes,,,{_quoted([BOX])},more/dog.png,no,", "objects and pair_objects differ in number, 1 and 0"),
    ],
)
def test_a_pair_that_cannot_be_used_is_named_with_its_line_and_reason(
    tmp_path: Path, images: Path, cells: str, reason: str
) -> None:
    with pytest.raises(CrossflowError, match=f"questions.csv has unusable rows: line 2: .*{reason}"):
        _read(tmp_path, images, f"{PAIRS}\n1,cat.jpg,Q?,{cells.replace(',', ',c,', 1)}\n")


def test_many_bad_rows_are_counted(tmp_path: Path, images: Path) -> None:
    rows = "\n".join(f"{number},bird.jpg,Q?,yes,c,,," for number in range(30))
    with pytest.raises(CrossflowError, match=r"has unusable rows: line 2: .*; line 11: .*; and 20 more\.$"):
        _read(tmp_path, images, f"{HEADER}\n{rows}\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("question_id,image,question\n1,cat.jpg,Q?\n", "has no column answer"),
        ("", "has no column question_id; its columns are none"),
        (f"{HEADER},colour\n", "has an unknown column 'colour'"),
        (f'{HEADER}\n1,cat.jpg,"Q?', "cannot be read as a CSV file"),
    ],
)
def test_a_file_that_is_no_such_table_is_one_sentence(tmp_path: Path, images: Path, text: str, reason: str) -> None:
    with pytest.raises(CrossflowError, match=reason):
        _read(tmp_path, images, text)
    with pytest.raises(CrossflowError, match="cannot be read"):
        read_question_table(tmp_path / "absent.csv", images)


def test_another_encoding_is_one_sentence(tmp_path: Path, images: Path) -> None:
    with pytest.raises(CrossflowError, match="cannot be read as a CSV file in UTF-8"):
        _read(tmp_path, images, f"{HEADER}\n1,cat.jpg,Müll?,yes,c,,,\n", "latin-1")


def test_the_verb_takes_one_category_and_names_those_that_there_are(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "1,cat.jpg,Q?,yes,a,,,\n2,cat.jpg,R?,no,b,,,\n3,cat.jpg,S?,no,b,,,\n"
    (tmp_path / "questions.csv").write_text(f"{HEADER}\n{rows}")
    command = [
        "questions", "--table", str(tmp_path / "questions.csv"), "--images", str(images), "--number", "all",
        "--output", str(tmp_path / "b.csv"), "--rejections", str(tmp_path / "b.rejections.csv"), "--category",
    ]  # fmt: skip
    assert main([*command, "b"]) == 0
    assert {question.question_id for question in read_chosen(tmp_path / "b.csv")} == {"2", "3"}
    assert main([*command, "c"]) == 1
    assert "has no question of category 'c'; its categories are a, b" in capsys.readouterr().err


def test_images_are_opened_by_file_name_and_never_outside_their_folder(images: Path) -> None:
    Image.new("RGB", (3, 2)).save(images / "more" / "dog.png")
    (images.parent / "secret.png").write_bytes((images / "more" / "dog.png").read_bytes())
    with Images(images, by_file=True) as opened:
        assert opened.open("more/dog.png").size == (3, 2)
        for name in ("../secret.png", str(images.parent / "secret.png")):
            with pytest.raises(BrokenQuestion, match="is not a valid file name"):
                opened.open(name)
    with pytest.raises(CrossflowError, match="nowhere does not exist"):
        Images(images / "nowhere", by_file=True)


def test_the_example_of_the_repository_is_such_a_table(repo: Path) -> None:
    questions = read_question_table(repo / "resources/example/questions.csv", repo / "resources/example/pictures")
    assert {question.category for question in questions} == {"which-one", "side", "place"}
    assert all(question.objects for question in questions)

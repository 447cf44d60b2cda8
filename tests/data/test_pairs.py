"""Pairs that are found among other questions, or named by a table."""

import io
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from crossflow.cli.main import main
from crossflow.core.columns import REJECTIONS
from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.core.tables import read_csv
from crossflow.data.chosen import read_chosen
from crossflow.data.images import Images, ImageSource
from crossflow.data.pairs import NO_OTHER_ANSWER, OTHER_ROLES, find_pairs
from tiny import draw_world

SEED = 0


def _question(
    question_id: str, answer: str, image_id: str = "", size: tuple[int, int] | None = (64, 48), text: str = "Is it red?"
) -> ChosenQuestion:
    objects = (ChosenObject("object", "1", "cat", Box(0, 0, 9, 9)),)
    return ChosenQuestion(
        question_id, image_id or f"i{question_id}", "LogicalObj", "existThatOr", text, answer, None, None, objects, size
    )


def _found(chosen: ChosenQuestion, *candidates: ChosenQuestion, seed: int = SEED) -> ChosenQuestion | str:
    """The pair of one question, or the reason why it has none."""
    pairs, reasons = find_pairs([chosen], [chosen, *candidates], seed, {})
    assert len(pairs) + reasons.total() == 1
    return pairs[0] if pairs else next(iter(reasons))


BASE = _question("1", "yes")


def test_a_pair_is_another_question_of_the_same_text_and_another_answer_under_the_questions_own_id() -> None:
    other = replace(_question("2", "no"), detailed="existThatOrC")
    pair = _found(BASE, other)
    assert pair == replace(other, question_id="1", detailed="existThatOr")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (_question("2", "no", text="Is it Red?"), NO_OTHER_ANSWER),
        (_question("2", "Yes "), NO_OTHER_ANSWER),
        (_question("2", "no", image_id="i1"), NO_OTHER_ANSWER),
        (replace(_question("2", "no"), objects=()), OTHER_ROLES),
    ],
)
def test_no_other_question_is_a_pair_and_the_reason_is_counted(other: ChosenQuestion, reason: str) -> None:
    assert _found(BASE, other) == reason


def test_of_two_offered_options_the_other_answer_is_the_false_one() -> None:
    base = replace(_question("1", "red"), true_option="red", false_option="blue")
    other = replace(_question("2", "green"), true_option="green", false_option="red")
    assert _found(base, other) == NO_OTHER_ANSWER
    pair = _found(base, other, replace(_question("3", "blue"), true_option="blue", false_option="red"))
    assert isinstance(pair, ChosenQuestion)
    assert (pair.image_id, pair.true_option, pair.false_option) == ("i3", "blue", "red")


def test_an_image_of_the_same_size_comes_first_and_any_size_serves() -> None:
    smaller, same = _question("2", "no", size=(48, 64)), _question("3", "no")
    for seed in range(8):
        pair = _found(BASE, smaller, same, seed=seed)
        assert isinstance(pair, ChosenQuestion)
        assert pair.image_id == "i3"
    pair = _found(BASE, smaller)
    assert isinstance(pair, ChosenQuestion)
    assert pair.image_id == "i2"


def test_equals_are_drawn_by_the_seed_whatever_other_questions_there_are() -> None:
    equals = [_question(str(number), "no") for number in range(2, 12)]
    drawn = Counter()
    for seed in range(40):
        pair = _found(BASE, *equals, seed=seed)
        assert isinstance(pair, ChosenQuestion)
        # Another order, and fewer of those that are not drawn.
        rest = [each for each in equals[::-2] if each.image_id != pair.image_id]
        again = [each for each in equals if each.image_id == pair.image_id]
        assert _found(BASE, *rest, *again, _question("99", "yes"), seed=seed) == pair
        drawn[pair.image_id] += 1
    assert len(drawn) >= 7


def test_the_verb_finds_pairs_in_a_split_and_counts_those_without(tmp_path: Path) -> None:
    draw_world(tmp_path / "world", 30)
    source = ["--root", str(tmp_path / "world"), "--split", "val_balanced", "--category", "QueryAttr"]
    chosen, pairs, rejections = (tmp_path / name for name in ("chosen.csv", "pairs.csv", "rejections.csv"))
    made = ["--output", str(chosen), "--rejections", str(rejections)]
    assert main(["questions", *source, *made, "--number", "20"]) == 0
    made = ["--output", str(pairs), "--rejections", str(rejections)]
    assert main(["pairs", *source, *made, "--questions", str(chosen)]) == 0
    questions = {question.question_id: question for question in read_chosen(chosen)}
    found = read_chosen(pairs)
    assert len(found) > 10
    for pair in found:
        question = questions[pair.question_id]
        assert (pair.question, pair.image_id == question.image_id) == (question.question, False)
        assert {pair.answer, question.answer} == {"left", "right"}
    counts = {row["reason"]: row["n"] for row in read_csv(rejections, REJECTIONS)}
    assert sum(counts.values()) == len(questions) - len(found)


def test_a_table_names_pairs_and_its_other_rows_are_each_others(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    rows = "1,a.png,Q?,yes,c.png,no\n2,a.png,R?,yes,,\n3,b.png,R?,no,,\n4,b.png,S?,no,,\n"
    (tmp_path / "table.csv").write_text(f"question_id,image,question,answer,pair_image,pair_answer\n{rows}")
    source = ["--table", str(tmp_path / "table.csv"), "--images", str(tmp_path), "--category", "questions"]
    chosen, pairs, rejections = (tmp_path / name for name in ("chosen.csv", "pairs.csv", "rejections.csv"))
    made = ["--output", str(chosen), "--rejections", str(rejections)]
    assert main(["questions", *source, *made]) == 0
    made = ["--output", str(pairs), "--rejections", str(rejections)]
    assert main(["pairs", *source, *made, "--questions", str(chosen)]) == 0
    found = {pair.question_id: (pair.image_id, pair.answer) for pair in read_chosen(pairs)}
    assert found == {"1": ("c.png", "no"), "2": ("b.png", "no"), "3": ("a.png", "yes")}
    (row,) = read_csv(rejections, REJECTIONS)
    assert (row["reason"], row["n"]) == (NO_OTHER_ANSWER, 1)


def _zip_of(path: Path, **colors: int) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for image_id, color in colors.items():
            encoded = io.BytesIO()
            Image.new("RGB", (8, 8), (color, color, color)).save(encoded, "PNG")
            archive.writestr(f"images/{image_id}.jpg", encoded.getvalue())
    return path


def _gray(images: Images, image_id: str) -> object:
    return images.open(image_id).getpixel((0, 0))


def test_further_zips_hold_more_images_and_the_data_sets_own_come_first(tmp_path: Path) -> None:
    _zip_of(tmp_path / "images.zip", a=1, b=2)
    further = tuple(
        _zip_of(tmp_path / f"{name}.zip", **colors) for name, colors in (("x", {"a": 9, "c": 3}), ("y", {"d": 4}))
    )
    with ImageSource(tmp_path, further=further).open() as images:
        assert [_gray(images, name) for name in "abcd"] == [(value,) * 3 for value in (1, 2, 3, 4)]
        with pytest.raises(BrokenQuestion, match=r"the image e.jpg is missing from .*/images.zip"):
            images.open("e")
    with ImageSource(tmp_path).open() as images, pytest.raises(BrokenQuestion, match=r"c.jpg is missing"):
        images.open("c")
    (tmp_path / "images").mkdir()
    with ImageSource(tmp_path, further=further).open() as images:
        assert _gray(images, "c") == (3, 3, 3)
        with pytest.raises(BrokenQuestion, match=r"the image .*/images/e.jpg is missing"):
            images.open("e")


def test_a_further_zip_that_is_absent_or_none_is_one_sentence(tmp_path: Path) -> None:
    _zip_of(tmp_path / "images.zip", a=1)
    (tmp_path / "x.zip").write_bytes(b"no zip")
    for name in ("x.zip", "absent.zip"):
        with pytest.raises(CrossflowError, match=f"{name} is not a readable zip, or is truncated"):
            ImageSource(tmp_path, further=(tmp_path / name,)).open()

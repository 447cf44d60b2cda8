"""Minimal pairs of the mini world: the other answer is true, and nothing else changes."""

import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from crossflow.core.columns import REJECTIONS
from crossflow.core.errors import CrossflowError
from crossflow.core.records import Box, ChosenQuestion, Question
from crossflow.core.tables import read_csv
from crossflow.data.chosen import read_chosen, write_chosen
from crossflow.data.gqa import read_questions
from crossflow.data.images import ImageSource
from crossflow.mini.changes import CHANGES, change_of
from crossflow.mini.drawing import draw_image
from crossflow.mini.pairs import NO_ROOM, write_pairs
from crossflow.mini.questions import CATEGORIES
from crossflow.mini.scenes import Scene, Toy, draw_scene, has_room, scene_graph, scene_of
from mini_programs import run_program
from tiny import draw_world

SCENES = 8
SPLIT = "val_balanced"
# A lossy code spreads a change over its blocks.
BLOCK = 8


class Pairs(NamedTuple):
    """The questions of a world, their programs and their pairs.

    Attributes:
        root: The world.
        folder: The folder of the pairs.
        programs: Question -> the question with its program.
        questions: Question -> the chosen question.
        pairs: Question -> its pair.
        scenes: Question with a pair -> its scene, and the changed one.
    """

    root: Path
    folder: Path
    programs: dict[str, Question]
    questions: dict[str, ChosenQuestion]
    pairs: dict[str, ChosenQuestion]
    scenes: dict[str, tuple[Scene, Scene]]


def _write(root: Path, folder: Path, category: str, chosen: list[ChosenQuestion]) -> None:
    write_chosen(folder / "questions" / f"{category}.csv", chosen)
    write_pairs(
        folder / "questions" / f"{category}.csv", root, SPLIT, category,
        folder / f"{category}.csv", folder / f"{category}.zip", folder / f"{category}.rejections.csv",
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    root, folder = tmp_path_factory.mktemp("shapes"), tmp_path_factory.mktemp("pairs")
    found = Pairs(root, folder, {}, {}, {}, {})
    for category, chosen in draw_world(root, SCENES).items():
        _write(root, folder, category, chosen)
        found.questions.update({question.question_id: question for question in chosen})
        found.pairs.update({pair.question_id: pair for pair in read_chosen(folder / f"{category}.csv")})
    found.programs.update({question.question_id: question for question in read_questions(root, SPLIT)})
    for question_id, pair in found.pairs.items():
        question = found.questions[question_id]
        change = change_of(question, found.programs[question_id].program)
        assert change is not None
        scenes = scene_of(question.image_id), replace(change.scene, image_id=pair.image_id)
        found.scenes[question_id] = scenes
    return found


def test_every_category_has_changes_and_nearly_every_question_a_pair(drawn: Pairs) -> None:
    assert CHANGES.keys() == CATEGORIES.keys()
    assert len(drawn.pairs) >= 0.9 * len(drawn.questions)
    for category in CHANGES:
        asked = [each for each in drawn.questions.values() if each.category == category]
        paired = [each for each in drawn.pairs.values() if each.category == category]
        reasons = {row["reason"]: row["n"] for row in read_csv(drawn.folder / f"{category}.rejections.csv", REJECTIONS)}
        assert reasons == ({NO_ROOM: len(asked) - len(paired)} if len(paired) < len(asked) else {})


def test_a_pair_is_the_same_question_with_another_image_and_answer(drawn: Pairs) -> None:
    for question_id, pair in drawn.pairs.items():
        question = drawn.questions[question_id]
        assert pair.answer != question.answer
        assert (pair.true_option, pair.false_option) == (question.false_option, question.true_option)
        assert pair.true_option in (None, pair.answer)
        assert [(each.role, each.name) for each in pair.objects] == [(e.role, e.name) for e in question.objects]
        same = replace(
            question, image_id=pair.image_id, answer=pair.answer, true_option=pair.true_option,
            false_option=pair.false_option, objects=pair.objects,
        )  # fmt: skip
        assert pair == same


def test_the_answer_of_a_pair_is_what_its_program_gives_in_its_scene(drawn: Pairs) -> None:
    for question_id, pair in drawn.pairs.items():
        base, scene = drawn.scenes[question_id]
        objects = scene_graph(scene, *draw_image(scene)[1:])["objects"]
        steps = [asdict(step) for step in drawn.programs[question_id].program]
        for step in steps:
            step["argument"] = step["argument"].replace(f"({base.image_id}", f"({scene.image_id}")
        if pair.category == "ChooseCat":  # the program selects the toy that is the answer
            steps[0]["argument"] = f"toy ({pair.objects[0].id})"
            named = scene.toy_ids[pair.false_option or ""]
            assert steps[1]["argument"] not in objects[named]["attributes"]
        assert run_program(steps, objects) == pair.answer, (question_id, pair.question)
        for each in pair.objects:
            assert each.box == Box(*(objects[each.id][side] for side in Box._fields))


def test_a_changed_scene_differs_in_one_or_two_toys_that_have_room_and_in_nothing_else(drawn: Pairs) -> None:
    for base, scene in drawn.scenes.values():
        assert replace(scene, image_id=base.image_id, toys=base.toys) == base
        changed = [(old, new) for old, new in zip(base.toys, scene.toys, strict=True) if old != new]
        assert 1 <= len(changed) <= 2
        assert all((old.name, old.angle, old.tint) == (new.name, new.angle, new.tint) for old, new in changed)
        assert has_room(base) and has_room(scene)


def _toy(scene: Scene, name: str) -> Toy:
    return next(toy for toy in scene.toys if toy.name == name)


def test_the_toy_of_a_choice_between_values_gets_the_false_option_and_keeps_all_others(drawn: Pairs) -> None:
    seen = set()
    for question_id, pair in drawn.pairs.items():
        if pair.category != "ChooseAttr":
            continue
        attribute = drawn.programs[question_id].program[-1].operation.removeprefix("choose ")
        name = pair.objects[0].name
        old, new = (_toy(scene, name) for scene in drawn.scenes[question_id])
        kept = {"color", "size", "material"} - {attribute}
        assert getattr(new, attribute) == pair.answer != getattr(old, attribute)
        assert all(getattr(new, each) == getattr(old, each) for each in kept)
        assert attribute == "size" or new.radius == old.radius
        seen.add(attribute)
    assert seen == {"color", "size", "material"}


def test_pixels_differ_only_in_the_boxes_of_changed_toys_as_they_were_and_are(drawn: Pairs) -> None:
    images = {path.stem: path for path in sorted(drawn.folder.glob("*.zip"))}
    for category, path in images.items():
        of_category = [pair for pair in drawn.pairs.values() if pair.category == category][:6]
        with ImageSource(drawn.root, further=(path,)).open() as opened:
            for pair in of_category:
                base, scene = drawn.scenes[pair.question_id]
                (old, old_boxes, _), (new, new_boxes, _) = draw_image(base), draw_image(scene)
                allowed = np.zeros(old.size[::-1], dtype=bool)
                for index, (before, after) in enumerate(zip(base.toys, scene.toys, strict=True)):
                    for x, y, w, h in (old_boxes[index], new_boxes[index]) if before != after else ():
                        allowed[y : y + h, x : x + w] = True
                differing = (np.asarray(old) != np.asarray(new)).any(axis=2)
                assert differing.any() and not (differing & ~allowed).any()
                blocks = allowed.reshape(allowed.shape[0] // BLOCK, BLOCK, -1, BLOCK).any(axis=(1, 3))
                near = blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
                decoded = [np.asarray(opened.open(each)) for each in (base.image_id, pair.image_id)]
                assert not ((decoded[0] != decoded[1]).any(axis=2) & ~near).any()


def test_a_zip_holds_the_image_of_every_pair_under_an_id_that_the_world_lacks(drawn: Pairs) -> None:
    graphs = json.loads((drawn.root / "sceneGraphs/val_sceneGraphs.json").read_text())
    for category in CHANGES:
        with zipfile.ZipFile(drawn.folder / f"{category}.zip") as archive:
            pairs = [pair for pair in drawn.pairs.values() if pair.category == category]
            assert archive.namelist() == [f"images/{pair.image_id}.jpg" for pair in pairs]
            assert not {pair.image_id for pair in pairs} & graphs.keys()


def test_a_pair_does_not_depend_on_the_other_questions_and_is_drawn_to_the_same_bytes(
    drawn: Pairs, tmp_path: Path
) -> None:
    chosen = [each for each in drawn.questions.values() if each.category == "CompareAttr"]
    _write(drawn.root, tmp_path / "again", "CompareAttr", chosen)
    _write(drawn.root, tmp_path / "part", "CompareAttr", chosen[7:3:-1])
    for name in ("CompareAttr.csv", "CompareAttr.zip"):
        assert (tmp_path / "again" / name).read_bytes() == (drawn.folder / name).read_bytes()
    part = read_chosen(tmp_path / "part/CompareAttr.csv")
    assert part == [drawn.pairs[each.question_id] for each in chosen[7:3:-1] if each.question_id in drawn.pairs]


@pytest.mark.parametrize(("split", "index"), [("val", 0), ("train", 123456)])
def test_a_scene_is_drawn_again_from_its_images_id(split: str, index: int) -> None:
    for seed in (0, 7, 1234):
        scene = draw_scene(seed, index, split)  # type: ignore[arg-type]
        assert scene_of(scene.image_id) == scene


def test_questions_of_another_world_are_one_sentence(drawn: Pairs, tmp_path: Path) -> None:
    question = next(each for each in drawn.questions.values() if each.category == "QueryAttr")
    for changed, said in (
        (replace(question, question_id="9"), "val_balanced_questions.json does not contain question 9"),
        (replace(question, image_id="2370799"), "The image '2370799' is not one of the mini world"),
        (
            replace(question, objects=(replace(question.objects[0], id="7"),)),
            f"Question {question.question_id} names 7, which is not a toy of its image",
        ),
    ):
        with pytest.raises(CrossflowError, match=said):
            _write(drawn.root, tmp_path, "QueryAttr", [changed])
    with pytest.raises(CrossflowError, match="Unknown category 'cats'; choose from ChooseAttr"):
        _write(drawn.root, tmp_path, "cats", [question])

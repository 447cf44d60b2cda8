"""Questions about the mini world: no answer can be told from the words."""

import re
from collections import Counter, defaultdict
from random import Random

import pytest

from balance import imbalance
from crossflow.data.categories import CATEGORIES as GQA_CATEGORIES
from crossflow.mini.programs import MiniQuestion
from crossflow.mini.questions import CATEGORIES, answers, vocabulary
from crossflow.mini.scenes import ATTRIBUTES, IMAGE_SIZE, NAMES, Scene, aside

# Statistics over thousands of questions.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def asked(scenes: list[Scene]) -> dict[str, list[MiniQuestion]]:
    """One question of each category about each scene."""
    questions: dict[str, list[MiniQuestion]] = {}
    for category, (ask, *_) in CATEGORIES.items():
        found = (ask(scene, Random(f"{category} {scene.image_id}")) for scene in scenes)
        questions[category] = [question for question in found if question is not None]
    return questions


ANSWERS = {
    "ChooseAttr": tuple(value for values in ATTRIBUTES.values() for value in values),
    "ChooseCat": NAMES,
    "ChooseRel": ("left", "right"),
    "CompareAttr": tuple(ATTRIBUTES),
    "LogicalObj": ("yes", "no"),
    "QueryAttr": ("left", "right"),
}


OUTCOMES = {
    category: ("first", "second") if category.startswith("Choose") else values for category, values in ANSWERS.items()
}


def test_each_category_of_the_generator_is_the_category_of_the_choice(scenes: list[Scene]) -> None:
    for category, (ask, *_) in CATEGORIES.items():
        found = next(question for scene in scenes if (question := ask(scene, Random(0))) is not None)
        assert found.detailed in GQA_CATEGORIES[category].detailed


@pytest.mark.parametrize("category", ANSWERS)
def test_every_answer_of_a_category_is_equally_likely(asked: dict[str, list[MiniQuestion]], category: str) -> None:
    counts = Counter(question.answer for question in asked[category])
    assert imbalance(counts, ANSWERS[category]) < 1


def _outcome(category: str, question: MiniQuestion) -> str:
    """What is to be predicted from the words: which of the two options is right, or else the answer."""
    if not category.startswith("Choose"):
        return question.answer
    first, _ = (word for word in re.findall(r"\w+", question.question) if word in ANSWERS[category])
    return "first" if first == question.answer else "second"


@pytest.mark.parametrize("category", ANSWERS)
def test_no_word_of_a_question_tells_anything_about_its_answer(
    asked: dict[str, list[MiniQuestion]], category: str
) -> None:
    by_word: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question in asked[category]:
        for word in set(re.findall(r"\w+", question.question)):
            by_word[word][_outcome(category, question)] += 1
    assert len(by_word) > 10
    for word, counts in by_word.items():
        assert imbalance(counts, OUTCOMES[category]) < 1.5, word


def _baseline(questions: list[MiniQuestion]) -> tuple[float, int]:
    """How often, and of how many, the most frequent answer to a text in one half is right in the other."""
    half = len(questions) // 2
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question in questions[:half]:
        seen[question.question][question.answer] += 1
    known = [question for question in questions[half:] if question.question in seen]
    hits = sum(seen[question.question].most_common(1)[0][0] == question.answer for question in known)
    return hits / len(known), len(known)


@pytest.mark.parametrize("category", ANSWERS)
def test_remembering_the_answers_to_a_questions_text_stays_at_chance(
    asked: dict[str, list[MiniQuestion]], category: str
) -> None:
    accuracy, known = _baseline(asked[category])
    chance = 1 / len(OUTCOMES[category])
    assert known > 200
    assert accuracy < chance + 3 * (chance * (1 - chance) / known) ** 0.5


def test_not_does_not_mean_no(asked: dict[str, list[MiniQuestion]]) -> None:
    for attribute in ATTRIBUTES:
        for negated in (True, False):
            counts = Counter(
                question.answer
                for question in asked["LogicalObj"]
                if question.program[1].operation.endswith(attribute) and (" not " in question.question) == negated
            )
            assert counts.total() > 500
            assert imbalance(counts, ("yes", "no")) < 1


def test_a_wrong_option_is_in_the_image_too_wherever_it_can_be(scenes: list[Scene]) -> None:
    for scene in scenes[:500]:
        for category in ("ChooseAttr", "ChooseCat"):
            question = CATEGORIES[category].write(scene, Random(scene.image_id))
            assert question is not None
            (false,) = set(question.program[-1].argument.split("|")) - {question.answer}
            if category == "ChooseCat":
                assert false in {toy.name for toy in scene.toys}
                continue
            (attribute,) = [name for name, values in ATTRIBUTES.items() if false in values]
            present = {toy.value(attribute) for toy in scene.toys}
            assert false in present or present == {question.answer}


def test_no_question_hangs_on_a_toy_near_the_middle(scenes: list[Scene]) -> None:
    for scene in scenes[:500]:
        question = CATEGORIES["QueryAttr"].write(scene, Random(scene.image_id))
        if question is None:
            assert all(aside(toy) is None for toy in scene.toys)
        else:
            (toy,) = [toy for toy in scene.toys if toy.name in question.question.rstrip("?").split()]
            assert abs(toy.x - IMAGE_SIZE / 2) >= 9


def test_the_vocabulary_is_the_words_of_the_questions_and_the_answers_those_that_are_given(
    asked: dict[str, list[MiniQuestion]],
) -> None:
    questions = [question for found in asked.values() for question in found]
    words = {word for question in questions for word in re.findall(r"\w+|[^\w\s]", question.question)}
    given = {question.answer for question in questions}
    assert words <= set(vocabulary())
    assert set(vocabulary()) - words <= given
    assert set(answers()) == given

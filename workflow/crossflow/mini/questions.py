"""Questions of the six categories about a scene of the mini world, as GQA programs.

No question can be answered from its words alone. If a category has two answers, both are equally likely for every
question that can be asked: either the answer is drawn before the question, and a question with that answer can always
be found; or exchanging two values (two colours, two toys, left and right) turns every scene into an equally likely
scene with the other answer. If possible, a wrong option is something that the image shows elsewhere, so that knowing
what is in the image is not enough either.
"""

import random
import re
from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

from crossflow.core.records import Step
from crossflow.mini.programs import KIND, MiniQuestion, QuestionWriter, find, in_any_order, phrase
from crossflow.mini.scenes import ATTRIBUTES, NAMES, PLURALS, Attribute, Scene, Toy, aside, clear_pairs, shared

WORDINGS: dict[str, tuple[str, ...]] = {
    "ChooseAttr": ("Is the {name} {a} or {b}?", "Does the {name} look {a} or {b}?"),
    "ChooseAttr material": ("Is the {name} made of {a} or {b}?", "What is the {name} made of, {a} or {b}?"),
    "ChooseCat": (
        "Which toy is {value}, the {a} or the {b}?",
        "What kind of toy is {value}, the {a} or the {b}?",
    ),
    "ChooseRel": ("Is the {first} to the {a} or to the {b} of the {second}?",),
    "CompareAttr": (
        "What do the {a} and the {b} have in common?",
        "What do both the {a} and the {b} have in common?",
        "What is common to the {a} and the {b}?",
    ),
    "LogicalObj": (
        "Are there any that are {value}, {a} or {b}?",
        "Are there any that are {value}, either {a} or {b}?",
        "Do you see any that are {value}, either {a} or {b}?",
    ),
    "QueryAttr": (
        "On which side of the picture is the {name}?",
        "Which side of the picture is the {name} on?",
    ),
}
"""Wordings of a category's questions, equally likely whatever the answer."""

SIDES = ("left", "right")
YES_NO = ("yes", "no")
# A colour in six of ten questions: then each of the ten attribute values is the answer equally often.
_ANSWER_WEIGHTS = [len(values) for values in ATTRIBUTES.values()]


def _elsewhere(scene: Scene, attribute: Attribute, candidates: Sequence[str]) -> list[str]:
    """The candidate values that some toy of the image has; all candidates if none has one."""
    present = {toy.value(attribute) for toy in scene.toys}
    return [value for value in candidates if value in present] or list(candidates)


def choose_attr(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Is the ball red or blue?"."""
    toy = rng.choice(scene.toys)
    (attribute,) = rng.choices(tuple(ATTRIBUTES), _ANSWER_WEIGHTS)
    true = toy.value(attribute)
    false = rng.choice(_elsewhere(scene, attribute, [value for value in ATTRIBUTES[attribute] if value != true]))
    material = attribute == "material"
    wording = rng.choice(WORDINGS["ChooseAttr material" if material else "ChooseAttr"])
    return MiniQuestion(
        "materialChoose" if material else "chooseAttr",
        wording.format(name=toy.name, **in_any_order(rng, true, false)),
        true,
        f"The {toy.name} is {phrase(attribute, true)}.",
        (find(scene, toy.name), Step(f"choose {attribute}", (0,), f"{true}|{false}")),
        f"10c-{toy.name}_{attribute}",
        overall=attribute,
    )


def choose_cat(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Which toy is red, the ball or the star?", where one of them is; both are in the image."""
    differing = {
        attribute: [
            (toy, other) for toy, other in permutations(scene.toys, 2) if toy.value(attribute) != other.value(attribute)
        ]
        for attribute in ATTRIBUTES
    }
    # The twins differ in two attributes, so one is always left to ask about.
    attribute = rng.choice([attribute for attribute, found in differing.items() if found])
    toy, wrong = rng.choice(differing[attribute])
    value = toy.value(attribute)
    first, second = rng.sample((toy.name, wrong.name), 2)
    return MiniQuestion(
        "categoryThatChoose",
        rng.choice(WORDINGS["ChooseCat"]).format(
            value=phrase(attribute, value), **in_any_order(rng, toy.name, wrong.name)
        ),
        toy.name,
        f"The {KIND} is a {toy.name}.",
        (
            find(scene, toy.name, kind=KIND),
            Step(f"filter {attribute}", (0,), value),
            Step("choose name", (1,), f"{first}|{second}"),
        ),
        f"12c-{KIND}_{value}",
        overall=KIND,
    )


def choose_rel(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Is the ball to the left or to the right of the star?".

    None if all toys lie below one another.
    """
    pairs = clear_pairs(scene, "x")
    if not pairs:
        return None
    toy, anchor = rng.choice(pairs)
    true, false = SIDES if toy.x < anchor.x else SIDES[::-1]
    return MiniQuestion(
        "relChooser",
        rng.choice(WORDINGS["ChooseRel"]).format(first=toy.name, second=anchor.name, **in_any_order(rng, true, false)),
        true,
        f"The {toy.name} is to the {true} of the {anchor.name}.",
        (
            find(scene, anchor.name),
            Step(
                "choose rel",
                (0,),
                f"{toy.name},to the {true} of|to the {false} of,s ({scene.toy_ids[toy.name]})",
            ),
        ),
        f"13-{anchor.name}_{toy.name}",
    )


def compare_attr(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "What do the ball and the star have in common?".

    Asked about the twins, which share each attribute in a third of the scenes.
    """
    toy, twin = (scene.toys[index] for index in rng.sample(scene.twins, 2))
    (attribute,) = shared(toy, twin)
    common = phrase(attribute, toy.value(attribute))
    first, second = sorted((toy.name, twin.name))
    return MiniQuestion(
        "twoCommon",
        rng.choice(WORDINGS["CompareAttr"]).format(a=toy.name, b=twin.name),
        attribute,
        f"The {attribute}, both the {toy.name} and the {twin.name} are {common}.",
        (find(scene, toy.name), find(scene, twin.name, later=True), Step("common", (0, 1), "")),
        f"09common-{first}_{second}",
    )


def holds(toy: Toy, attribute: Attribute, value: str, negated: bool) -> bool:
    """Whether a toy is, or is not, of this colour, size or material."""
    return (toy.value(attribute) == value) != negated


def _logical_candidates(
    scene: Scene, attribute: Attribute, negated: bool, answer: str, both: bool, values: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Two names and a value that make ``answer`` correct; the first name, or both, in the image."""
    toys = {toy.name: toy for toy in scene.toys}
    absent = [name for name in NAMES if name not in toys]
    pairs = list(permutations(toys, 2)) if both else [(name, missing) for name in toys for missing in absent]
    return [
        (first, second, value)
        for first, second in pairs
        for value in values
        if any(holds(toys[name], attribute, value, negated) for name in (first, second) if name in toys)
        == (answer == "yes")
    ]


def logical_obj(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Are there any that are not red, either balls or stars?".

    Attribute, "not" and answer are drawn first and independently. A toy and a name that is not in the image allow
    either answer, so a question is always found, and its words tell nothing.
    """
    attribute = rng.choice(tuple(ATTRIBUTES))
    negated, answer, both = rng.random() < 0.5, rng.choice(YES_NO), rng.random() < 0.5
    values = ATTRIBUTES[attribute]
    shown = _elsewhere(scene, attribute, values)
    first, second, value = rng.choice(
        _logical_candidates(scene, attribute, negated, answer, both, shown)
        or _logical_candidates(scene, attribute, negated, answer, not both, shown)
        or _logical_candidates(scene, attribute, negated, answer, False, values)
    )
    toys = {toy.name: toy for toy in scene.toys}
    deciding = next(
        (name for name in (first, second) if name in toys and holds(toys[name], attribute, value, negated)), first
    )
    but = phrase(attribute, toys[deciding].value(attribute))
    return MiniQuestion(
        "existThatOr" if answer == "yes" else "existThatOrC",
        rng.choice(WORDINGS["LogicalObj"]).format(
            value=phrase(attribute, value, negated), **in_any_order(rng, PLURALS[first], PLURALS[second])
        ),
        answer,
        f"Yes, there is a {deciding} that is {phrase(attribute, value, negated)}."
        if answer == "yes"
        else f"No, there is a {deciding} but it is {but}.",
        tuple(
            step
            for offset, name in ((0, first), (3, second))
            for step in (
                find(scene, name, later=offset > 0),
                Step(f"filter {attribute}", (offset,), f"not({value})" if negated else value),
                Step("exist", (offset + 1,), "?"),
            )
        )
        + (Step("or", (2, 5), ""),),
        f"04-{deciding}_{'n#' if negated else ''}{value}",
    )


def query_attr(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "On which side of the picture is the ball?". None if every toy is near the middle."""
    sides = [(toy, side) for toy in scene.toys if (side := aside(toy))]
    if not sides:
        return None
    toy, side = rng.choice(sides)
    return MiniQuestion(
        "positionQuery",
        rng.choice(WORDINGS["QueryAttr"]).format(name=toy.name),
        side,
        f"The {toy.name} is on the {side} of the picture.",
        (find(scene, toy.name), Step("query", (0,), "hposition")),
        f"10q-{toy.name}_hposition",
    )


class MiniCategory(NamedTuple):
    """How the mini world asks the questions of a category.

    Attributes:
        write: Writes a question about a scene; None if the scene does not allow one.
        answers: Number of equally likely answers, so that 1 / ``answers`` is the accuracy of guessing.
        share: Relative frequency in training; two-hop questions take longest to learn.
        late_share: Relative frequency in the last stage, which favours what is still hard.
    """

    write: QuestionWriter
    answers: int
    share: int
    late_share: int


CATEGORIES = {
    "ChooseAttr": MiniCategory(choose_attr, 2, 2, 2),
    "ChooseCat": MiniCategory(choose_cat, 2, 3, 3),
    "ChooseRel": MiniCategory(choose_rel, 2, 2, 1),
    "CompareAttr": MiniCategory(compare_attr, len(ATTRIBUTES), 2, 3),
    "LogicalObj": MiniCategory(logical_obj, 2, 5, 9),
    "QueryAttr": MiniCategory(query_attr, 2, 1, 1),
}
"""Category of `crossflow.data.categories` -> how the mini world asks it."""


def vocabulary() -> list[str]:
    """All words and punctuation marks of the six categories' questions and answers, sorted."""
    sources = [wording for wordings in WORDINGS.values() for wording in wordings]
    sources += [*PLURALS, *PLURALS.values(), *ATTRIBUTES, *SIDES, *YES_NO]
    for attribute, values in ATTRIBUTES.items():
        sources += [phrase(attribute, value, negated=True) for value in values]
    return sorted(set(re.findall(r"\w+|[^\w\s]", re.sub(r"{\w+}", " ", " ".join(sources)))))


def answers() -> list[str]:
    """All words that answer questions of the six categories, sorted."""
    values = [value for values in ATTRIBUTES.values() for value in values]
    return sorted({*NAMES, *ATTRIBUTES, *values, *SIDES, *YES_NO})

"""Questions about a scene of the mini world that belong to none of the six categories.

Some differ from a category's questions in one step or one relation only, so that telling them apart takes the whole
program.
"""

import random
from dataclasses import replace

from crossflow.core.records import Step
from crossflow.mini.programs import KIND, MiniQuestion, QuestionWriter, find, in_any_order, phrase
from crossflow.mini.questions import SIDES, YES_NO
from crossflow.mini.scenes import ATTRIBUTES, NAMES, PLURALS, Attribute, Scene, aside, clear_pairs


def verify_attr(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Is the ball red?"."""
    toy, attribute, answer = rng.choice(scene.toys), rng.choice(tuple(ATTRIBUTES)), rng.choice(YES_NO)
    true = toy.value(attribute)
    value = true if answer == "yes" else rng.choice([other for other in ATTRIBUTES[attribute] if other != true])
    return MiniQuestion(
        "verifyAttr" if answer == "yes" else "verifyAttrC",
        f"Is the {toy.name} {phrase(attribute, value)}?",
        answer,
        f"{answer.capitalize()}, the {toy.name} is {phrase(attribute, true)}.",
        (find(scene, toy.name), Step(f"verify {attribute}", (0,), value)),
        f"06-{toy.name}_{value}",
    )


def direct_which(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Which color is the ball?"."""
    toy = rng.choice(scene.toys)
    return MiniQuestion(
        "directWhich",
        f"Which color is the {toy.name}?",
        toy.color,
        f"The {toy.name} is {toy.color}.",
        (find(scene, toy.name), Step("query", (0,), "color")),
        f"10q-{toy.name}_color",
        overall="color",
    )


def exist(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Is there a ball in the picture?"."""
    answer = rng.choice(YES_NO)
    present = [toy.name for toy in scene.toys]
    name = rng.choice(present if answer == "yes" else [name for name in NAMES if name not in present])
    return MiniQuestion(
        "exist" if answer == "yes" else "existC",
        f"Is there a {name} in the picture?",
        answer,
        f"Yes, there is a {name}." if answer == "yes" else f"No, there are no {PLURALS[name]}.",
        (find(scene, name), Step("exist", (0,), "?")),
        f"03-{name}",
    )


def exist_or(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Are there any balls or stars?": the program of LogicalObj without its filters."""
    toy = rng.choice(scene.toys)
    missing = rng.choice([name for name in NAMES if all(name != other.name for other in scene.toys)])
    options = in_any_order(rng, PLURALS[toy.name], PLURALS[missing])
    return MiniQuestion(
        "existOr",
        f"Are there any {options['a']} or {options['b']}?",
        "yes",
        f"Yes, there is a {toy.name}.",
        (
            find(scene, toy.name),
            Step("exist", (0,), "?"),
            find(scene, missing, later=True),
            Step("exist", (2,), "?"),
            Step("or", (1, 3), ""),
        ),
        f"09existOr-{'_'.join(sorted((toy.name, missing)))}",
    )


def position_verify(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Is the ball on the left side of the picture?"."""
    sides = [(toy, side) for toy in scene.toys if (side := aside(toy))]
    if not sides:
        return None
    (toy, side), asked = rng.choice(sides), rng.choice(SIDES)
    answer = "yes" if asked == side else "no"
    return MiniQuestion(
        "positionVerify" if answer == "yes" else "positionVerifyC",
        f"Is the {toy.name} on the {asked} side of the picture?",
        answer,
        f"{answer.capitalize()}, the {toy.name} is on the {side} of the picture.",
        (find(scene, toy.name), Step("verify hposition", (0,), asked)),
        f"06-{toy.name}_{asked}",
    )


def two_same(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Do the ball and the star have the same color?"."""
    first, second = rng.sample(scene.toys, 2)
    answer = "yes" if first.color == second.color else "no"
    return MiniQuestion(
        "twoSame" if answer == "yes" else "twoSameC",
        f"Do the {first.name} and the {second.name} have the same color?",
        answer,
        f"{answer.capitalize()}, the {first.name} is {first.color} and the {second.name} is {second.color}.",
        (
            find(scene, first.name),
            find(scene, second.name, later=True),
            Step("same color", (0, 1), ""),
        ),
        f"09same-{'_'.join(sorted((first.name, second.name)))}",
    )


def category_that(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Which toy is red?" where only one is."""
    values: list[tuple[Attribute, str]] = [(name, value) for name, given in ATTRIBUTES.items() for value in given]
    unique = [
        (toys[0], attribute, value)
        for attribute, value in values
        if len(toys := [toy for toy in scene.toys if toy.value(attribute) == value]) == 1
    ]
    if not unique:
        return None
    toy, attribute, value = rng.choice(unique)
    return MiniQuestion(
        "categoryThat",
        f"Which toy is {phrase(attribute, value)}?",
        toy.name,
        f"The {KIND} is a {toy.name}.",
        (
            find(scene, toy.name, kind=KIND),
            Step(f"filter {attribute}", (0,), value),
            Step("query", (1,), "name"),
        ),
        f"12q-{KIND}_{value}",
        overall=KIND,
    )


def choose_above_below(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Is the ball above or below the star?": ChooseRel's type and program with another relation."""
    pairs = clear_pairs(scene, "y")
    if not pairs:
        return None
    toy, anchor = rng.choice(pairs)
    true, false = ("above", "below") if toy.y < anchor.y else ("below", "above")
    options = in_any_order(rng, true, false)
    return MiniQuestion(
        "relChooser",
        f"Is the {toy.name} {options['a']} or {options['b']} the {anchor.name}?",
        true,
        f"The {toy.name} is {true} the {anchor.name}.",
        (
            find(scene, anchor.name),
            Step("choose rel", (0,), f"{toy.name},{true}|{false},s ({scene.toy_ids[toy.name]})"),
        ),
        f"13-{anchor.name}_{toy.name}",
    )


def position_of_filtered(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "On which side of the picture is the red ball?": QueryAttr's type with one step more."""
    sides = [(toy, side) for toy in scene.toys if (side := aside(toy))]
    if not sides:
        return None
    toy, side = rng.choice(sides)
    return MiniQuestion(
        "positionQuery",
        f"On which side of the picture is the {toy.color} {toy.name}?",
        side,
        f"The {toy.name} is on the {side} of the picture.",
        (
            find(scene, toy.name),
            Step("filter color", (0,), toy.color),
            Step("query", (1,), "hposition"),
        ),
        f"10q-{toy.name}_hposition",
    )


def choose_attr_of_filtered(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Is the red ball small or large?": ChooseAttr's type with one step more."""
    toy = rng.choice(scene.toys)
    (false,) = (size for size in ATTRIBUTES["size"] if size != toy.size)
    options = in_any_order(rng, toy.size, false)
    return MiniQuestion(
        "chooseAttr",
        f"Is the {toy.color} {toy.name} {options['a']} or {options['b']}?",
        toy.size,
        f"The {toy.name} is {toy.size}.",
        (
            find(scene, toy.name),
            Step("filter color", (0,), toy.color),
            Step("choose size", (1,), f"{toy.size}|{false}"),
        ),
        f"10c-{toy.name}_size",
        overall="size",
    )


def verify_attrs(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """As in "Is the ball red and small?"."""
    toy, answer = rng.choice(scene.toys), rng.choice(YES_NO)
    asked = toy
    if answer == "no":
        asked = replace(toy, size=next(size for size in ATTRIBUTES["size"] if size != toy.size))
    joint = "and" if answer == "yes" else "but"
    return MiniQuestion(
        "verifyAttrs" if answer == "yes" else "verifyAttrsC",
        f"Is the {toy.name} {asked.color} and {asked.size}?",
        answer,
        f"{answer.capitalize()}, the {toy.name} is {toy.color} {joint} {toy.size}.",
        (
            find(scene, toy.name),
            Step("verify color", (0,), asked.color),
            Step("verify size", (0,), asked.size),
            Step("and", (1, 2), ""),
        ),
        f"05-{'_'.join(sorted((asked.color, asked.size)))}",
    )


OTHERS: tuple[QuestionWriter, ...] = (
    verify_attr,
    direct_which,
    exist,
    exist_or,
    position_verify,
    two_same,
    category_that,
    choose_above_below,
    position_of_filtered,
    choose_attr_of_filtered,
    verify_attrs,
)

"""Which of the six categories a question belongs to, its options and its objects.

Two pure steps: `classify` reads the question's type and program only, `attach_objects` adds the boxes of the scene
graph. Each returns a result or one reason for rejection. The table `CATEGORIES` lists the types of each category, the
shape of its program, and the reader of that shape.

Source: GQA's own fields; every rule agrees with all published questions of the study.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from crossflow.core.records import ChosenObject, ChosenQuestion, Question, SceneGraph, Step


class Rejection(NamedTuple):
    """Why a question belongs to no category.

    Attributes:
        category: The category of its type; empty if its type belongs to no category.
        reason: One of this module's reasons.
    """

    category: str
    reason: str


class Reference(NamedTuple):
    """An object that a program names."""

    role: str
    id: str
    name: str


class Classified(NamedTuple):
    """A question with its category, before its objects are looked up."""

    question: Question
    category: str
    true_option: str | None
    false_option: str | None
    objects: tuple[Reference, ...]


OTHER_KIND = "another kind of question"
NOT_MINIMAL = "the program is not the category's minimal one"
OTHER_ANSWER = "the answer is none of the options"
SAME_OPTIONS = "both options are the same"
OTHER_RELATION = "the relation is neither left/right nor front/behind"
NOT_YES = "the answer does not fit the type: one of two that exist is yes, none of them no"
NO_OBJECT = "the program names no object of the image"
NO_SCENE = "no scene graph"
NOT_IN_SCENE = "the object is not in the scene graph"
NO_EXTENT = "the object's box has no width or no height"

_SELECT = re.compile(r"\s*(?P<name>.*?)\s*\((?P<id>[^()\s]+)\)\s*")
_RELATION = re.compile(
    r"\s*(?P<name>.*?)\s*,\s*(?P<first>[^|,]+)\|(?P<second>[^|,]+),\s*s\s*(\((?P<id>[^()\s]+)\))?\s*"
)
_RELATION_OPTIONS = {
    "to the left of": "left",
    "to the right of": "right",
    "in front of": "front",
    "behind": "behind",
}
_ABSENT = "-"

Parsed = tuple[str | None, str | None, tuple[Reference, ...]]


class _Rejected(Exception):
    """Carries the reason up to `classify`."""


def _select(step: Step, role: str) -> tuple[Reference, ...]:
    """The object of a ``select`` step: one reference, or none if the program says it is absent."""
    match = _SELECT.fullmatch(step.argument)
    if match is None:
        raise _Rejected(NO_OBJECT)
    return () if match["id"] == _ABSENT else (Reference(role, match["id"], match["name"]),)


def _two_selects(first: Step, second: Step) -> tuple[Reference, ...]:
    return _select(first, "object1") + _select(second, "object2")


def _options(step: Step, answer: str) -> tuple[str, str]:
    """True and false option of an argument ``a|b``; the true option is the answer."""
    parts = [part.strip() for part in step.argument.split("|")]
    if len(parts) != 2 or answer not in parts:
        raise _Rejected(OTHER_ANSWER)
    if parts[0] == parts[1]:
        raise _Rejected(SAME_OPTIONS)
    return answer, parts[1 - parts.index(answer)]


def _read_choose(question: Question) -> Parsed:
    first, *_, last = question.program
    return *_options(last, question.answer), _select(first, "object")


def _read_relation(question: Question) -> Parsed:
    first, last = question.program
    match = _RELATION.fullmatch(last.argument)
    if match is None:
        raise _Rejected(NOT_MINIMAL)
    options = [_RELATION_OPTIONS.get(match[part].strip()) for part in ("first", "second")]
    if {*options} not in ({"left", "right"}, {"front", "behind"}):
        raise _Rejected(OTHER_RELATION)
    if question.answer not in options:
        raise _Rejected(OTHER_ANSWER)
    (other,) = [option for option in options if option != question.answer]
    second = () if match["id"] in (None, _ABSENT) else (Reference("object2", match["id"], match["name"]),)
    return question.answer, other, _select(first, "object1") + second


def _read_compare(question: Question) -> Parsed:
    return None, None, _two_selects(question.program[0], question.program[1])


def _read_logical(question: Question) -> Parsed:
    if question.answer != ("yes" if question.detailed == "existThatOr" else "no"):
        raise _Rejected(NOT_YES)
    return None, None, _two_selects(question.program[0], question.program[3])


def _read_query(question: Question) -> Parsed:
    select, query = question.program
    if query.argument.strip() != "hposition":
        raise _Rejected(NOT_MINIMAL)
    return None, None, _select(select, "object")


class _Category(NamedTuple):
    """One line of the table.

    Attributes:
        detailed: GQA's ``types.detailed`` of the category.
        program: Pattern over the program, written ``operation[dependencies] ...`` (an argument where it is fixed).
        read: Takes options and objects from a program of that shape.
        objects: How many objects the program must name.
    """

    detailed: frozenset[str]
    program: re.Pattern[str]
    read: Callable[[Question], Parsed]
    objects: Sequence[int]


def _program_text(program: Sequence[Step]) -> str:
    return " ".join(f"{step.operation}{list(step.dependencies)}".replace(", ", ",") for step in program)


def _category(detailed: str, program: str, read: Callable[[Question], Parsed], objects: Sequence[int]) -> _Category:
    return _Category(frozenset(detailed.split()), re.compile(program), read, objects)


_EXISTS = r"select\[\] filter( [^\[\]]+)?\[{0}\] exist\[{1}\]"

CATEGORIES = {
    "ChooseAttr": _category(
        "chooseAttr materialChoose typeChoose activityChoose",
        r"select\[\] choose( (?!rel\[|name\[)[^\[\]]+)?\[0\]",
        _read_choose,
        [1],
    ),
    "ChooseCat": _category(
        "objThisChoose categoryThisChoose categoryThatChoose",
        r"select\[\] (filter( [^\[\]]+)?\[0\] choose name\[1\]|choose name\[0\])",
        _read_choose,
        [1],
    ),
    "ChooseRel": _category("relChooser", r"select\[\] choose rel\[0\]", _read_relation, [2]),
    "CompareAttr": _category("twoCommon", r"select\[\] select\[\] common\[0,1\]", _read_compare, [2]),
    "LogicalObj": _category(
        "existThatOr existThatOrC",
        f"{_EXISTS.format(0, 1)} {_EXISTS.format(3, 4)} {re.escape('or[2,5]')}",
        _read_logical,
        [0, 1, 2],
    ),
    "QueryAttr": _category("positionQuery", r"select\[\] query\[0\]", _read_query, [1]),
}
_OF_TYPE = {detailed: name for name, category in CATEGORIES.items() for detailed in category.detailed}


def classify(question: Question) -> Classified | Rejection:
    """The category of a question, from its type and program alone, or the reason why it has none."""
    name = _OF_TYPE.get(question.detailed)
    if name is None:
        return Rejection("", OTHER_KIND)
    category = CATEGORIES[name]
    if not category.program.fullmatch(_program_text(question.program)):
        return Rejection(name, NOT_MINIMAL)
    try:
        true_option, false_option, objects = category.read(question)
    except _Rejected as rejected:
        return Rejection(name, str(rejected))
    if len(objects) not in category.objects:
        return Rejection(name, NO_OBJECT)
    return Classified(question, name, true_option, false_option, objects)


def attach_objects(classified: Classified, scene: SceneGraph | None) -> ChosenQuestion | Rejection:
    """Add the raw boxes of the objects, or the reason for rejection. ``scene`` is None if the image has no graph."""
    if scene is None:
        return Rejection(classified.category, NO_SCENE)
    if any(reference.id not in scene.objects for reference in classified.objects):
        return Rejection(classified.category, NOT_IN_SCENE)
    if any(min(scene.objects[reference.id].box[2:]) <= 0 for reference in classified.objects):
        return Rejection(classified.category, NO_EXTENT)
    question = classified.question
    return ChosenQuestion(
        question.question_id,
        question.image_id,
        classified.category,
        question.detailed,
        question.question,
        question.answer,
        classified.true_option,
        classified.false_option,
        tuple(
            ChosenObject(reference.role, reference.id, reference.name, scene.objects[reference.id].box)
            for reference in classified.objects
        ),
        scene.size,
    )

"""A question about a scene of the mini world: its words, its program, and its record in GQA's question files."""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from crossflow.core.records import Step
from crossflow.mini.scenes import PLURALS, Attribute, Scene

KIND = "toy"
"""The kind of every toy."""

# GQA's detailed types, without the C of those whose answer is no -> their semantic and structural types.
_TYPES = {
    "categoryThat": ("cat", "query"),
    "categoryThatChoose": ("cat", "choose"),
    "chooseAttr": ("attr", "choose"),
    "directWhich": ("attr", "query"),
    "exist": ("obj", "verify"),
    "existOr": ("obj", "logical"),
    "existThatOr": ("obj", "logical"),
    "materialChoose": ("attr", "choose"),
    "positionQuery": ("attr", "query"),
    "positionVerify": ("attr", "verify"),
    "relChooser": ("rel", "choose"),
    "twoCommon": ("attr", "compare"),
    "twoSame": ("attr", "compare"),
    "verifyAttr": ("attr", "verify"),
    "verifyAttrs": ("attr", "logical"),
}


def _shown(step: Step) -> str:
    after = f" {list(step.dependencies)}" if step.dependencies else ""
    return f"{step.operation}: {step.argument}{after}"


@dataclass(frozen=True)
class MiniQuestion:
    """A question with its answer and program.

    Attributes:
        detailed: GQA's type.
        question, answer, full_answer: Text; answers in lower case.
        program: The steps.
        local, overall: GQA's groups (``local`` and ``global``).
    """

    detailed: str
    question: str
    answer: str
    full_answer: str
    program: tuple[Step, ...]
    local: str
    overall: str | None = None

    def record(self, question_id: str, scene: Scene) -> dict[str, Any]:
        """The question about its scene in the form of GQA's question files."""
        semantic, structural = _TYPES[self.detailed.removesuffix("C")]
        words = [word.strip("?,.") for word in self.question.split()]
        ids = scene.toy_ids
        named = ids | {PLURALS[name]: toy_id for name, toy_id in ids.items()}
        if self.answer in ids:
            named[KIND] = ids[self.answer]  # as in "Which toy is red?"
        return {
            "semantic": [asdict(step) for step in self.program],
            "entailed": [],
            "equivalent": [question_id],
            "question": self.question,
            "imageId": scene.image_id,
            "isBalanced": True,
            "groups": {"global": self.overall, "local": self.local},
            "answer": self.answer,
            "semanticStr": "->".join(map(_shown, self.program)),
            "annotations": {
                "answer": {"0": named[KIND]} if KIND in named else {},
                "question": {str(place): named[word] for place, word in enumerate(words) if word in named},
                "fullAnswer": {},
            },
            "types": {"detailed": self.detailed, "semantic": semantic, "structural": structural},
            "fullAnswer": self.full_answer,
        }


def phrase(attribute: Attribute, value: str, negated: bool = False) -> str:
    """An attribute's value as written after "is" or "are"."""
    return ("not " if negated else "") + ("made of " if attribute == "material" else "") + value


def in_any_order(rng: random.Random, first: str, second: str) -> dict[str, str]:
    """The two options of a wording, ``a`` and ``b``."""
    a, b = rng.sample((first, second), 2)
    return {"a": a, "b": b}


def find(scene: Scene, name: str, later: bool = False, kind: str | None = None) -> Step:
    """The step that finds the toy of a name, or nothing; a later one ends in a blank, as in GQA."""
    return Step("select", (), f"{kind or name} ({scene.toy_ids.get(name, '-')}){' ' * later}")


QuestionWriter = Callable[[Scene, random.Random], MiniQuestion | None]
"""Writes a question about a scene; None if the scene does not allow one."""

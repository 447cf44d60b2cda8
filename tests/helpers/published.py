"""The published program's own numbers, and how its names translate.

`SHIPPED` holds numbers on drawn images. The shared folder outside the project holds more, on images of GQA, in the same form.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "published_program"
FLOWS = {
    "Question->Last": "question->last",
    "Image->Last": "image->last",
    "Last->Last": "last->last",
    "Image->Question": "image->question",
    "Image Central Object->Question": "related->question",
    "Image Without Central Object->Question": "other->question",
}
WINDOWS = (1, 3, 4, 9)
TOLERANCE = 1e-5  # their own numbers are good to 5e-6


class Published:
    """One of the reference models with its twelve questions.

    Attributes:
        root: Data set in GQA's layout.
        model: Folder of the model.
        expected: File with what the published program printed.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "gqa"
        self.model = folder / "model"
        self.expected = folder / "expected.json"

    @cached_property
    def _contents(self) -> dict[str, Any]:
        return dict(json.loads(self.expected.read_text()))

    @property
    def layers(self) -> int:
        return int(self._contents["layers"])

    @cached_property
    def cases(self) -> dict[str, dict[str, Any]]:
        """Question id -> what the published program found."""
        return {case["question_id"]: case for case in self._contents["cases"]}

    @cached_property
    def missing(self) -> set[tuple[str, str]]:
        """Questions and flows with an empty source set.

        The published program prints a change of 0 % for them, which is no measurement.
        """
        return {
            (question_id, ours)
            for question_id, case in self.cases.items()
            for theirs, ours in FLOWS.items()
            if not case["ranges"][theirs]["source"]
        }

    def p_knockout(self, question_id: str, flow: str, window: int) -> list[float] | None:
        """Probabilities at every centre layer; None where the source set is empty."""
        if (question_id, flow) in self.missing:
            return None
        (theirs,) = [name for name, ours in FLOWS.items() if ours == flow]
        return list(self.cases[question_id]["windows"][theirs][str(window)])

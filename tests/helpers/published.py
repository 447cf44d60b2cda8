"""The published program's own numbers (outside the project), and how its names translate."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

FLOWS = {
    "Question->Last": "question->last",
    "Image->Last": "image->last",
    "Last->Last": "last->last",
    "Image->Question": "image->question",
    "Image Central Object->Question": "related->question",
    "Image Without Central Object->Question": "other->question",
}
WINDOWS = (1, 3, 4, 9)
# Source sets that are empty: the published program prints a change of 0 %, which is no measurement.
MISSING = {("12576698", "related->question"), ("1554449", "other->question")}
TOLERANCE = 1e-5  # their own numbers are good to 5e-6


class Published:
    """One of the reference models with its twelve questions.

    Attributes:
        root: Data set in GQA's layout.
        model: Folder of the model.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "gqa"
        self.model = folder / "model"
        self._expected = folder / "expected.json"

    @cached_property
    def layers(self) -> int:
        return int(json.loads(self._expected.read_text())["layers"])

    @cached_property
    def cases(self) -> dict[str, dict[str, Any]]:
        """Question id -> what the published program found."""
        return {case["question_id"]: case for case in json.loads(self._expected.read_text())["cases"]}

    def p_knockout(self, question_id: str, flow: str, window: int) -> list[float] | None:
        """Probabilities at every centre layer; None where the source set is empty."""
        if (question_id, flow) in MISSING:
            return None
        (theirs,) = [name for name, ours in FLOWS.items() if ours == flow]
        return list(self.cases[question_id]["windows"][theirs][str(window)])

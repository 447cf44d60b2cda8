"""The results of a study as its summaries read them: chosen questions, answers, knockouts, logit lens."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from crossflow.analysis.curves import Knockouts, knockouts
from crossflow.core.columns import QUESTIONS, SKIPPED
from crossflow.core.errors import CrossflowError
from crossflow.core.measures import KNOCKOUT
from crossflow.core.tables import ANSWERS, LENS, read_csv, read_parquet

Row = dict[str, Any]


class CurveName(NamedTuple):
    """A model and one of its windows."""

    model: str
    window: str


@dataclass(frozen=True)
class Results:
    """The results of one study.

    Attributes:
        results: Folder of the study's results.
        curves: Models with their windows, in the study's order.
        categories: Question categories, in the study's order.
        seed: Seed of the bootstrap.
    """

    results: Path
    curves: tuple[CurveName, ...]
    categories: tuple[str, ...]
    seed: int

    @property
    def models(self) -> list[str]:
        """Each model once."""
        return list(dict.fromkeys(model for model, _ in self.curves))

    @property
    def first_windows(self) -> dict[str, str]:
        """Model -> its first window."""
        first: dict[str, str] = {}
        for model, window in self.curves:
            first.setdefault(model, window)
        return first

    def chosen(self, category: str) -> list[str]:
        """Ids of the chosen questions. Raises CrossflowError where the table is absent or damaged, as all here do."""
        path = self.results / "questions" / f"{category}.csv"
        return [row["question_id"] for row in read_csv(path, QUESTIONS)]

    def skipped(self, model: str, category: str) -> list[str]:
        """Ids of the questions that a model could not be asked."""
        path = self.results / "answers" / model / f"{category}.skipped.csv"
        return [row["question_id"] for row in read_csv(path, SKIPPED)]

    def answers(self, model: str, category: str) -> pd.DataFrame:
        """A model's answers, with the columns of ``ANSWERS``."""
        return read_parquet(self.results / "answers" / model / f"{category}.parquet", ANSWERS)[0]

    def correct(self, model: str, category: str) -> set[str]:
        """Ids of the questions that a model answers correctly."""
        answers = self.answers(model, category)
        return set(answers["question_id"][answers["correct"]])

    def knockouts(self, model: str, window: str, category: str) -> Knockouts:
        """One knockout table, arranged by flow."""
        path = self.results / "knockout" / model / f"w{window}" / f"{category}.parquet"
        table, metadata = read_parquet(path, KNOCKOUT)
        if metadata.get("window") != window:
            raise CrossflowError(f"{path} is of window {metadata.get('window')}, expected {window}; delete it.")
        return knockouts(table, metadata, model=model, window=window, category=category)

    def all_knockouts(self) -> Iterator[Knockouts]:
        """Every knockout table: by model and window, then category."""
        for model, window in self.curves:
            for category in self.categories:
                yield self.knockouts(model, window, category)

    def logit_lens(self, model: str, category: str) -> tuple[pd.DataFrame, int]:
        """A model's logit lens, with the columns of ``LENS``, and the number of its decoder layers."""
        table, metadata = read_parquet(self.results / "lens" / model / f"{category}.parquet", LENS)
        return table, int(metadata["layers"])

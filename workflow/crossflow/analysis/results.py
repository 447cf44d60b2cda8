"""The results of a study as its summaries read them: chosen questions, answers, knockouts, lenses."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from crossflow.analysis.curves import Knockouts, knockouts
from crossflow.core.columns import LATER_QUESTIONS, QUESTIONS, SKIPPED
from crossflow.core.errors import CrossflowError
from crossflow.core.image_lens import IMAGE_LENS, LENS_MAPS, LENS_WORDS
from crossflow.core.measures import HEADS, KNOCKOUT
from crossflow.core.patching import PAIR_OUTCOMES, PATCHING
from crossflow.core.tables import ANSWERS, LENS, read_csv, read_parquet

Row = dict[str, Any]


class HeadTable(NamedTuple):
    """A model's knockouts in heads.

    Attributes:
        table: The columns of ``HEADS``.
        shape: Numbers of layers and of heads of the model.
        noise: Largest change of a probability by a no-op knockout, in percent; NaN without any.
    """

    table: pd.DataFrame
    shape: tuple[int, int]
    noise: float


class PatchedTable(NamedTuple):
    """A model's patches of pairs.

    Attributes:
        table: The columns of ``PATCHING``.
        sets: The position sets.
        layers: After how many layers they were patched, ascending.
    """

    table: pd.DataFrame
    sets: tuple[str, ...]
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Results:
    """The results of one study.

    Attributes:
        results: Folder of the study's results.
        curves: Models with their windows, each written model:window, in the study's order.
        categories: Question categories, in the order of the figures' panels.
        seed: Seed of the bootstrap and of random samples.
    """

    results: Path
    curves: tuple[str, ...]
    categories: tuple[str, ...]
    seed: int

    @property
    def windows(self) -> dict[str, list[str]]:
        """Model -> its windows.

        Raises:
            CrossflowError: a curve is not of the form model:window.
        """
        found: dict[str, list[str]] = {}
        for curve in self.curves:
            model, _, window = curve.partition(":")
            if not model or not window:
                raise CrossflowError(f"{curve!r} is not of the form model:window.")
            found.setdefault(model, []).append(window)
        return found

    def chosen(self, category: str) -> list[str]:
        """Ids of the chosen questions. Like all methods here, raises CrossflowError if a table is absent or damaged."""
        path = self.results / "questions" / f"{category}.csv"
        return [row["question_id"] for row in read_csv(path, QUESTIONS, later=LATER_QUESTIONS)]

    def skipped(self, model: str, category: str) -> list[str]:
        """Ids of the questions that were skipped for a model."""
        path = self.results / "answers" / model / f"{category}.skipped.csv"
        return [row["question_id"] for row in read_csv(path, SKIPPED)]

    def answers(self, model: str, category: str) -> pd.DataFrame:
        """A model's answers, with the columns of ``ANSWERS``."""
        return read_parquet(self.results / "answers" / model / f"{category}.parquet", ANSWERS)[0]

    def weights(self, model: str) -> str:
        """The hash of a model's files."""
        path = self.results / "answers" / model / f"{self.categories[0]}.parquet"
        return str(read_parquet(path, ANSWERS)[1]["model"])

    def knockouts(self, model: str, window: str, category: str) -> Knockouts:
        """One knockout table, arranged by flow."""
        path = self.results / "knockout" / model / f"w{window}" / f"{category}.parquet"
        table, metadata = read_parquet(path, KNOCKOUT)
        if metadata.get("window") != window:
            raise CrossflowError(
                f"{path} has window {metadata.get('window')}, expected {window}: delete it and run again."
            )
        return knockouts(table, metadata, model=model, window=window, category=category)

    def all_knockouts(self) -> Iterator[Knockouts]:
        """Every knockout table: by model and window, then category."""
        for model, windows in self.windows.items():
            for window in windows:
                for category in self.categories:
                    yield self.knockouts(model, window, category)

    def heads(self, model: str, category: str) -> HeadTable:
        """A model's knockouts in heads."""
        table, metadata = read_parquet(self.results / "heads" / model / f"{category}.parquet", HEADS)
        noise = metadata["noise_floor_percent"]
        shape = (int(metadata["layers"]), int(metadata["heads"]))
        return HeadTable(table, shape, math.nan if noise is None else float(noise))

    def patching(self, model: str, category: str) -> PatchedTable:
        """A model's patches of pairs."""
        table, metadata = read_parquet(self.results / "patching" / model / f"{category}.parquet", PATCHING)
        return PatchedTable(table, tuple(metadata["sets"]), tuple(metadata["patched_layers"]))

    def pair_outcomes(self, model: str, category: str) -> list[Row]:
        """What became of a model's pairs, with the columns of ``PAIR_OUTCOMES``."""
        return read_csv(self.results / "patching" / model / f"{category}.pairs.csv", PAIR_OUTCOMES)

    def logit_lens(self, model: str, category: str) -> tuple[pd.DataFrame, int]:
        """A model's logit lens, with the columns of ``LENS``, and the number of its decoder layers."""
        table, metadata = read_parquet(self.results / "lens" / model / f"{category}.parquet", LENS)
        return table, int(metadata["layers"])

    def image_lens(self, model: str, category: str) -> tuple[pd.DataFrame, pd.DataFrame, int]:
        """A model's lens over image and question: its places, with the columns of ``IMAGE_LENS``, its words at the last
        position, with those of ``LENS_WORDS``, and the number of its decoder layers.
        """
        folder = self.results / "image_lens" / model
        places, metadata = read_parquet(folder / f"{category}.parquet", IMAGE_LENS)
        return places, read_parquet(folder / f"{category}.words.parquet", LENS_WORDS)[0], int(metadata["layers"])

    def lens_maps(self, model: str, category: str) -> pd.DataFrame:
        """The maps of some questions, with the columns of ``LENS_MAPS``."""
        return read_parquet(self.results / "image_lens" / model / f"{category}.maps.parquet", LENS_MAPS)[0]

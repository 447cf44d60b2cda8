"""``crossflow summary``: aggregate answers and knockouts into tables with intervals."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from crossflow import summary, tables
from crossflow.errors import CrossflowError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, required=True, help="folder of the study's results")
    parser.add_argument("--curves", nargs="+", required=True, metavar="MODEL:WINDOW", help="models with their windows")
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--seed", type=int, required=True, help="seed of the bootstrap")


def run(arguments: argparse.Namespace) -> None:
    """Write effects.csv, answers.csv and counts.csv into the study's ``summary`` folder, and metrics.json beside it.

    Raises:
        CrossflowError: a table is absent or does not fit the others.
    """
    results: Path = arguments.results
    curves = _curves(arguments.curves)
    effects: list[dict[str, str]] = []
    answers: list[dict[str, str]] = []
    counts: list[dict[str, str]] = []
    chosen = {
        category: _ids(results / "questions" / f"{category}.csv", tables.QUESTIONS) for category in arguments.categories
    }
    answered: dict[tuple[str, str], pd.Series[str]] = {}
    for model in dict.fromkeys(model for model, _ in curves):
        for category in arguments.categories:
            table, _ = tables.read_parquet(results / "answers" / model / f"{category}.parquet", tables.ANSWERS)
            answered[model, category] = table["question_id"]
            answers.append(summary.accuracy(table, model=model, category=category, seed=arguments.seed))
    for model, window in curves:
        for category in arguments.categories:
            path = results / "knockout" / model / f"w{window}" / f"{category}.parquet"
            table, metadata = tables.read_parquet(path, tables.KNOCKOUT)
            if metadata.get("window") != window:
                raise CrossflowError(f"{path} is of window {metadata.get('window')}, expected {window}; delete it.")
            knockouts = summary.knockouts(table, metadata, model=model, window=window, category=category)
            effects.extend(summary.effects(knockouts, arguments.seed))
            skipped = _ids(results / "answers" / model / f"{category}.skipped.csv", tables.SKIPPED)
            counts.extend(
                summary.counts(
                    knockouts,
                    chosen=chosen[category],
                    skipped=skipped,
                    answered=list(answered[model, category]),
                )
            )
    folder = results / "summary"
    tables.write_csv(folder / "effects.csv", tables.EFFECTS, effects)
    tables.write_csv(folder / "answers.csv", tables.ACCURACY, answers)
    tables.write_csv(folder / "counts.csv", tables.COUNTS, counts)
    tables.write_json(results / "metrics.json", summary.metrics(effects, answers))


def _curves(texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        model, colon, window = text.partition(":")
        if not (model and colon and window):
            raise CrossflowError(f"--curves takes MODEL:WINDOW, not {text!r}.")
        pairs.append((model, window))
    return pairs


def _ids(path: Path, columns: Sequence[str]) -> list[str]:
    return [row["question_id"] for row in tables.read_csv(path, columns)]

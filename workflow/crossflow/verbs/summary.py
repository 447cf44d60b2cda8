"""``crossflow summary``: aggregate answers and knockouts into tables with intervals."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from crossflow import paired, summary, tables
from crossflow.curves import Knockouts, knockouts
from crossflow.errors import CrossflowError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--results", type=Path, required=True, help="folder of the study's results")
    parser.add_argument("--curves", nargs="+", required=True, metavar="MODEL:WINDOW", help="models with their windows")
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--seed", type=int, required=True, help="seed of the bootstrap")


def run(arguments: argparse.Namespace) -> None:
    """Write the tables into the study's ``summary`` folder, and metrics.json beside it.

    Raises:
        CrossflowError: a table is absent or does not fit the others.
    """
    results: Path = arguments.results
    seed: int = arguments.seed
    curves = read_curve_names(arguments.curves)
    models = list(dict.fromkeys(model for model, _ in curves))
    rows: dict[str, list[dict[str, str]]] = {
        name: [] for name in ("changes", "answers", "baselines", "counts", "noise", "comparisons")
    }
    for category in arguments.categories:
        chosen = _ids(results / "questions" / f"{category}.csv", tables.QUESTIONS)
        answers = {model: _answers(results, model, category) for model in models}
        correct = {model: set(table["question_id"][table["correct"]]) for model, table in answers.items()}
        shared = set.intersection(*correct.values())
        for model, table in answers.items():
            rows["answers"].append(summary.accuracy(table, model=model, category=category, seed=seed))
            rows["baselines"].extend(summary.baselines(table, model=model, category=category, seed=seed))
        found: dict[str, list[Knockouts]] = {model: [] for model in models}
        for model, window in curves:
            knocked_out = read_knockouts(results, model, window, category)
            found[model].append(knocked_out)
            answered = list(answers[model]["question_id"])
            strata = {"correct": correct[model], "wrong": set(answered) - correct[model]}
            strata |= {"shared": shared} if len(models) > 1 else {}
            rows["changes"].extend(summary.summarise(knocked_out, strata, seed))
            skipped = _ids(results / "answers" / model / f"{category}.skipped.csv", tables.SKIPPED)
            rows["counts"].extend(summary.counts(knocked_out, chosen=chosen, skipped=skipped, answered=answered))
            rows["noise"].append(summary.noise(knocked_out))
            rows["comparisons"].extend(paired.flow_pairs(knocked_out, seed))
        for corresponding in zip(*found.values(), strict=False):
            rows["comparisons"].extend(paired.model_pairs({each.model: each for each in corresponding}, seed))

    # By model, then category, as the study lists them.
    order = {pair: place for place, pair in enumerate((m, w, c) for m, w in curves for c in arguments.categories)}
    rows["changes"].sort(key=lambda row: order[row["model"], row["window"], row["category"]])
    rows["counts"].sort(key=lambda row: order[row["model"], row["window"], row["category"]])
    for name in ("answers", "baselines"):
        rows[name].sort(key=lambda row: models.index(row["model"]))
    published = [row for row in rows["changes"] if (row["measure"], row["stratum"]) == ("change_percent", summary.ALL)]
    others = [row for row in rows["changes"] if (row["measure"], row["stratum"]) != ("change_percent", summary.ALL)]
    bands = [row | {"low": row["band_low"], "high": row["band_high"]} for row in published]
    effects = [{name: row[name] for name in tables.EFFECTS} for row in published]
    folder = results / "summary"
    for name, columns, content in (
        ("effects", tables.EFFECTS, effects),
        ("measures", tables.MEASURES, others),
        ("bands", tables.BANDS, bands),
        ("answers", tables.ACCURACY, rows["answers"]),
        ("baselines", tables.BASELINE_ANSWERS, rows["baselines"]),
        ("counts", tables.COUNTS, rows["counts"]),
        ("noise", tables.NOISE, rows["noise"]),
        ("comparisons", tables.PAIRED, rows["comparisons"]),
    ):
        tables.write_csv(
            folder / f"{name}.csv", columns, [{column: row[column] for column in columns} for row in content]
        )
    tables.write_json(results / "metrics.json", summary.metrics(effects, rows["answers"]))


def read_knockouts(results: Path, model: str, window: str, category: str) -> Knockouts:
    """Read and arrange one knockout table of a study.

    Raises:
        CrossflowError: it is absent, damaged or of another window.
    """
    path = results / "knockout" / model / f"w{window}" / f"{category}.parquet"
    table, metadata = tables.read_parquet(path, tables.KNOCKOUT)
    if metadata.get("window") != window:
        raise CrossflowError(f"{path} is of window {metadata.get('window')}, expected {window}; delete it.")
    return knockouts(table, metadata, model=model, window=window, category=category)


def read_curve_names(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Models with their windows, written ``model:window``.

    Raises:
        CrossflowError: a text of another form.
    """
    pairs = []
    for text in texts:
        model, colon, window = text.partition(":")
        if not (model and colon and window):
            raise CrossflowError(f"--curves takes MODEL:WINDOW, not {text!r}.")
        pairs.append((model, window))
    return pairs


def _answers(results: Path, model: str, category: str) -> pd.DataFrame:
    table, _ = tables.read_parquet(results / "answers" / model / f"{category}.parquet", tables.ANSWERS)
    return table


def _ids(path: Path, columns: Sequence[str]) -> list[str]:
    return [row["question_id"] for row in tables.read_csv(path, columns)]

"""Accuracies of a study: answers.csv, with the image and with it removed; baselines.csv, with every baseline."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from crossflow.analysis.bootstrap import clustered_mean
from crossflow.analysis.results import Results, Row
from crossflow.core.errors import CrossflowError
from crossflow.core.seeds import derived_seed
from crossflow.core.tables import BASELINES


def accuracy(answers: pd.DataFrame, *, model: str, category: str, seed: int) -> dict[str, Any]:
    """Give the row of answers.csv: the fraction (0..1) of questions that are answered correctly.

    With the image and with the image removed, from the same questions and the same resamples of images.

    Args:
        answers: The columns of ``tables.ANSWERS``.
        model, category, seed: Of the study.

    Raises:
        CrossflowError: a question has no verdict.
    """
    verdicts = answers[["correct", "correct_blind"]]
    if verdicts.isna().to_numpy().any():
        raise CrossflowError(f"Answers of {model}, {category}: a question is neither correct nor wrong.")
    images = answers["image_id"].to_numpy(dtype=object)
    estimate = clustered_mean(verdicts.to_numpy(dtype=float), images, derived_seed(seed, model, category, "accuracy"))
    row = {"model": model, "category": category, "n": len(answers)}
    for column, suffix in enumerate(("", "_blind")):
        row[f"accuracy{suffix}"] = estimate.mean[column]
        row[f"low{suffix}"] = estimate.low[column]
        row[f"high{suffix}"] = estimate.high[column]
    return row


def baselines(answers: pd.DataFrame, *, model: str, category: str, seed: int) -> Iterator[dict[str, Any]]:
    """Give the rows of baselines.csv: accuracy with the image and without, and the paired drop; fractions, 0..1.

    Args:
        answers: The columns of ``tables.ANSWERS``.
        model, category, seed: Of the study.
    """
    columns = {"seen": "correct", "removed": "correct_blind"} | {name: f"correct_{name}" for name in BASELINES}
    for baseline, column in columns.items():
        asked = answers[answers[column].notna()]
        if asked.empty:
            continue
        verdicts = asked[["correct", column]].to_numpy(dtype=float)
        values = np.stack([verdicts[:, 1], verdicts[:, 0] - verdicts[:, 1]], axis=1)
        images = asked["image_id"].to_numpy(dtype=object)
        estimate = clustered_mean(values, images, derived_seed(seed, model, category, "accuracy"))
        yield {
            "model": model,
            "category": category,
            "baseline": baseline,
            "n": len(asked),
            "accuracy": estimate.mean[0],
            "low": estimate.low[0],
            "high": estimate.high[0],
            "drop": estimate.mean[1],
            "drop_low": estimate.low[1],
            "drop_high": estimate.high[1],
        }


def tables(results: Results) -> dict[str, Iterable[Row]]:
    """Rows of answers.csv and baselines.csv.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    rows: dict[str, list[Row]] = {"answers": [], "baselines": []}
    for model in results.windows:
        for category in results.categories:
            answers = results.answers(model, category)
            rows["answers"].append(accuracy(answers, model=model, category=category, seed=results.seed))
            rows["baselines"].extend(baselines(answers, model=model, category=category, seed=results.seed))
    return {**rows}

"""From questions, answers and curves to the summary tables.

Pure functions, tables in and rows out. Every question that was chosen is in exactly one place:
``questions = skipped + excluded + missing + n``.

skipped
    Broken: it could not be answered.
excluded
    Answered, but not selected for knockouts (by ``answers: correct | wrong | all``).
missing
    Knocked out in other flows; this flow blocks no edge, for its source set is empty.
n
    Counted in the curve.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from crossflow.curves import MEASURES, Curve, Knockouts
from crossflow.errors import CrossflowError
from crossflow.seeds import derived_seed
from crossflow.statistics import clustered_mean
from crossflow.tables import BASELINES

ALL = "all"
# What is told of strata, too.
STRATIFIED = ("change_percent", "logprob_change")


def number(value: float) -> str:
    """Write a number with ten significant digits, past which machines may differ; NaN is an empty cell."""
    return "" if math.isnan(value) else f"{value + 0.0:.10g}"


def _chunks(curve: Curve) -> Iterator[tuple[np.ndarray, list[str]]]:
    """The measures of a curve, those of the same questions together: which questions, which measures."""
    together: dict[bytes, tuple[np.ndarray, list[str]]] = {}
    for name, values in curve.values.items():
        has = np.isfinite(values).all(axis=1)
        together.setdefault(has.tobytes(), (has, []))[1].append(name)
    yield from together.values()


def rows_of_curve(
    table: Knockouts, flow: str, curve: Curve, stratum: str, measures: Collection[str], seed: int
) -> Iterator[dict[str, str]]:
    """Give the rows of one curve for measures.csv, with the ends of the simultaneous band beside them.

    A flow without any question that counts has its rows, with n = 0 and no numbers; a measure that no question has is
    left out. Each curve has a seed of its own, so that another flow, category, window or model changes no interval.
    """
    drawn = derived_seed(seed, table.model, table.category, flow, table.window)
    wanted = curve._replace(values={name: curve.values[name] for name in measures})
    for has, names in _chunks(wanted):
        n = int(has.sum())
        if not n and len(has):
            continue
        values = [curve.values[name][has] for name in names]
        # Bands are of one curve: measures do not share them.
        estimates = [clustered_mean(each, curve.pictures[has], drawn) for each in values]
        for name, each, estimate in zip(names, values, estimates, strict=True):
            median = np.median(each, axis=0) if n else np.full(len(curve.centres), np.nan)
            for column, layer in enumerate(curve.centres):
                yield {
                    "model": table.model,
                    "category": table.category,
                    "flow": flow,
                    "window": table.window,
                    "layer": str(layer),
                    "n": str(n),
                    "mean": number(estimate.mean[column]),
                    "low": number(estimate.low[column]),
                    "high": number(estimate.high[column]),
                    "median": number(median[column]),
                    "measure": name,
                    "stratum": stratum,
                    "band_low": number(estimate.band_low[column]),
                    "band_high": number(estimate.band_high[column]),
                }


def summarise(table: Knockouts, strata: Mapping[str, Collection[str]], seed: int) -> Iterator[dict[str, str]]:
    """Give all rows of a knockout table: every measure of every flow, and the changes of each stratum.

    Args:
        table: The knockouts.
        strata: Name -> its questions; a stratum that leaves out none of those knocked out is not told again.
        seed: The study's seed.
    """
    apart = {name: ids for name, ids in strata.items() if not table.question_ids <= set(ids)}
    for flow, curve in table.curves.items():
        yield from rows_of_curve(table, flow, curve, ALL, MEASURES, seed)
        for name, ids in apart.items():
            yield from rows_of_curve(table, flow, curve.among(ids), name, STRATIFIED, seed)


def accuracy(answers: pd.DataFrame, *, model: str, category: str, seed: int) -> dict[str, str]:
    """Give the row of answers.csv: the fraction (0..1) of the answered questions that is answered correctly.

    With the picture and with the picture removed, from the same questions and the same resamples of pictures.

    Args:
        answers: The columns of ``tables.ANSWERS``.
        model: Slug of the model.
        category: The questions' category.
        seed: The study's seed.

    Raises:
        CrossflowError: a question has no verdict.
    """
    verdicts = answers[["correct", "correct_blind"]]
    if verdicts.isna().to_numpy().any():
        raise CrossflowError(f"Answers of {model}, {category}: a question is neither correct nor wrong.")
    pictures = answers["image_id"].to_numpy(dtype=object)
    estimate = clustered_mean(verdicts.to_numpy(dtype=float), pictures, derived_seed(seed, model, category, "accuracy"))
    row = {"model": model, "category": category, "n": str(len(answers))}
    for column, suffix in enumerate(("", "_blind")):
        row[f"accuracy{suffix}"] = number(estimate.mean[column])
        row[f"low{suffix}"] = number(estimate.low[column])
        row[f"high{suffix}"] = number(estimate.high[column])
    return row


def baselines(answers: pd.DataFrame, *, model: str, category: str, seed: int) -> Iterator[dict[str, str]]:
    """Give the rows of baselines.csv: accuracy with the picture and without, and the paired drop; fractions, 0..1.

    Args:
        answers: The columns of ``tables.ANSWERS``.
        model: Slug of the model.
        category: The questions' category.
        seed: The study's seed.
    """
    columns = {"seen": "correct", "removed": "correct_blind"} | {name: f"correct_{name}" for name in BASELINES}
    for baseline, column in columns.items():
        asked = answers[answers[column].notna()]
        if asked.empty:
            continue
        verdicts = asked[["correct", column]].to_numpy(dtype=float)
        values = np.stack([verdicts[:, 1], verdicts[:, 0] - verdicts[:, 1]], axis=1)
        pictures = asked["image_id"].to_numpy(dtype=object)
        estimate = clustered_mean(values, pictures, derived_seed(seed, model, category, "accuracy"))
        yield {
            "model": model,
            "category": category,
            "baseline": baseline,
            "n": str(len(asked)),
            "accuracy": number(estimate.mean[0]),
            "low": number(estimate.low[0]),
            "high": number(estimate.high[0]),
            "drop": number(estimate.mean[1]),
            "drop_low": number(estimate.low[1]),
            "drop_high": number(estimate.high[1]),
        }


def noise(table: Knockouts) -> dict[str, str]:
    """Give the row of noise.csv: what a knockout of nothing changes at most, as a probability and in percent of it."""
    probability, percent = table.noise
    return {
        "model": table.model,
        "category": table.category,
        "window": table.window,
        # Rounding differs between machines: one digit says its size.
        "probability": "" if math.isnan(probability) else f"{probability:.0e}",
        "change_percent": "" if math.isnan(percent) else f"{percent:.0e}",
    }


def counts(
    table: Knockouts, *, chosen: Sequence[str], skipped: Collection[str], answered: Collection[str]
) -> Iterator[dict[str, str]]:
    """Give the rows of counts.csv: where every chosen question went, per flow.

    Args:
        table: The knockouts.
        chosen: Ids of the chosen questions.
        skipped: Ids of the broken ones.
        answered: Ids of the answered ones.

    Raises:
        CrossflowError: a question is nowhere, in two places, or was never chosen.
    """
    where = f"{table.model}, window {table.window}, {table.category}"
    places = [*skipped, *answered]
    if sorted(places) != sorted(chosen):
        astray = sorted(set(places) ^ set(chosen)) or sorted(id for id in set(places) if places.count(id) > 1)
        raise CrossflowError(
            f"{where}: {len(chosen)} questions were chosen, {len(skipped)} skipped and {len(answered)} "
            f"answered, which does not fit ({', '.join(astray[:3])}); delete these answers and run again."
        )
    strangers = sorted(table.question_ids.difference(answered))
    if strangers:
        raise CrossflowError(
            f"{where}: question {strangers[0]} was knocked out but has no answer; delete these knockouts and run again."
        )
    excluded = len(answered) - len(table.question_ids)
    for flow, curve in table.curves.items():
        n = len(curve.pictures)
        if len(chosen) != len(skipped) + excluded + curve.missing + n:
            raise CrossflowError(
                f"{where}, {flow}: {len(chosen)} questions, but {len(skipped)} skipped + {excluded} excluded "
                f"+ {curve.missing} missing + {n} counted."
            )
        yield {
            "model": table.model,
            "category": table.category,
            "window": table.window,
            "flow": flow,
            "questions": str(len(chosen)),
            "skipped": str(len(skipped)),
            "excluded": str(excluded),
            "missing": str(curve.missing),
            "n": str(n),
        }


def metrics(effects: Sequence[Mapping[str, str]], answers: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The few numbers by which two runs are compared: model -> name -> number, categories weighing the same.

    ``accuracy`` and ``accuracy_blind`` are fractions; each flow has the strongest mean change of all centre layers, in
    percent, and that layer, in the model's first window. Random controls, and flows without a question that counts, are
    left out.
    """
    found: dict[str, Any] = {}
    accuracies = pd.DataFrame(answers).astype({"accuracy": float, "accuracy_blind": float})
    changes = pd.DataFrame(effects).astype({"layer": int})
    changes["mean"] = pd.to_numeric(changes["mean"])
    for model in dict.fromkeys(str(slug) for slug in accuracies["model"]):
        means = accuracies.loc[accuracies["model"] == model, ["accuracy", "accuracy_blind"]].mean()
        found[model] = {name: round(float(mean), 4) for name, mean in means.items()}
        rows = changes[changes["model"] == model]
        rows = rows[rows["window"] == rows["window"].iloc[0]]
        for flow in dict.fromkeys(str(flow) for flow in rows["flow"] if "~" not in flow):
            curve = rows[rows["flow"] == flow].groupby("layer")["mean"].mean().dropna()
            if len(curve):
                layer = int(curve.abs().to_numpy().argmax())
                found[model][flow] = {"change": round(float(curve.iloc[layer]), 2), "layer": int(curve.index[layer])}
    return found

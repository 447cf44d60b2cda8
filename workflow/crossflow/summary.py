"""From the tables of questions, answers and knockouts to the summary tables.

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
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from crossflow.errors import CrossflowError
from crossflow.statistics import clustered_mean, derived_seed


class Curve(NamedTuple):
    """What one flow did to the questions that were knocked out.

    Attributes:
        change: Percent, one row per question that counts and one column per centre layer.
        pictures: Picture of each question that counts.
        missing: Number of questions for which the flow blocks no edge.
    """

    change: Float[np.ndarray, "questions layers"]
    pictures: Shaped[np.ndarray, " questions"]
    missing: int


class Knockouts(NamedTuple):
    """One knockout table: a model, a window, a category.

    Attributes:
        layers: Number of decoder layers.
        question_ids: The questions that were knocked out.
        curves: Flow -> curve, in the study's order.
    """

    model: str
    window: str
    category: str
    layers: int
    question_ids: frozenset[str]
    curves: Mapping[str, Curve]


def number(value: float) -> str:
    """Write a number with ten significant digits, past which machines may differ; NaN is an empty cell."""
    return "" if math.isnan(value) else f"{value + 0.0:.10g}"


def _curve(rows: pd.DataFrame, flow: str, layers: int, where: str) -> Curve:
    rows = rows.sort_values(["question_id", "layer"], kind="stable")
    ids = rows["question_id"].to_numpy(dtype=object)
    centres = rows["layer"].to_numpy(dtype=int)
    if len(rows) % layers or (centres != np.tile(np.arange(layers), len(rows) // layers)).any():
        raise CrossflowError(f"{where}: {flow} does not have every centre layer 0..{layers - 1} once per question.")
    if (ids.reshape(-1, layers) != ids[::layers, None]).any():
        raise CrossflowError(f"{where}: the layers of {flow} belong to different questions.")
    present = rows["edges"].to_numpy(dtype=int).reshape(-1, layers).min(axis=1, initial=1) > 0
    change = rows["change_percent"].to_numpy(dtype=float).reshape(-1, layers)[present]
    if not np.isfinite(change).all():
        broken = ids[::layers][present][~np.isfinite(change).all(axis=1)][0]
        raise CrossflowError(f"{where}: {flow} of question {broken} blocks edges but has no finite change.")
    pictures = rows["image_id"].to_numpy(dtype=object)[::layers][present]
    return Curve(change, pictures, int((~present).sum()))


def knockouts(table: pd.DataFrame, metadata: Mapping[str, Any], *, model: str, window: str, category: str) -> Knockouts:
    """Arrange a knockout table by flow.

    Args:
        table: The columns of ``tables.KNOCKOUT``, in any order of rows.
        metadata: The table's ``layers``, ``flows`` and ``selected`` (number of questions knocked out).
        model: Slug of the model.
        window: The window, as text.
        category: The questions' category.

    Raises:
        CrossflowError: a row is absent or twice, a change is not finite although edges were blocked, or the
            metadata do not fit.
    """
    where = f"Knockouts of {model}, window {window}, {category}"
    try:
        layers, flows, selected = int(metadata["layers"]), list(metadata["flows"]), int(metadata["selected"])
    except KeyError as error:
        raise CrossflowError(f"{where}: the table's metadata lack {error}; delete the table and run again.") from error
    if layers < 1:
        raise CrossflowError(f"{where}: the metadata name {layers} layers.")
    question_ids = frozenset(table["question_id"])
    if len(question_ids) != selected or len(table) != selected * len(flows) * layers:
        raise CrossflowError(
            f"{where}: {len(table)} rows of {len(question_ids)} questions, expected {selected} questions x "
            f"{len(flows)} flows x {layers} layers; delete the table and run again."
        )
    curves = {flow: _curve(table[table["flow"] == flow], flow, layers, where) for flow in flows}
    for flow, curve in curves.items():
        if len(curve.pictures) + curve.missing != selected:
            raise CrossflowError(f"{where}: {flow} does not have a row for each of {selected} questions.")
    return Knockouts(model, window, category, layers, question_ids, curves)


def effects(table: Knockouts, seed: int) -> Iterator[dict[str, str]]:
    """Give the rows of effects.csv: the change in percent of each flow and centre layer, over questions.

    A flow without any question that counts has its rows, with n = 0 and no numbers. Each curve has a seed of
    its own, so that another flow, category, window or model changes no interval.
    """
    for flow, curve in table.curves.items():
        n = len(curve.pictures)
        estimate = clustered_mean(
            curve.change, curve.pictures, derived_seed(seed, table.model, table.category, flow, table.window)
        )
        median = np.median(curve.change, axis=0) if n else np.full(table.layers, np.nan)
        for layer in range(table.layers):
            yield {
                "model": table.model,
                "category": table.category,
                "flow": flow,
                "window": table.window,
                "layer": str(layer),
                "n": str(n),
                "mean": number(estimate.mean[layer]),
                "low": number(estimate.low[layer]),
                "high": number(estimate.high[layer]),
                "median": number(median[layer]),
            }


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
    percent, and that layer, in the model's first window. Flows without a question that counts are left out.
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
        for flow in dict.fromkeys(str(flow) for flow in rows["flow"]):
            curve = rows[rows["flow"] == flow].groupby("layer")["mean"].mean().dropna()
            if len(curve):
                layer = int(curve.abs().to_numpy().argmax())
                found[model][flow] = {"change": round(float(curve.iloc[layer]), 2), "layer": int(curve.index[layer])}
    return found

"""A few numbers for comparing two runs: metrics.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from crossflow.analysis.tables import ACCURACY, EFFECTS
from crossflow.core.files import write_json
from crossflow.core.tables import read_csv


def metrics(effects: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A few numbers for comparing two runs: model -> name -> number; categories have equal weights.

    ``accuracy`` and ``accuracy_blind`` are fractions; each flow has the strongest mean change of all centre layers, in
    percent, and that layer, in the model's first window. Random controls, and flows without a question that counts, are
    left out.
    """
    found: dict[str, Any] = {}
    accuracies, changes = pd.DataFrame(answers), pd.DataFrame(effects)
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


def write_metrics(effects: Path, answers: Path, output: Path) -> None:
    """Write a few numbers for comparing two runs.

    Args:
        effects: The summary table effects.csv.
        answers: The summary table answers.csv.
        output: The numbers (JSON).

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    write_json(output, metrics(read_csv(effects, EFFECTS), read_csv(answers, ACCURACY)))

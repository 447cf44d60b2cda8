"""Curves of flows for single questions: in the examples, in a trace and in a notebook."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from crossflow.figures.style import arrow, look_of

Curves = Mapping[str, tuple[Sequence[int], Float[np.ndarray, " layers"]]]
"""Flow -> layers and numbers."""


def mean_curves(table: pd.DataFrame, *, names: str, numbers: str) -> Iterator[tuple[str, tuple[list[int], np.ndarray]]]:
    """The curves of a result table, means over its questions; those without a number are left out.

    Args:
        table: Rows with a column ``layer``.
        names: Column that names the curves.
        numbers: Column of the numbers.
    """
    for name, rows in table.groupby(names, sort=False):
        mean = rows.groupby("layer")[numbers].mean().dropna()
        if len(mean):
            yield str(name), (mean.index.tolist(), mean.to_numpy(dtype=float))


def draw_flows(axes: Axes, curves: Curves) -> None:
    """Draw curves; each name has the same look in every figure."""
    for name, (layers, numbers) in curves.items():
        step = max(1, len(layers) // 8)
        axes.plot(layers, numbers, **look_of(name).line, markevery=step, label=arrow(name))
    axes.axhline(0, color="0.55", linewidth=0.6, zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))

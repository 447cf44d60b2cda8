"""Knockouts in random subsets of heads: head_subsets.csv, what each head adds on average over the others.

A linear model of the change on which heads are knocked out, with an intercept for each question, is fitted by least
squares. Where each head is in a subset with probability 1/2, independently of the others, a head's coefficient
estimates its Banzhaf value: the mean change by knocking it out in addition to a random subset of the other heads. So a
head counts also if another one can stand in for it. Sources: J. Kim et al., Interpreting attention heads for
image-to-text information flow in large vision-language models (arXiv 2509.17588): a linear model of head ablations; P.
L. Hammer and R. Holzman, Approximations of pseudo-Boolean functions, ZOR 36 (1992) 3-21: least squares give Banzhaf
values.

Intervals are those of the jackknife over images: J. G. MacKinnon, M. O. Nielsen and M. D. Webb, Cluster-robust
inference: a guide to empirical practice, J. Econometrics 232 (2023) 272-299, variance CV3.
"""

import logging
from collections.abc import Iterable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from crossflow.analysis.bootstrap import LEVEL
from crossflow.analysis.results import Results, Row
from crossflow.core.errors import CrossflowError
from crossflow.core.head_subsets import read_subsets

log = logging.getLogger(__name__)

FEWEST_PER_HEAD = 3
"""Fewest subsets, beyond one for each question, per coefficient."""


class Sample(NamedTuple):
    """Knockouts of one flow in random subsets, centred within each question.

    Attributes:
        blocked: Whether each head was knocked out, less the question's mean.
        change: Change of the answer's probability in percent, less the question's mean.
        images: Each knockout's image.
        questions: Number of questions.
    """

    blocked: Float[np.ndarray, "knockouts heads"]
    change: Float[np.ndarray, " knockouts"]
    images: Shaped[np.ndarray, " knockouts"]
    questions: int

    @classmethod
    def of(cls, blocked: np.ndarray, rows: pd.DataFrame) -> "Sample":
        """Centre the rows of one flow.

        Args:
            blocked: Whether each head was knocked out: (rows, heads).
            rows: Their other columns.
        """
        _, which, sizes = np.unique(rows["question_id"].to_numpy(dtype=str), return_inverse=True, return_counts=True)
        values = np.column_stack([blocked, rows["change_percent"].to_numpy(dtype=float)]).astype(float)
        sums = np.zeros((len(sizes), values.shape[1]))
        np.add.at(sums, which, values)
        centred = values - (sums / sizes[:, None])[which]
        return cls(centred[:, :-1], centred[:, -1], rows["image_id"].to_numpy(dtype=str), len(sizes))

    @property
    def is_enough(self) -> bool:
        """Whether a coefficient for each head can be estimated."""
        return bool(len(self.change) - self.questions >= FEWEST_PER_HEAD * self.blocked.shape[1])

    def of_images(self, images: Iterable[str]) -> "Sample":
        """The knockouts of some images."""
        chosen = np.isin(self.images, list(images))
        return Sample(self.blocked[chosen], self.change[chosen], self.images[chosen], 0)


class Fit(NamedTuple):
    """Coefficients and their 95 % intervals, in percent."""

    mean: Float[np.ndarray, " heads"]
    low: Float[np.ndarray, " heads"]
    high: Float[np.ndarray, " heads"]


def fit(sample: Sample) -> Fit:
    """Least squares, with intervals by the jackknife over images; NaN where there are too few subsets or images."""
    heads = sample.blocked.shape[1]
    nothing = np.full(heads, np.nan)
    if not sample.is_enough:
        return Fit(nothing, nothing, nothing)
    inverse = np.linalg.inv(sample.blocked.T @ sample.blocked)
    mean = inverse @ (sample.blocked.T @ sample.change)
    residual = sample.change - sample.blocked @ mean
    names = np.unique(sample.images)
    if len(names) < 2:
        return Fit(mean, nothing, nothing)
    shifts = np.empty((len(names), heads))
    for number, name in enumerate(names):
        of_image = sample.images == name
        blocked = sample.blocked[of_image]
        # The coefficients without this image, less those with it.
        left_out = np.linalg.solve(np.eye(len(blocked)) - blocked @ inverse @ blocked.T, residual[of_image])
        shifts[number] = -inverse @ (blocked.T @ left_out)
    error = np.sqrt((len(names) - 1) / len(names) * (shifts**2).sum(axis=0))
    width = NormalDist().inv_cdf((1 + LEVEL) / 2) * error
    return Fit(mean, mean - width, mean + width)


def explained(sample: Sample, seed: int) -> float:
    """The share of a question's variation between subsets that a fit to the other half of the images explains.

    1 if the changes of heads add up; less, if their effects depend on one another. NaN with too few subsets.
    """
    if not sample.is_enough:
        return float("nan")
    names = np.random.default_rng(seed).permutation(np.unique(sample.images))
    halves = [sample.of_images(part) for part in (names[::2], names[1::2])]
    left, total = 0.0, 0.0
    for fitted, held_out in (halves, halves[::-1]):
        if len(fitted.change) <= fitted.blocked.shape[1]:
            return float("nan")
        coefficients = np.linalg.lstsq(fitted.blocked, fitted.change, rcond=None)[0]
        left += float(((held_out.change - held_out.blocked @ coefficients) ** 2).sum())
        total += float((held_out.change**2).sum())
    return 1 - left / total if total else float("nan")


def _rows_of(table: pd.DataFrame, shape: tuple[int, int], where: str, seed: int) -> Iterable[Row]:
    """The rows of head_subsets.csv of one flow, without its names."""
    found = table[table["edges"] > 0]
    if not np.isfinite(found["change_percent"].to_numpy(dtype=float)).all():
        raise CrossflowError(f"{where}: a knockout that blocks edges has no finite change.")
    subsets = read_subsets(found["subset"], shape)
    drawn = np.argwhere(subsets.any(axis=0))
    sample = Sample.of(subsets[:, drawn[:, 0], drawn[:, 1]], found)
    if not sample.is_enough:
        log.warning(
            "%s: %d knockouts of %d questions are too few for %d heads; more subsets or questions give coefficients",
            where, len(found), sample.questions, len(drawn),
        )  # fmt: skip
    fitted, share = fit(sample), explained(sample, seed)
    shared: dict[str, Any] = {"n": sample.questions, "subsets": len(found), "explained": share}
    for column, (layer, head) in enumerate(drawn.tolist()):
        numbers = {name: values[column] for name, values in fitted._asdict().items()}
        yield {"layer": layer, "head": head, **shared, **numbers}


def tables(results: Results) -> dict[str, Iterable[Row]]:
    """Rows of head_subsets.csv.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    rows: list[Row] = []
    for model in results.windows:
        for category in results.categories:
            table, shape, _ = results.heads(model, category)
            for flow, found in table[table["subset"].notna()].groupby("flow", sort=False):
                named = {"model": model, "category": category, "flow": flow}
                where = f"Subsets of heads of {model}, {category}, {flow}"
                rows += [named | row for row in _rows_of(found, shape, where, results.seed)]
    return {"head_subsets": rows}

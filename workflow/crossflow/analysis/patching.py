"""Activation patching, summarised: how far a patch moves the margin towards the other run's.

The *share* of a position set after some layers is (m_base - m_patched) / (m_base - m_other), a ratio of means over
pairs, where m is the margin between the logits of the two answers: 0 if the patch changes nothing, 1 if it does all
that the other image does. ``both`` is the mean of the two directions. Intervals are percentiles of the cluster
bootstrap over images.

Where visual tokens hold the difference, their share falls over the layers, and that of the last position rises; the
layer at which it passes a half is a `crossflow.analysis.depth`. Of the sets between them, the largest share is stated,
with the bias of its choice subtracted.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from crossflow.analysis.bootstrap import clustered_mean, percentiles, resampled_means, unbiased
from crossflow.analysis.depth import crossings
from crossflow.analysis.results import PatchedTable, Results, Row
from crossflow.core.flows import IMAGE_SETS
from crossflow.core.patching import DIRECTIONS, PATCHED
from crossflow.core.seeds import derived_seed

BOTH, TOGETHER = "both", "all"
HALF = 0.5
"""The share at which a set holds the difference, or no longer does."""
LEAST = 0.05
"""A set whose largest share is smaller holds next to nothing, so no layer is stated."""
UNTIL, FROM, MOST = "until", "from", "most"
LAST = "last"


class Moved(NamedTuple):
    """How far the patches of one set moved the margins of some pairs.

    Attributes:
        layers: After how many layers the set was patched, ascending.
        images: Each question's image.
        moved: m_base - m_patched, in nats.
        apart: m_base - m_other, in nats.
        missing: Pairs for which the set is missing.
    """

    layers: tuple[int, ...]
    images: Shaped[np.ndarray, " pairs"]
    moved: Float[np.ndarray, "pairs layers"]
    apart: Float[np.ndarray, " pairs"]
    missing: int

    def shares(self, means: Float[np.ndarray, "samples columns"]) -> Float[np.ndarray, "samples layers"]:
        """Shares of means of `columns`."""
        return np.asarray(means[:, :-1] / means[:, -1:])

    @property
    def columns(self) -> Float[np.ndarray, "pairs columns"]:
        """What is averaged: ``moved``, and ``apart`` as the last column."""
        return np.concatenate([self.moved, self.apart[:, None]], axis=1)


class Shares(NamedTuple):
    """The shares of a set, with the ends of their 95 % intervals and their resamples; NaN where they are missing."""

    share: Float[np.ndarray, " layers"]
    low: Float[np.ndarray, " layers"]
    high: Float[np.ndarray, " layers"]
    samples: Float[np.ndarray, "resamples layers"] | None


def moved_by_set(patched: PatchedTable) -> dict[tuple[str, str], Moved]:
    """Direction, or `BOTH`, and set -> how far its patches moved the margins; without a pair, all sets are empty."""
    found: dict[tuple[str, str], Moved] = {}
    table, layers = patched.table, patched.layers
    for name in patched.sets:
        of_directions = []
        for direction in DIRECTIONS:
            rows = table[(table["set"] == name) & (table["direction"] == direction)]
            wide = rows.pivot(index="question_id", columns="layer", values="margin_patched").reindex(columns=layers)
            ends = rows.drop_duplicates("question_id").set_index("question_id").loc[wide.index]
            there = (ends["positions"] > 0).to_numpy()
            base = ends["margin_base"].to_numpy(dtype=float)[there]
            moved = Moved(
                layers,
                ends["image_id"].to_numpy(dtype=object)[there],
                base[:, None] - wide.to_numpy(dtype=float)[there],
                base - ends["margin_other"].to_numpy(dtype=float)[there],
                int((~there).sum()),
            )
            found[direction, name] = moved
            of_directions.append(moved)
        one, other = of_directions
        # The margins of the two directions are each other's negatives: they are as far apart.
        found[BOTH, name] = one._replace(moved=(one.moved + other.moved) / 2)
    return found


def pooled(parts: Sequence[Moved]) -> Moved:
    """The pairs of several categories as one."""
    return Moved(
        parts[0].layers,
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.moved for part in parts]),
        np.concatenate([part.apart for part in parts]),
        sum(part.missing for part in parts),
    )


def shares_of(moved: Moved, seed: int) -> Shares:
    """The shares of a set; pairs of fewer than two images have no intervals."""
    nothing = np.full(len(moved.layers), np.nan)
    if not len(moved.apart):
        return Shares(nothing, nothing, nothing, None)
    share = moved.shares(moved.columns.mean(axis=0, keepdims=True))[0]
    if len(np.unique(moved.images)) < 2:
        return Shares(share, nothing, nothing, None)
    samples = moved.shares(resampled_means(moved.columns, moved.images, seed))
    return Shares(share, *percentiles(samples), samples)


def point_of(name: str) -> str:
    """What is stated of a set: until where it holds the difference, from where on, or how much of it at most."""
    return UNTIL if name in IMAGE_SETS else FROM if name == LAST else MOST


def half_passed(
    point: str, layers: Sequence[int], shares: Float[np.ndarray, "curves layers"]
) -> Float[np.ndarray, " curves"]:
    """After how many layers each curve falls to a half (`UNTIL`), or rises to it (`FROM`); infinite if it does not."""
    gain, share = (1 - shares, 1 - HALF) if point == UNTIL else (shares, HALF)
    return crossings(gain, layers, share)


def _in_words(name: str) -> str:
    words = {"image": "visual tokens", "related": "related visual tokens", "other": "other visual tokens"}
    return words.get(name, f"{name} visual tokens" if name in IMAGE_SETS else name.replace("_", " "))


def depth_row(name: str, moved: Moved, shares: Shares) -> Row:
    """The row of patching_depth.csv of one set."""
    row: Row = dict.fromkeys(("layer", "layer_low", "layer_high", "share", "share_low", "share_high"), np.nan)
    row |= {"point": point_of(name), "n": len(moved.apart)}
    if shares.samples is None:
        why = "pairs of a single image have no interval" if len(moved.apart) else "the set is missing for every pair"
        return row | {"sentence": f"Not stated: {why}."}
    most, low, high = unbiased(float(shares.share.max()), shares.samples.max(axis=1))
    row |= {"share": most, "share_low": low, "share_high": high}
    held = f"at most {100 * most:z.0f} % of the difference ({100 * low:z.0f} to {100 * high:z.0f})"
    set_ = f"The {_in_words(name)}{' position' if name == LAST else ''}"
    verb = "hold" if name in IMAGE_SETS else "holds"
    if row["point"] == MOST or not shares.share.max() >= HALF:
        layer = moved.layers[int(shares.share.argmax())]
        where = f", after {layer} layers" if row["point"] == MOST and low > LEAST else ""
        return row | {"layer": layer if where else np.nan, "sentence": f"{set_} {verb} {held}{where}."}
    value = float(half_passed(row["point"], moved.layers, shares.share[None])[0])
    samples = half_passed(row["point"], moved.layers, shares.samples).clip(max=moved.layers[-1])
    ends = [float(end[0]) for end in percentiles(samples[:, None])]
    row |= {"layer": value, "layer_low": ends[0], "layer_high": ends[1]}
    until = f"until {value:z.1f} layers have passed" if row["point"] == UNTIL else f"from {value:z.1f} layers on"
    interval = f"95 % interval {ends[0]:z.1f} to {ends[1]:z.1f}"
    return row | {"sentence": f"{set_} {verb} half of the difference or more {until} ({interval})."}


def _rows(names: Row, moved: Moved, shares: Shares) -> Iterator[Row]:
    for place, layer in enumerate(moved.layers):
        yield names | {
            "layer": layer,
            "n": len(moved.apart),
            "missing": moved.missing,
            "share": shares.share[place],
            "low": shares.low[place],
            "high": shares.high[place],
        }


def pairs_row(outcomes: Sequence[Mapping[str, object]], seed: int) -> Row:
    """The row of pairs.csv of one category: what became of its pairs."""
    ran = [row for row in outcomes if row["right"] is not None]
    both = np.array([[float(bool(row["right"] and row["pair_right"]))] for row in ran]).reshape(-1, 1)
    images = np.array([row["image_id"] for row in ran], dtype=object)
    counts = Counter(str(row["outcome"]).partition(":")[0] for row in outcomes if row["outcome"] != PATCHED)
    estimate = clustered_mean(both, images, seed)
    return {
        "questions": len(outcomes),
        "pairs": sum(bool(row["pair_image_id"]) for row in outcomes),
        "both_right": estimate.mean[0],
        "low": estimate.low[0],
        "high": estimate.high[0],
        "patched": sum(row["outcome"] == PATCHED for row in outcomes),
        "left_out": "; ".join(f"{count} {reason}" for reason, count in counts.most_common()),
    }


def tables(results: Results) -> dict[str, Iterable[Row]]:
    """Rows of patching.csv, patching_depth.csv and pairs.csv.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    rows: dict[str, list[Row]] = {"patching": [], "patching_depth": [], "pairs": []}
    for model in results.windows:
        by_set: dict[tuple[str, str], dict[str, Moved]] = {}
        for category in results.categories:
            drawn = derived_seed(results.seed, model, category, "pairs")
            found = pairs_row(results.pair_outcomes(model, category), drawn)
            rows["pairs"].append({"model": model, "category": category} | found)
            for key, moved in moved_by_set(results.patching(model, category)).items():
                by_set.setdefault(key, {})[category] = moved
        for (direction, name), by_category in by_set.items():
            if len(by_category) > 1:
                by_category[TOGETHER] = pooled(list(by_category.values()))
            for category, moved in by_category.items():
                shares = shares_of(moved, derived_seed(results.seed, model, category, direction, name, "patching"))
                named: Row = {"model": model, "category": category, "direction": direction, "set": name}
                rows["patching"].extend(_rows(named, moved, shares))
                if direction == BOTH:
                    rows["patching_depth"].append(named | depth_row(name, moved, shares))
    return {**rows}

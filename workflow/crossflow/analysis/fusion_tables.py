"""The fusion depth of a study, in numbers and sentences: fusion.csv and fusion_depth.csv."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from crossflow.analysis.curves import Curve
from crossflow.analysis.fusion import NEGLIGIBLE, SHARES, Cut, Fusion, fuse, together
from crossflow.analysis.planned import hides_image
from crossflow.analysis.results import Results, Row
from crossflow.core.flows import BOTTOM, TOP, substitute_of
from crossflow.core.seeds import derived_seed

TOGETHER = "all"
"""All categories of a model together."""
DROPPED = "dropped"


def cuts_of(curve: Curve, answers: pd.DataFrame, window: str, layers: int) -> dict[str, Cut]:
    """Measure -> the questions of a curve at every cut; those without an answer to another image are left out.

    Args:
        curve: Of a flow that hides the image, in window ``top`` or ``bottom``.
        answers: The columns of ``tables.ANSWERS``.
        layers: Number of decoder layers.
    """
    of_question = answers.set_index("question_id").loc[list(curve.question_ids)]
    p_clean = of_question["p_clean"].to_numpy(dtype=float)[:, None]
    measured = {
        "probability": (p_clean * (1 + curve.change / 100), "p_clean", "p_swapped"),
        "accuracy": (curve.values["correct"], "correct", "correct_swapped"),
    }
    centres = list(curve.centres)
    found = {}
    for measure, (blocked, *columns) in measured.items():
        clean, swapped = (of_question[column].to_numpy(dtype=float)[:, None] for column in columns)
        if window == TOP:
            places, parts = (*centres, layers), (blocked, clean, swapped)
        else:
            places, parts = (0, *(centre + 1 for centre in centres)), (clean, blocked, swapped)
        values = np.concatenate(parts, axis=1)
        has = np.isfinite(values).all(axis=1)
        found[measure] = Cut(window, layers, places, curve.images[has], values[has])
    return found


def _why_missing(found: Fusion) -> str:
    if not found.n:
        return "Not stated: no question has this flow and an answer to another question's image."
    if np.isnan(found.given.low[0]):
        return "Not stated: questions about a single image have no interval."
    value, low, high = (end[0] for end in found.given)
    return (
        f"Not stated: the image gives nothing measurable ({value:z.1f} points more than another question's image, 95 % "
        f"interval {low:z.1f} to {high:z.1f})."
    )


def _percent(share: float) -> str:
    return f"{100 * share:z.0f} %"


def depth_sentence(cut: Cut, found: Fusion, which: int) -> str:
    """The finding for one of the shares of what the image gives, or why it is missing."""
    if np.isnan(found.share.value).all():
        return _why_missing(found)
    value, low, high = (end[which] for end in found.depths)
    if np.isnan(value):
        left, blocked = found.share.value[cut.hidden], abs(cut.places[cut.hidden] - cut.places[cut.clean])
        where = f"all {cut.layers} layers" if blocked == cut.layers else f"the first {blocked} of {cut.layers} layers"
        return f"Not stated: if the image is not read in {where}, {_percent(left)} of what it gives is left."
    part = "Half" if SHARES[which] == 0.5 else _percent(SHARES[which])
    verb = "is read within" if cut.window == TOP else "is lost if the image is not read in"
    interval = f"95 % interval {low:z.1f} to {high:z.1f}"
    return f"{part} of what the image gives {verb} the first {value:z.1f} layers ({interval})."


def dropped_sentence(cut: Cut, found: Fusion) -> str:
    """After which layer the image can be dropped, with its loss, or why it cannot."""
    if found.dropped is None:
        if np.isnan(found.loss_band).all():
            return _why_missing(found)
        return (
            f"Not stated: even if the image is dropped after {cut.places[-2]} of {cut.layers} layers, the loss may be "
            f"{found.loss_band[-2]:z.1f} points."
        )
    place = cut.places.index(found.dropped)
    return (
        f"The image can be dropped after {found.dropped} of {cut.layers} layers: the loss is "
        f"{found.loss.value[place]:z.1f} points, and from there on at most {found.loss_band[place:].max():z.1f} (limit "
        f"{NEGLIGIBLE:g})."
    )


def _curve_rows(names: Row, cut: Cut, found: Fusion) -> Iterator[Row]:
    columns = {
        "share": found.share.value,
        "low": found.share.low,
        "high": found.share.high,
        "loss": found.loss.value,
        "loss_low": found.loss.low,
        "loss_high": found.loss.high,
        "loss_band": found.loss_band,
    }
    for place, layer in enumerate(cut.places):
        yield names | {"layer": layer, "n": found.n} | {name: values[place] for name, values in columns.items()}


def _depth_rows(names: Row, cut: Cut, found: Fusion) -> Iterator[Row]:
    empty = dict.fromkeys(("depth", "low", "high", "loss", "loss_band"), np.nan)
    row: Row = names | {"n": found.n} | empty
    for which, (share, value, low, high) in enumerate(zip(SHARES, *found.depths, strict=True)):
        numbers = {"point": _percent(share), "depth": value, "low": low, "high": high}
        yield row | numbers | {"sentence": depth_sentence(cut, found, which)}
    # A substituted image is still there, so nothing is dropped.
    if cut.window == TOP and not substitute_of(names["flow"]):
        dropped: Row = {"point": DROPPED, "sentence": dropped_sentence(cut, found)}
        if found.dropped is not None:
            place = cut.places.index(found.dropped)
            dropped |= {"depth": found.dropped, "loss": found.loss.value[place], "loss_band": found.loss_band[place]}
        yield row | dropped


def _cuts(results: Results, model: str, window: str) -> Mapping[tuple[str, str], dict[str, Cut]]:
    """Flow and measure -> category -> cut; the last is that of all categories together, if there are several."""
    found: dict[tuple[str, str], dict[str, Cut]] = {}
    for category in results.categories:
        table, answers = results.knockouts(model, window, category), results.answers(model, category)
        for flow in filter(hides_image, table.curves):
            for measure, cut in cuts_of(table.curves[flow], answers, window, table.layers).items():
                found.setdefault((flow, measure), {})[category] = cut
    for by_category in found.values():
        if len(by_category) > 1:
            by_category[TOGETHER] = together(list(by_category.values()))
    return found


def tables(results: Results) -> dict[str, Iterable[Row]]:
    """Rows of fusion.csv and fusion_depth.csv.

    Raises:
        CrossflowError: a table is absent or does not fit the others.
    """
    rows: dict[str, list[Row]] = {"fusion": [], "fusion_depth": []}
    for model, windows in results.windows.items():
        for window in (window for window in windows if window in (BOTTOM, TOP)):
            for (flow, measure), by_category in _cuts(results, model, window).items():
                for category, cut in by_category.items():
                    found = fuse(cut, derived_seed(results.seed, model, category, window, flow, "fusion"))
                    names = {
                        "model": model,
                        "category": category,
                        "window": window,
                        "flow": flow,
                        "measure": measure,
                    }
                    rows["fusion"].extend(_curve_rows(names, cut, found))
                    rows["fusion_depth"].extend(_depth_rows(names, cut, found))
    return {**rows}

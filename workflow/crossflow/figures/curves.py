"""Figures of curves: from rows of the summary tables to one panel per category."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import MOVED, RANDOM, window_at
from crossflow.figures.kinds import FURTHER
from crossflow.figures.panels import Line, Panel, draw_panels
from crossflow.figures.request import FigureRequest
from crossflow.figures.style import window_in_words

Row = Mapping[str, Any]


def cut_layers(window: str, layers: int) -> list[int]:
    """Centre layers at which a window of this width does not fit into the model; none for ``bottom`` and ``top``."""
    if not window.isdecimal():
        return []
    width = int(window)
    windows = {centre: window_at(centre, width, layers) for centre in range(layers)}
    return [centre for centre, found in windows.items() if found.last - found.first + 1 < width]


def _numbers(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], dtype=float)


def line_of(flow: str, curves: Mapping[str, Sequence[Row]], bands: Mapping[str, Sequence[Row]]) -> Line:
    """A line with its band and its controls.

    Args:
        curves: Flow -> its rows of effects.csv in one panel, by layer.
        bands: Flow -> its rows of bands.csv; may be empty.
    """
    source, _, target = flow.partition("->")
    controls = {}
    for control in (RANDOM, MOVED):
        rows = curves.get(f"{source}~{control}->{target}", [])
        if rows and rows[0]["n"]:
            controls[control] = ([row["layer"] for row in rows], _numbers(rows, "mean"))
    rows = curves[flow]
    band = (_numbers(bands[flow], "low"), _numbers(bands[flow], "high")) if flow in bands else None
    mean, low, high = (_numbers(rows, name) for name in ("mean", "low", "high"))
    centres = [row["layer"] for row in rows]
    return Line(flow, rows[0]["n"], mean, low, high, band, centres, controls)


def by_panel(rows: Sequence[Row], model: str, window: str) -> dict[str, dict[str, list[Row]]]:
    """Rows of one model and window: category -> flow -> rows by layer."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if (row["model"], row["window"]) == (model, window):
            found.setdefault(row["category"], {}).setdefault(row["flow"], []).append(row)
    for flows in found.values():
        for flow in flows.values():
            flow.sort(key=lambda row: row["layer"])
    return found


def panels_of(
    effects: Sequence[Row],
    counts: Sequence[Row],
    *,
    flows: Sequence[str],
    model: str,
    window: str,
    categories: Sequence[str],
    bands: Sequence[Row] = (),
    noise: Sequence[Row] = (),
    whole: bool = True,
) -> list[Panel]:
    """Pick one figure's panels out of the summary tables, in the order of ``categories``.

    Args:
        effects, counts: Rows of effects.csv and counts.csv.
        flows: The flows that are shown, at least one.
        model, window: The figure's.
        categories: One panel each.
        bands, noise: Rows of bands.csv and noise.csv; without them there is no outer band and no noise floor.
        whole: Whether every flow must have all centre layers.

    Raises:
        CrossflowError: the tables have no row of this model and window, or lack a category, a flow
            or a layer.
    """
    curves = by_panel(effects, model, window)
    if not curves:
        raise CrossflowError(f"effects.csv has no rows for {model} with window {window}: make the summary again.")
    layers = 1 + max(rows[-1]["layer"] for flows_of in curves.values() for rows in flows_of.values())
    counted = {
        (row["category"], row["flow"]): row for row in counts if (row["model"], row["window"]) == (model, window)
    }
    outer = by_panel(bands, model, window)
    floors = {
        row["category"]: row["change_percent"] for row in noise if (row["model"], row["window"]) == (model, window)
    }
    panels = []
    for category in categories:
        lines = []
        for flow in flows:
            rows = curves.get(category, {}).get(flow, [])
            found = [row["layer"] for row in rows]
            cut_short = whole and found != list(range(layers))
            if not rows or cut_short or (category, flow) not in counted:
                raise CrossflowError(
                    f"The summary lacks {flow} of {model}, window {window}, {category}, or some of its "
                    f"{layers} layers; make it again."
                )
            lines.append(line_of(flow, curves[category], outer.get(category, {})))
        count = counted[category, flows[0]]
        selected = count["missing"] + count["n"]
        panels.append(
            Panel(
                category,
                lines,
                selected,
                count["excluded"],
                count["skipped"],
                floors.get(category, math.nan),
                cut_layers(window, layers),
            )
        )
    return panels


def draw(figure: FigureRequest) -> Figure:
    """Draw the curves of some flows.

    Raises:
        CrossflowError: the summary lacks what the figure shows.
    """
    if not figure.flows:
        raise CrossflowError(f"effects.csv has no flow that the figure {figure.kind!r} shows.")
    (model, *_), (window, *_) = figure.models, figure.windows
    panels = panels_of(
        figure.rows("effects"),
        figure.rows("counts"),
        flows=figure.flows,
        model=model,
        window=window,
        categories=figure.categories,
        bands=figure.rows("bands"),
        noise=figure.rows("noise"),
        # Further flows may be controls, which have their own stride.
        whole=figure.kind != FURTHER,
    )
    return draw_panels(panels, f"{model}, {window_in_words(window)}")

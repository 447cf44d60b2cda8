"""The kinds of figures that a study has: one entry of `FIGURES` each, known before anything is computed.

A new figure is a module with a function ``draw`` and an entry here; its rule, its files among the study's results and
its verb follow. Nothing heavy is imported: the workflow asks at every start.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

FURTHER = "further-flows"
FLOWS_SHOWN = {
    "to-last": ("question->last", "image->last", "last->last"),
    "image-to-question": ("image->question",),
    "related-to-question": ("related->question", "other->question"),
}
"""Figures of curves -> the flows that each shows; all others are in `FURTHER`."""


class FigureKind(NamedTuple):
    """One kind of figure.

    Attributes:
        module: Its function ``draw(figure: crossflow.figures.request.FigureRequest)`` draws it.
        file: Its file, without a suffix; models and windows may stand in it.
        tables: The summary tables that it reads.
        title: What it shows, for the report.
    """

    module: str
    file: str
    tables: tuple[str, ...]
    title: str


_CURVES = ("effects", "counts", "bands", "noise")
FIGURES = {
    **{
        kind: FigureKind("crossflow.figures.curves", f"{kind}-{{model}}-w{{window}}", _CURVES, ", ".join(flows))
        for kind, flows in (FLOWS_SHOWN | {FURTHER: ("further flows",)}).items()
    },
    "overview": FigureKind("crossflow.figures.grids", "overview-{model}-w{window}", ("effects", "bands"), "all flows"),
    "heat-map": FigureKind("crossflow.figures.grids", "heat-map-{model}-w{window}", ("effects",), "all flows"),
    "window-sweep": FigureKind("crossflow.figures.grids", "window-sweep-{model}", ("effects",), "several windows"),
    "model-comparison": FigureKind("crossflow.figures.grids", "model-comparison", ("effects",), "several models"),
    "logit-lens": FigureKind("crossflow.figures.logit_lens", "logit-lens-{model}", ("lens",), "with the final norm"),
    "logit-lens-published": FigureKind(
        "crossflow.figures.logit_lens", "logit-lens-published-{model}", ("lens",), "norm after the last layer only"
    ),
}


def flows_by_kind(flows: Sequence[str]) -> dict[str, list[str]]:
    """Figure of curves -> the flows that it shows, in the study's order; figures without a flow are left out.

    Random sources and moved boxes are drawn beside the flows that they control.
    """
    kinds: dict[str, list[str]] = {kind: [] for kind in (*FLOWS_SHOWN, FURTHER)}
    for flow in dict.fromkeys(flow for flow in flows if "~" not in flow):
        kinds[next((kind for kind, shown in FLOWS_SHOWN.items() if flow in shown), FURTHER)].append(flow)
    return {kind: shown for kind, shown in kinds.items() if shown}


def figures_of(flows: Sequence[str], windows: Mapping[str, Sequence[str]], lens: bool) -> dict[str, list[str]]:
    """Every figure of a study: kind -> names of its files, without a suffix.

    Sweeps are of models with several windows, a comparison of several models.

    Args:
        flows: The study's flows, controls included.
        windows: Model -> its windows.
        lens: Whether the study reads the logit lens.
    """
    found: dict[str, list[str]] = {}
    for kind in (*flows_by_kind(flows), "overview", "heat-map"):
        found[kind] = [
            FIGURES[kind].file.format(model=model, window=window)
            for model, chosen in windows.items()
            for window in chosen
        ]
    sweeps = [model for model, chosen in windows.items() if len(chosen) > 1]
    found["window-sweep"] = [FIGURES["window-sweep"].file.format(model=model) for model in sweeps]
    found["model-comparison"] = [FIGURES["model-comparison"].file] if len(windows) > 1 else []
    for kind in ("logit-lens", "logit-lens-published"):
        found[kind] = [FIGURES[kind].file.format(model=model) for model in windows] if lens else []
    return {kind: names for kind, names in found.items() if names}

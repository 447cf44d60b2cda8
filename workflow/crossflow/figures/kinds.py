"""The kinds of figures that a study has: one entry of `FIGURES` each, known before anything is computed.

A new figure is a module with a function ``draw`` and an entry here; its rule, its files among the study's results and
its verb follow. Imports nothing heavy: the workflow reads it at every start.
"""

from collections.abc import Sequence
from typing import NamedTuple

from crossflow.analysis.planned import Planned
from crossflow.analysis.tables import summaries_of
from crossflow.core.flows import substitute_of

FURTHER, SUBSTITUTION = "further-flows", "substitution"
FLOWS_SHOWN = {
    "to-last": ("question->last", "image->last", "last->last"),
    "image-to-question": ("image->question",),
    "related-to-question": ("related->question", "other->question"),
}
"""Figures of curves -> the flows that each shows; all others are in `FURTHER`, and substitutions in
`SUBSTITUTION`."""


class FigureKind(NamedTuple):
    """One kind of figure.

    Attributes:
        module: Its function ``draw(figure: crossflow.figures.request.FigureRequest)`` draws it.
        file: Its file, without a suffix; where ``{model}`` and ``{window}`` stand in it, there is one for each.
        tables: The summary tables that it reads; a study that has them has the figure.
        title: What it shows, for the report.
        compares: What it compares (windows or models); it is drawn if a study has several.
    """

    module: str
    file: str
    tables: tuple[str, ...]
    title: str
    compares: bool = False


_CURVES, _GRIDS, _HEADS, _SUBSETS, _ATTENTION, _LENS, _FUSION, _PATCHING, _IMAGE_LENS = (
    f"crossflow.figures.{name}"
    for name in (
        "curves",
        "grids",
        "heads",
        "head_subsets",
        "attention",
        "logit_lens",
        "fusion_depth",
        "patching",
        "image_lens",
    )
)
_SUMMARY = ("effects", "counts", "bands", "noise")
FIGURES = {
    **{
        kind: FigureKind(_CURVES, f"{kind}-{{model}}-w{{window}}", _SUMMARY, ", ".join(flows))
        for kind, flows in (FLOWS_SHOWN | {FURTHER: ("further flows",)}).items()
    },
    "overview": FigureKind(_GRIDS, "overview-{model}-w{window}", ("effects", "bands"), "all flows"),
    "heat-map": FigureKind(_GRIDS, "heat-map-{model}-w{window}", ("effects",), "all flows"),
    SUBSTITUTION: FigureKind(
        _GRIDS, f"{SUBSTITUTION}-{{model}}-w{{window}}", ("effects",), "knockouts beside substitutions"
    ),
    "heads": FigureKind(_HEADS, "heads-{model}", ("heads", "top_heads"), "single attention heads"),
    "head-subsets": FigureKind(
        _SUBSETS, "head-subsets-{model}", ("head_subsets",), "attention heads in random subsets"
    ),
    "attention": FigureKind(
        _ATTENTION, "attention-{model}", ("heads", "head_attention"), "attention beside the effect of single heads"
    ),
    "window-sweep": FigureKind(_GRIDS, "window-sweep-{model}", ("effects",), "several windows", compares=True),
    "model-comparison": FigureKind(_GRIDS, "model-comparison", ("effects",), "several models", compares=True),
    "logit-lens": FigureKind(_LENS, "logit-lens-{model}", ("lens",), "with the final norm"),
    "logit-lens-published": FigureKind(
        _LENS, "logit-lens-published-{model}", ("lens",), "final norm after the last layer only"
    ),
    "image-lens": FigureKind(
        _IMAGE_LENS, "image-lens-{model}", ("image_lens",), "what tokens of image and question say"
    ),
    "fusion-depth": FigureKind(
        _FUSION, "fusion-depth-{model}", ("fusion", "fusion_depth"), "what the image gives below and above a layer"
    ),
    "patching": FigureKind(_PATCHING, "patching-{model}", ("patching",), "position sets patched with a pair's states"),
    "patching-map": FigureKind(_PATCHING, "patching-map-{model}", ("patching",), "the same, by direction"),
}


def flows_by_kind(flows: Sequence[str]) -> dict[str, list[str]]:
    """Figure of curves -> the flows that it shows, in the study's order; figures without a flow are left out.

    Random sources and moved boxes are drawn beside the flows that they control, substitutions beside their knockouts.
    """
    kinds: dict[str, list[str]] = {kind: [] for kind in (*FLOWS_SHOWN, FURTHER, SUBSTITUTION)}
    for flow in dict.fromkeys(flow for flow in flows if "~" not in flow):
        other = SUBSTITUTION if substitute_of(flow) else FURTHER
        kinds[next((kind for kind, shown in FLOWS_SHOWN.items() if flow in shown), other)].append(flow)
    return {kind: shown for kind, shown in kinds.items() if shown}


def figures_of(study: Planned) -> dict[str, list[str]]:
    """Every figure of a study: kind -> names of its files, without a suffix."""
    shown, windows = flows_by_kind([*study.flows, *study.controls]), study.windows
    tables = {table for summary in summaries_of(study).values() for table in summary.tables}
    found: dict[str, list[str]] = {}
    for kind, figure in FIGURES.items():
        lacks_flows = kind in (*FLOWS_SHOWN, FURTHER, SUBSTITUTION) and kind not in shown
        if lacks_flows or not tables.issuperset(figure.tables):
            continue
        if "{model}" not in figure.file:
            models: list[dict[str, str]] = [{}] if len(windows) > 1 else []
        else:
            models = [{"model": model} for model in windows if not figure.compares or len(windows[model]) > 1]
        if "{window}" in figure.file:
            models = [names | {"window": window} for names in models for window in windows[names["model"]]]
        if models:
            found[kind] = [figure.file.format(**names) for names in models]
    return found

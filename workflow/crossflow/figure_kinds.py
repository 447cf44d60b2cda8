"""Which figures a study has: known from its flows alone, before anything is computed.

Only the standard library, so that the workflow can ask for its outputs without loading the science.
"""

from collections.abc import Mapping, Sequence

FURTHER = "further-flows"
STUDY_KINDS = {
    "to-last": ("question->last", "image->last", "last->last"),
    "image-to-question": ("image->question",),
    "patches-to-question": ("related->question", "other->question"),
}
# Answer tracking, by what stands before the output embedding: kind -> norm.
LENS_KINDS = {"answer-tracking": "final", "answer-tracking-published": "published"}
KINDS = (*STUDY_KINDS, FURTHER)
OVERVIEW, HEAT_MAP = "overview", "heat-map"
# Of several windows of a model, and of several models of a study.
SWEEP, COMPARISON = "window-sweep", "model-comparison"


# Figures of many panels: kind -> name of the file, in which models and windows may stand.
GRIDS = {
    OVERVIEW: f"{OVERVIEW}-{{model}}-w{{window}}",
    HEAT_MAP: f"{HEAT_MAP}-{{model}}-w{{window}}",
    SWEEP: f"{SWEEP}-{{model}}",
    COMPARISON: COMPARISON,
}


def grids_of(windows: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of a study's figures of many panels: sweeps of several windows, a comparison of several models.

    Args:
        windows: Model -> its windows.
    """
    curves = [(model, window) for model, chosen in windows.items() for window in chosen]
    names = [
        GRIDS[kind].format(model=model, window=window) for kind in (OVERVIEW, HEAT_MAP) for model, window in curves
    ]
    names += [GRIDS[SWEEP].format(model=model) for model, chosen in windows.items() if len(chosen) > 1]
    return names + ([COMPARISON] if len(windows) > 1 else [])


def kinds_of(flows: Sequence[str]) -> dict[str, list[str]]:
    """Kind of figure -> the flows that it shows, in the study's order; kinds without a flow are left out.

    Random sources and moved boxes are drawn beside the flows that they control.
    """
    kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for flow in dict.fromkeys(flow for flow in flows if "~" not in flow):
        kinds[next((kind for kind, shown in STUDY_KINDS.items() if flow in shown), FURTHER)].append(flow)
    return {kind: shown for kind, shown in kinds.items() if shown}

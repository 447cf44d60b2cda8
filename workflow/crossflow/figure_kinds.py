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


def grids_of(windows: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[str]]]:
    """Figures of many panels: their names -> kind, models and windows (one word each for the command line).

    Args:
        windows: Model -> its windows.
    """
    grids = {
        f"{kind}-{model}-w{window}": {"kind": [kind], "models": [model], "windows": [window]}
        for kind in (OVERVIEW, HEAT_MAP)
        for model, chosen in windows.items()
        for window in chosen
    }
    for model, chosen in windows.items():
        if len(chosen) > 1:
            grids[f"{SWEEP}-{model}"] = {"kind": [SWEEP], "models": [model], "windows": list(chosen)}
    if len(windows) > 1:
        first = [chosen[0] for chosen in windows.values()]
        grids[COMPARISON] = {"kind": [COMPARISON], "models": list(windows), "windows": first}
    return grids


def kinds_of(flows: Sequence[str]) -> dict[str, list[str]]:
    """Kind of figure -> the flows that it shows, in the study's order; kinds without a flow are left out.

    Random sources and moved boxes are drawn beside the flows that they control.
    """
    kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for flow in dict.fromkeys(flow for flow in flows if "~" not in flow):
        kinds[next((kind for kind, shown in STUDY_KINDS.items() if flow in shown), FURTHER)].append(flow)
    return {kind: shown for kind, shown in kinds.items() if shown}

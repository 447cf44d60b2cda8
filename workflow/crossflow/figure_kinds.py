"""Which figures a study has: known from its flows alone, before anything is computed.

Only the standard library, so that the workflow can ask for its outputs without loading the science.
"""

from collections.abc import Sequence

FURTHER = "further-flows"
STUDY_KINDS = {
    "to-last": ("question->last", "image->last", "last->last"),
    "image-to-question": ("image->question",),
    "patches-to-question": ("related->question", "other->question"),
}
# Answer tracking, by what stands before the output embedding: kind -> norm.
LENS_KINDS = {"answer-tracking": "final", "answer-tracking-published": "published"}
KINDS = (*STUDY_KINDS, FURTHER)


def kinds_of(flows: Sequence[str]) -> dict[str, list[str]]:
    """Kind of figure -> the flows that it shows, in the study's order; kinds without a flow are left out."""
    kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for flow in dict.fromkeys(flows):
        kinds[next((kind for kind, shown in STUDY_KINDS.items() if flow in shown), FURTHER)].append(flow)
    return {kind: shown for kind, shown in kinds.items() if shown}

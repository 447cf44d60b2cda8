"""What a study computes, as far as its summaries ask: each predicate says whether a summary has its inputs.

Imports nothing heavy: the workflow reads it at every start.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from crossflow.core.flows import BOTTOM, TOP, parse_flow, silences, substitute_of


@runtime_checkable
class PlannedHeads(Protocol):
    """The part of a study of heads that decides.

    Attributes:
        flows: The flows that are knocked out in heads.
        each: Whether each head is knocked out alone.
        subsets: Number of random subsets of heads per question.
    """

    @property
    def flows(self) -> Sequence[str]: ...
    @property
    def each(self) -> bool: ...
    @property
    def subsets(self) -> int: ...


@runtime_checkable
class Planned(Protocol):
    """The part of a study that decides which summaries it has; `crossflow.study.parameters.Study` is one.

    Attributes:
        windows: Model -> its windows.
        flows, controls: The flows that are knocked out.
        baselines: Further answers without the image.
        variants: Models that have the weights of an earlier one -> that one.
        lens: Whether the logit lens is read.
        heads: What is knocked out in some heads only; None if nothing is.
        patching: Where the residual stream of pairs is patched; None if nowhere.
        image_lens: How the lens over image and question is read; None if it is not.
    """

    @property
    def windows(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def flows(self) -> Sequence[str]: ...
    @property
    def controls(self) -> Sequence[str]: ...
    @property
    def baselines(self) -> Sequence[str]: ...
    @property
    def variants(self) -> Mapping[str, str]: ...
    @property
    def lens(self) -> bool: ...
    @property
    def heads(self) -> PlannedHeads | None: ...
    @property
    def patching(self) -> object | None: ...
    @property
    def image_lens(self) -> object | None: ...


def always(study: Planned) -> bool:
    """Every study has answers and knockouts."""
    return True


def has_variants(study: Planned) -> bool:
    """Whether the study asks the same weights in several ways, in one window or more."""
    return any(set(study.windows[model]) & set(study.windows[base]) for model, base in study.variants.items())


def reads_lens(study: Planned) -> bool:
    """Whether the study reads the logit lens."""
    return study.lens


def reads_image_lens(study: Planned) -> bool:
    """Whether the study reads the lens over the image and the question."""
    return study.image_lens is not None


def knocks_out_heads(study: Planned) -> bool:
    """Whether the study knocks out each head alone."""
    return study.heads is not None and study.heads.each


def knocks_out_subsets(study: Planned) -> bool:
    """Whether the study knocks out random subsets of heads."""
    return study.heads is not None and study.heads.subsets > 0


def patches(study: Planned) -> bool:
    """Whether the study patches the residual stream of pairs."""
    return study.patching is not None


def correlates_attention(study: Planned) -> bool:
    """Whether the study knocks out a flow, and not only substitutes, in windows of some width."""
    windows = {window for windows in study.windows.values() for window in windows}
    blocking = [flow for flow in (*study.flows, *study.controls) if not substitute_of(flow) and not silences(flow)]
    return bool(windows - {BOTTOM, TOP}) and bool(blocking)


def correlates_head_attention(study: Planned) -> bool:
    """Whether the study knocks out a flow, and not only substitutes, in each head alone."""
    return study.heads is not None and study.heads.each and not all(map(substitute_of, study.heads.flows))


def hides_image(flow: str) -> bool:
    """Whether a flow, and not a control, hides the whole image and nothing else from all positions after it."""
    if "~" in flow:
        return False
    part, *others = parse_flow(flow).parts
    return (part.source, part.target) == ("image", "all") and not part.spared and not others


def drops_image(study: Planned) -> bool:
    """Whether the study hides the image below or above each layer, and answers with another question's image."""
    windows = {window for windows in study.windows.values() for window in windows}
    flows = any(hides_image(flow) for flow in (*study.flows, *study.controls))
    return flows and bool(windows & {BOTTOM, TOP}) and "swapped" in study.baselines

"""Names of flows and windows: what a knockout blocks, and in which layers.

A flow ``source->target`` names two position sets; it forbids the target's positions to attend to the source's. Flows
are written

``A->B``
    one knockout;
``A->B+C->D``
    both together;
``only:A->B->C``
    sufficiency: of the positions after the image, only B's may read A, and only C's may read B;
``A~random1->B``, ``related~moved->B``
    controls of ``A->B``: as many random sources, or the objects' boxes moved elsewhere (`crossflow.engine.edges`);
``A=swapped->B``, ``A=mean->B``
    substitutions: at A's positions, B reads other keys and values instead of nothing: those of the same prompt with
    another question's image, or their mean over images (`crossflow.experiments.donors`);
``A=swapped~random1->B``
    a control of a substitution;
``attn:A``, ``mlp:A``
    a module knockout: at A's positions, the output of the attention or of the MLP is zero;
``attn=mean:A``, ``mlp=mean:A``
    likewise, its mean over A's positions in the category's questions (`crossflow.experiments.module_means`).

Wherever a flow names a set, it may name an intersection of sets instead: ``related&grid->question``.

A window is a run of layers around, below or above a layer. Imports the standard library only, so that the workflow can
read its parameters without loading NumPy or PyTorch.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from crossflow.core.errors import CrossflowError

PUBLISHED_FLOWS = (
    "question->last",
    "image->last",
    "last->last",
    "image->question",
    "related->question",
    "other->question",
)
# Flows that the published study lacks: through positions in none of its sets, from the whole image, along one path
# only.
CONTROL_FLOWS = (
    "image->instruction",
    "instruction->last",
    "system->last",
    "image->all",
    "only:image->question",
    "only:image->question->last",
)
BASIC_SETS = ("system", "image", "separator", "question", "instruction", "last")
"""The sets that cut a prompt in order."""
VISUAL_SETS = ("related", "other", "padding", "newline", "base", "grid")
"""Views of the visual tokens."""
TEXT_SETS = ("role", "true_option", "false_option", "options", "question_without_options", "object")
"""Views of the text."""
SINK_SETS = ("image_sinks", "image_without_sinks", "text_sinks")
"""Views that follow from a forward of the model. See `crossflow.engine.sinks`."""
IMAGE_SETS = ("image", *VISUAL_SETS, *SINK_SETS[:2])
"""Sets of visual tokens only."""
# A flow's look follows from the places of its sets: new ones are added at the end.
SET_NAMES = (*BASIC_SETS, *VISUAL_SETS, *TEXT_SETS, "all", *SINK_SETS)
"""Every position set; ``all`` is every position after the image. See `crossflow.models.positions`."""
PATCHED_SETS = ("image", "related", "other", "separator", "question", "instruction", "last")
"""The sets at which pairs can differ, so that patching may change something: none lies before the image."""
MOVED, RANDOM = "moved", "random"
SWAPPED, MEAN = "swapped", "mean"
SUBSTITUTES = {SWAPPED: "another question's image", MEAN: "the mean"}
"""What targets may read instead of a source's own keys and values -> in words."""
MODULES = {"attn": "attention output", "mlp": "MLP output"}
"""The modules of a decoder layer whose output a knockout may replace -> in words."""
BOTTOM, TOP = "bottom", "top"
_AND = "&"
_SET = rf"[a-z_]+(?:{_AND}[a-z_]+)*"
_PART = re.compile(
    rf"(?P<source>{_SET})(?:=(?P<substitute>{'|'.join(SUBSTITUTES)}))?"
    rf"(?:~(?P<control>{MOVED}|{RANDOM}[1-9][0-9]*))?->(?P<target>{_SET})"
)
_MODULE = re.compile(rf"(?P<module>{'|'.join(MODULES)})(?P<mean>={MEAN})?:(?P<set>{_SET})")
_SUBSTITUTE = re.compile(rf"=({'|'.join(SUBSTITUTES)})")
_ONLY = "only:"


def sets_of(name: str) -> tuple[str, ...]:
    """The sets of an intersection such as ``related&grid``; a set's name is one of a single set."""
    return tuple(name.split(_AND))


def is_visual(name: str) -> bool:
    """Whether a set, or an intersection of sets, holds visual tokens only."""
    return not set(IMAGE_SETS).isdisjoint(sets_of(name))


class Part(NamedTuple):
    """One rectangle of edges, by the names of its position sets.

    Attributes:
        control: Replacement for the source: None (the source itself), ``moved`` or ``random1``, ``random2``, ...
        spared: Sets whose positions are no targets.
        substitute: What the targets read instead, one of `SUBSTITUTES`; None = nothing.
        module: The module, one of `MODULES`, whose output at the target, which is also the source, is replaced by zero,
            or by its mean if that is the substitute; None = edges are blocked.
    """

    source: str
    control: str | None
    target: str
    spared: tuple[str, ...] = ()
    substitute: str | None = None
    module: str | None = None


class Flow(NamedTuple):
    """A flow's name and its parts."""

    name: str
    parts: tuple[Part, ...]

    @property
    def is_moved(self) -> bool:
        """Whether it needs moved boxes."""
        return any(part.control == MOVED for part in self.parts)

    @property
    def needs_sinks(self) -> bool:
        """Whether it names a set of `SINK_SETS`."""
        named = (name for part in self.parts for name in (part.source, part.target, *part.spared))
        return any(not set(SINK_SETS).isdisjoint(sets_of(name)) for name in named)

    @property
    def substitute(self) -> str | None:
        """What its targets read instead, the same in all parts that substitute; None if it only blocks."""
        return next((part.substitute for part in self.parts if part.substitute and not part.module), None)

    @property
    def module_means(self) -> list[tuple[str, str]]:
        """The modules and sets of its parts that replace an output by its mean."""
        return [(part.module, part.target) for part in self.parts if part.module and part.substitute]


def _known(flow: str, *sets: str) -> None:
    for name in (name for given in sets for name in sets_of(given)):
        if name not in SET_NAMES:
            raise CrossflowError(f"Flow {flow!r}: unknown position set {name!r}; choose from {', '.join(SET_NAMES)}.")


def parse_flow(name: str) -> Flow:
    """Read the name of a flow.

    Raises:
        CrossflowError: the name has none of the forms above, a set does not exist, ``~moved`` is used with a set other
            than ``related`` or ``=mean`` with text, or two substitutes are mixed.
    """
    if name.startswith(_ONLY):
        path = name.removeprefix(_ONLY).split("->")
        _known(name, *path)
        if len(path) < 2:
            raise CrossflowError(f"Flow {name!r} has no source or no target: write only:source->target.")
        return Flow(name, tuple(Part(path[i], None, "all", (path[i], path[i + 1])) for i in range(len(path) - 1)))
    parts = []
    for text in name.split("+"):
        if (module := _MODULE.fullmatch(text)) is not None:
            _known(name, module["set"])
            mean = MEAN if module["mean"] else None
            parts.append(Part(module["set"], None, module["set"], substitute=mean, module=module["module"]))
            continue
        match = _PART.fullmatch(text)
        if match is None:
            raise CrossflowError(
                f"Flow {name!r} is not of the form source->target, source~control->target, source=substitute->target, "
                f"only:source->target, module:set or a sum of them; substitutes are {' and '.join(SUBSTITUTES)}, "
                f"modules {' and '.join(MODULES)}."
            )
        part = Part(match["source"], match["control"], match["target"], substitute=match["substitute"])
        _known(name, part.source, part.target)
        if part.control == MOVED and part.source != "related":
            raise CrossflowError(f"Flow {name!r}: ~moved works only for the source related.")
        if part.substitute == MEAN and not is_visual(part.source):
            raise CrossflowError(
                f"Flow {name!r}: =mean works only for visual tokens ({', '.join(IMAGE_SETS)}); texts differ in length."
            )
        parts.append(part)
    if len({part.substitute for part in parts if not part.module} - {None}) > 1:
        raise CrossflowError(f"Flow {name!r} mixes two substitutes; write two flows.")
    return Flow(name, tuple(parts))


def controls_of(flow: str, draws: int) -> list[str]:
    """The controls of ``source->target``; a sum, a path, a control or a module knockout has none."""
    source, _, target = flow.partition("->")
    parts = parse_flow(flow).parts
    if flow.startswith(_ONLY) or len(parts) > 1 or parts[0].control is not None or parts[0].module:
        return []
    moved = [f"{source}~{MOVED}->{target}"] if parts[0].source == "related" else []
    return [f"{source}~{RANDOM}{draw}->{target}" for draw in range(1, draws + 1)] + moved


def substitute_of(flow: str) -> str | None:
    """What the targets of a flow, or of the mean of a control's draws, read instead; None if it only blocks."""
    found = _SUBSTITUTE.search(flow)
    return found[1] if found else None


def silences(flow: str) -> bool:
    """Whether a flow replaces outputs of modules, and blocks no edge."""
    return all(_MODULE.fullmatch(part) for part in flow.split("+"))


def blocking_of(flow: str) -> str:
    """The knockout beside which a substitution is shown: the same flow without substitutes."""
    return _SUBSTITUTE.sub("", flow)


def with_controls(flows: Sequence[str], draws: int, further: Sequence[str]) -> list[str]:
    """The flows that a study's controls add to its own flows, without repetition."""
    added = [control for flow in flows for control in controls_of(flow, draws)] + list(further)
    return [flow for flow in dict.fromkeys(added) if flow not in flows]


class Window(NamedTuple):
    """Layers ``first .. last``, both included."""

    first: int
    last: int

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and self.first <= layer <= self.last


def window_at(centre: int, width: int, layers: int) -> Window:
    """The window of a centre layer, as published: an even width has one more layer below, and the ends truncate.

    Args:
        centre: Centre layer, ``0 .. layers - 1``.
        width: Number of layers of a window that is not cut.
        layers: Number of decoder layers of the model.

    Source: the published code, ``max(0, l - k // 2) .. min(L, l + ceil(k / 2)) - 1``.
    """
    return Window(max(0, centre - width // 2), min(layers, centre + (width + 1) // 2) - 1)


def window_named(name: str, layer: int, layers: int) -> Window:
    """The window of a layer: ``bottom`` (from the first layer to it), ``top`` (from it to the last) or a width."""
    if name == BOTTOM:
        return Window(0, layer)
    if name == TOP:
        return Window(layer, layers - 1)
    return window_at(layer, int(name), layers)


def require_window(name: str, layers: int, model: object) -> None:
    """Refuse an unknown window, or one that covers the whole model at every centre layer.

    Args:
        name: A width, ``bottom`` or ``top``.
        layers: Number of decoder layers of the model.
        model: The model's name in the message.

    Raises:
        CrossflowError: the window is refused.
    """
    if name in (BOTTOM, TOP):
        return
    if not name.isdecimal() or int(name) < 1:
        raise CrossflowError(f"Window {name!r} is unknown; give a number of layers, {BOTTOM} or {TOP}.")
    if int(name) >= 2 * layers:
        raise CrossflowError(
            f"A window of {name} layers does not fit {model}, which has {layers}: from {2 * layers} on, every centre "
            "layer would knock out the whole model."
        )


def require_centres(centres: Sequence[int], layers: int, model: object) -> None:
    """Refuse centre layers that the model does not have; arguments as for `require_window`.

    Raises:
        CrossflowError: a layer is outside the model, or no layer is given.
    """
    if not centres:
        raise CrossflowError("No centre layer was given.")
    if outside := [centre for centre in centres if not 0 <= centre < layers]:
        raise CrossflowError(f"Layer {outside[0]} is outside {model}, whose layers are 0 to {layers - 1}.")

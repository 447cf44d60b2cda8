"""Single questions: the picture with its related patches beside the question's own curves."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from crossflow.curves import Knockouts
from crossflow.figure_style import FURTHER_LOOKS, PAGE_WIDTH, SETTINGS, arrow
from crossflow.gqa import ChosenQuestion


class Example(NamedTuple):
    """One question.

    Attributes:
        why: Why it was chosen.
        picture: Its picture.
        patches: Its visual tokens over the picture, the related ones shaded; None where they can not be drawn.
        curves: Flow -> centre layers and change in percent.
    """

    why: str
    question: ChosenQuestion
    generated: str
    p_clean: float
    picture: Image.Image
    patches: Image.Image | None
    curves: Mapping[str, tuple[Sequence[int], Float[np.ndarray, " layers"]]]


def choose(table: Knockouts) -> dict[str, str]:
    """Which questions are shown, and why: question id -> reason; the strongest fall, and the one in the middle.

    The fall of a question is that of its flow and layer that fall most, controls left out; ties go by question id.
    """
    falls: dict[str, float] = {}
    for flow, curve in table.curves.items():
        if "~" not in flow:
            for question, lowest in zip(curve.question_ids, curve.change.min(axis=1), strict=True):
                falls[question] = min(falls.get(question, 0.0), float(lowest))
    order = sorted(falls, key=lambda question: (falls[question], question))
    if not order:
        return {}
    reasons = {order[len(order) // 2]: "in the middle"}
    return {order[0]: "suffers most"} | reasons


def curves_of(table: Knockouts, question_id: str) -> dict[str, tuple[Sequence[int], Float[np.ndarray, " layers"]]]:
    """A question's own curves; flows that are missing and controls are left out."""
    found: dict[str, tuple[Sequence[int], Float[np.ndarray, " layers"]]] = {}
    for flow, curve in table.curves.items():
        (places,) = np.nonzero(curve.question_ids == question_id)
        if len(places) and "~" not in flow:
            found[flow] = (curve.centres, curve.change[places[0]])
    return found


def draw(examples: Sequence[Example], heading: str) -> Figure:
    """One row per question; call and save it within `figure_style.own_settings`.

    Args:
        examples: From none to a few; without any the figure says so.
        heading: Stands above.
    """
    figure = Figure(figsize=(PAGE_WIDTH, 0.6 + 2.5 * max(1, len(examples))), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(heading, x=0.01, ha="left", fontsize=SETTINGS["axes.labelsize"])
    if not examples:
        figure.text(0.5, 0.5, "no question selected", ha="center")
        return figure
    flows = list(dict.fromkeys(flow for example in examples for flow in example.curves))
    looks = dict(zip(flows, FURTHER_LOOKS, strict=False))
    grid = figure.subplots(len(examples), 3, squeeze=False, width_ratios=(1, 1, 1.5))
    for example, (left, middle, right) in zip(examples, grid, strict=True):
        asked = example.question
        left.imshow(np.asarray(example.picture))
        for chosen in asked.objects:
            corner = (chosen.box.x, chosen.box.y)
            left.add_patch(
                Rectangle(corner, chosen.box.w, chosen.box.h, fill=False, edgecolor="#0072B2", linewidth=1.2)
            )
        if example.patches is not None:
            middle.imshow(np.asarray(example.patches))
        for axes in (left, middle):
            axes.set_axis_off()
        said = f"{example.generated!r} (p = {example.p_clean:.3f}; gold {asked.answer!r})"
        question = textwrap.fill(f"{example.why}: {asked.question}", 44)
        left.set_title(f"{question}\n{said}", loc="left", parse_math=False)  # a dollar sign is one
        for flow, (centres, change) in example.curves.items():
            look = looks[flow]
            step = max(1, len(centres) // 8)
            right.plot(
                centres, change, color=look.colour, linestyle=look.dash, marker=look.marker, markevery=step,
                label=arrow(flow),
            )  # fmt: skip
        right.axhline(0, color="0.55", linewidth=0.6, zorder=1)
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.set_xlabel("centre layer")
        right.set_ylabel("change in answer\nprobability (%)")
    handles = {str(line.get_label()): line for right in grid[:, 2] for line in right.get_lines()[:-1]}
    figure.legend(
        handles=list(handles.values()), loc="outside lower left", ncols=4, frameon=False, handlelength=3.2,
        alignment="left",
    )  # fmt: skip
    return figure

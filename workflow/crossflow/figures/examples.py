"""Single questions: the image with its related visual tokens beside the question's own curves."""

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from crossflow.analysis.curves import Knockouts
from crossflow.analysis.results import Results
from crossflow.core.errors import BrokenQuestion, CrossflowError, require_some_usable
from crossflow.core.records import ChosenQuestion
from crossflow.data.chosen import read_chosen
from crossflow.data.images import Images, ImageSource
from crossflow.figures.flows import Curves, draw_flows
from crossflow.figures.overlay import panels
from crossflow.figures.style import BOX, PAGE_WIDTH, SETTINGS, own_settings, save, window_in_words
from crossflow.models.folder import ModelSource
from crossflow.models.loading import sketch_model
from crossflow.models.model import ModelSettings, MultimodalModel

log = logging.getLogger(__name__)


class Example(NamedTuple):
    """One question.

    Attributes:
        why: Why it was chosen.
        image: Its image.
        tokens: Its visual tokens over the image, the related ones shaded; None if they cannot be drawn.
        curves: Flow -> centre layers and change in percent.
    """

    why: str
    question: ChosenQuestion
    generated: str
    p_clean: float
    image: Image.Image
    tokens: Image.Image | None
    curves: Curves


def choose_examples(table: Knockouts) -> dict[str, str]:
    """Which questions are shown, and why: question id -> reason; those with the largest and the median fall.

    The fall of a question is the largest over its flows and layers, controls left out; ties are broken by question id.
    """
    falls = table.largest(np.negative)
    order = sorted(falls, key=lambda question: (-falls[question], question))
    if not order:
        return {}
    reasons = {order[len(order) // 2]: "median fall"}
    return {order[0]: "largest fall"} | reasons


def draw_examples(examples: Sequence[Example], heading: str) -> Figure:
    """One row per question, or a note without any; call and save it within `style.own_settings`."""
    figure = Figure(figsize=(PAGE_WIDTH, 0.6 + 2.5 * max(1, len(examples))), layout="constrained")
    figure.suptitle(heading, x=0.01, ha="left", fontsize=SETTINGS["axes.labelsize"])
    if not examples:
        figure.text(0.5, 0.5, "no question selected", ha="center")
        return figure
    grid = figure.subplots(len(examples), 3, squeeze=False, width_ratios=(1, 1, 1.5))
    for example, (left, middle, right) in zip(examples, grid, strict=True):
        asked = example.question
        left.imshow(np.asarray(example.image))
        for chosen in asked.objects:
            corner = (chosen.box.x, chosen.box.y)
            left.add_patch(Rectangle(corner, chosen.box.w, chosen.box.h, fill=False, edgecolor=BOX, linewidth=1.2))
        if example.tokens is not None:
            middle.imshow(np.asarray(example.tokens))
        for axes in (left, middle):
            axes.set_axis_off()
        said = f"{example.generated!r} (p = {example.p_clean:.3f}; gold {asked.answer!r})"
        question = textwrap.fill(f"{example.why}: {asked.question}", 44)
        left.set_title(f"{question}\n{said}", loc="left", parse_math=False)  # a dollar sign is one
        draw_flows(right, example.curves)
        right.set_xlabel("centre layer")
        right.set_ylabel("change in answer\nprobability (%)")
    handles = {str(line.get_label()): line for right in grid[:, 2] for line in right.get_lines()[:-1]}
    figure.legend(
        handles=list(handles.values()), loc="outside lower left", ncols=4, frameon=False, handlelength=3.2,
        alignment="left",
    )  # fmt: skip
    return figure


def examples_of(table: Knockouts, results: Results, sketch: MultimodalModel, images: Images) -> list[Example]:
    """The examples of one category; a question whose image is no longer usable is left out, unless all are.

    Args:
        sketch: The model, without weights.

    Raises:
        CrossflowError: a table is absent or damaged, or no question can be used.
    """
    rows = results.answers(table.model, table.category).set_index("question_id").to_dict("index")
    chosen = read_chosen(results.results / "questions" / f"{table.category}.csv")
    questions = {question.question_id: question for question in chosen}
    found, broken = [], {}
    wanted = choose_examples(table)
    for question_id, why in wanted.items():
        question, row = questions[question_id], rows[question_id]
        try:
            question, image = images.open_for(question)
            tokens = panels(sketch, sketch.prepare(question, image), image)[0].image
        except BrokenQuestion as reason:
            log.warning("leaving out question %s: %s", question_id, reason)
            broken[question_id] = reason
            continue
        except CrossflowError as reason:
            log.warning("%s: %s", question_id, reason)
            tokens = None
        curves = table.of_question(question_id)
        found.append(Example(why, question, row["generated"], row["p_clean"], image, tokens, curves))
    require_some_usable(broken, len(wanted), f"the examples of {table.category}")
    return found


def write_examples(results: Results, model: ModelSource, images: ImageSource, output: tuple[Path, ...]) -> None:
    """Draw a few single questions of every category; no weights are read.

    Args:
        results: The study's results: one model and one window.
        model: The model.
        images: The images of the questions.
        output: A .pdf and a .png for each category, with names that end in the category.

    Raises:
        CrossflowError: a table or the model's folder cannot be used.
    """
    sketch = sketch_model(ModelSettings.of(model), torch.device("cpu"))
    with images.open() as opened, own_settings():
        for table in results.all_knockouts():
            heading = f"{table.model}, {table.category}, {window_in_words(table.window)}"
            files = [path for path in output if path.stem.endswith(f"-{table.category}")]
            save(draw_examples(examples_of(table, results, sketch, opened), heading), files)

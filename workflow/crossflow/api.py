"""What `import crossflow as cf` offers: knockouts in a notebook or a script, with the functions that the jobs use.

    import crossflow as cf

    model = cf.load("mini-llava")
    asked = cf.ask(model, "scene.jpg", "Is the box to the left or to the right of the star?")
    table = cf.knockout(asked, ["image->question", "question->last"])
    cf.plot(table)

`load` reads a model, `ask` puts a question to it, `knockout`, `knockout_heads` and `logit_lens` return tables with the
columns of a study's result tables, `plot` and `show` draw. Unusable input raises `CrossflowError` with the sentence
that the command line prints.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from crossflow.asking import Asked, ImageLike, Model
from crossflow.core.errors import CrossflowError, faults_as_errors

try:
    from matplotlib import pyplot
    from matplotlib.axes import Axes
except ValueError as error:
    raise CrossflowError(
        "The variable MPLBACKEND names a backend of matplotlib that is not installed: install it, or unset it."
    ) from error

from crossflow.core.flows import PUBLISHED_FLOWS, SWAPPED, Flow, parse_flow, require_centres, require_window, sets_of
from crossflow.core.measures import HEADS, KNOCKOUT
from crossflow.core.records import ChosenQuestion
from crossflow.core.tables import LENS, data_frame, question_rows
from crossflow.engine.engines import ENGINES
from crossflow.engine.planning import AT_ONCE
from crossflow.experiments import knocked_out
from crossflow.experiments.heads import Case, heads_of, knock_out_heads
from crossflow.experiments.logit_lens import last_states, track_options
from crossflow.experiments.sinks import SinkSets
from crossflow.experiments.trace import SEED
from crossflow.figures.flows import draw_flows, mean_curves
from crossflow.figures.overlay import draw_overlay

_SIZE = (8.0, 3.4)  # inches, for a figure of curves


def _together(asked: Asked | Sequence[Asked]) -> tuple[Model, list[Asked]]:
    """The questions and their model.

    Raises:
        CrossflowError: there is no question, or the questions belong to different models.
    """
    every = [asked] if isinstance(asked, Asked) else list(asked)
    if not every:
        raise CrossflowError("No question was given: pass what ask returned.")
    if any(one.model.loaded is not every[0].model.loaded for one in every):
        raise CrossflowError("The questions belong to different models: pass the questions of one model at a time.")
    return every[0].model, every


def _published(every: Sequence[Asked]) -> list[str]:
    """The six published flows, without those of objects if no question is about any."""
    shown = any(one.question.objects for one in every)
    return [name for name in PUBLISHED_FLOWS if shown or parse_flow(name).parts[0].source not in ("related", "other")]


def _one_each(swapped: ImageLike | Sequence[ImageLike] | None, count: int) -> Sequence[ImageLike | None]:
    """Another image for each question.

    Raises:
        CrossflowError: there are several, but not one for each question.
    """
    if swapped is None or isinstance(swapped, ImageLike):
        return [swapped] * count
    if len(swapped) != count:
        raise CrossflowError(
            f"{len(swapped)} other images were given for {count} questions: give one, or one for each."
        )
    return swapped


def _require_usable(flows: Sequence[Flow], questions: Sequence[ChosenQuestion], swapped: bool) -> None:
    """Refuse flows of objects if no question is about any, and substitutions that lack images.

    Raises:
        CrossflowError: a flow is refused.
    """
    objects = [chosen for question in questions for chosen in question.objects]
    lacking = {} if objects else {"related": "boxes"}
    if not any(chosen.name for chosen in objects):
        lacking["object"] = "names"
    for flow in flows:
        if flow.substitute == SWAPPED and not swapped:
            raise CrossflowError(f"Flow {flow.name!r} reads another image: pass it as swapped.")
        if flow.substitute not in (None, SWAPPED) or flow.module_means:
            raise CrossflowError(
                f"Flow {flow.name!r} reads a mean over questions, which single questions do not have: substitute in a "
                "study (flows of params.yaml)."
            )
        sets = {each for part in flow.parts for name in (part.source, part.target) for each in sets_of(name)}
        for name in lacking.keys() & sets:
            raise CrossflowError(
                f"Flow {flow.name!r} needs the {lacking[name]} of the objects that the question is about: pass boxes "
                "to ask."
            )


def _read(flows: str | Sequence[str] | None, every: Sequence[Asked], swapped: bool) -> tuple[list[str], list[Flow]]:
    """Names of flows, the published ones by default, and what they say.

    Raises:
        CrossflowError: a flow is invalid, or needs what the questions do not have.
    """
    names = _published(every) if flows is None else [flows] if isinstance(flows, str) else list(flows)
    parsed = [parse_flow(name) for name in names]
    _require_usable(parsed, [one.question for one in every], swapped)
    return names, parsed


def _batches(
    model: Model, every: Sequence[Asked], flows: Sequence[Flow], others: Sequence[ImageLike | None], seed: int
) -> Iterator[list[knocked_out.Answered]]:
    """Questions that run together, with moved boxes, other images and sinks where flows need them."""
    moved = seed if any(flow.is_moved for flow in flows) else None
    sinks = SinkSets(model.loaded, [flow.name for flow in flows], model.name)
    for first in range(0, len(every), AT_ONCE):
        asked = zip(every[first : first + AT_ONCE], others[first:], strict=False)
        answered = [one.answered(moved, other) for one, other in asked]
        prompts = sinks.added_to([one.prepared for one in answered])
        yield [one._replace(prepared=prompt) for one, prompt in zip(answered, prompts, strict=True)]


def knockout(
    asked: Asked | Sequence[Asked],
    flows: str | Sequence[str] | None = None,
    window: int | str | None = None,
    *,
    layers: Sequence[int] | None = None,
    swapped: ImageLike | Sequence[ImageLike] | None = None,
    seed: int = SEED,
    whole_answer: bool = False,
) -> pd.DataFrame:
    """Knock out flows, and compare with the clean run.

    Args:
        asked: From `ask`: a question, or several of one model.
        flows: Flows, ``source->target``, their sums, paths and controls such as ``image~random1->question``; by default
            the six of the published study, without ``related`` and ``other`` if no boxes of objects were given.
        window: Width in layers, ``bottom`` or ``top``; by default the model's own.
        layers: Centre layers; by default all.
        swapped: For flows such as ``image=swapped->question``: another image, or one for each question, whose keys and
        values the targets read. seed: Seed of random source sets and of moved boxes.
        whole_answer: Score all tokens of the answer, not only the first.

    Returns:
        One row per question, flow and centre layer, with the columns of a study's knockout table, so that tables can be
        joined. For a question given as text, ``question_id`` is the text and ``image_id`` the file name. A flow that
        blocks no edge of a question has rows with ``edges`` 0 and no numbers.

    Raises:
        CrossflowError: a flow is invalid or needs boxes of objects, or the window or a layer does not fit the model.

    Example:
        >>> import crossflow as cf
        >>> model = cf.load("mini-llava", device="cpu")
        >>> scene = "resources/example/pictures/scene6.jpg"
        >>> asked = cf.ask(model, scene, "Is the box to the left or to the right of the star?")
        >>> table = cf.knockout(asked, ["image->question", "question->last"], window=3)
        >>> table.groupby("flow")["change_percent"].min().round().astype(int).to_dict()
        {'image->question': -6, 'question->last': -96}
    """
    model, every = _together(asked)
    names, parsed = _read(flows, every, swapped is not None)
    width = str(model.window if window is None else window)
    require_window(width, model.layers, model.name)
    centres = list(range(model.layers)) if layers is None else [int(layer) for layer in layers]
    require_centres(centres, model.layers, model.name)
    batches = _batches(model, every, parsed, _one_each(swapped, len(every)), seed)
    entries: list[tuple[ChosenQuestion, dict[str, Any]]] = []
    with faults_as_errors():
        for batch in batches:
            found = knocked_out.knock_out(
                model.loaded,
                batch,
                dict.fromkeys(names, centres),
                width,
                ENGINES["knockout"],
                seed,
                whole_answer,
            )
            entries += [(one.prepared.question, outcome.columns()) for one, outcome in zip(batch, found, strict=True)]
    return data_frame(KNOCKOUT, question_rows(KNOCKOUT, entries))


def _require_heads(heads: Sequence[tuple[int, int]], layers: int, on_layer: int, model: str) -> None:
    """Refuse heads that the model does not have.

    Raises:
        CrossflowError: a head does not exist, or none is given.
    """
    if not heads:
        raise CrossflowError("No head was given: give pairs of a layer and a head.")
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < on_layer):
            raise CrossflowError(
                f"Head {head} of layer {layer} does not exist: {model} has layers 0 to {layers - 1} with heads 0 to "
                f"{on_layer - 1}."
            )


def knockout_heads(
    asked: Asked | Sequence[Asked],
    flows: str | Sequence[str] | None = None,
    heads: Sequence[tuple[int, int]] | None = None,
    *,
    together: bool = False,
    swapped: ImageLike | Sequence[ImageLike] | None = None,
    seed: int = SEED,
) -> pd.DataFrame:
    """Knock out flows in some attention heads only, and compare with the clean run.

    Args:
        asked: From `ask`: a question, or several of one model.
        flows: Flows, as for `knockout`.
        heads: Query heads, as pairs of a layer and a head, both counted from 0; by default all heads of all layers.
        together: Knock out all of them at once, instead of each alone.
        swapped: As for `knockout`.
        seed: Seed of random source sets and of moved boxes.

    Returns:
        One row per question, flow and head, with the columns of a study's table of heads; one row per question and flow
        if the heads are knocked out together.

    Raises:
        CrossflowError: a flow is invalid or needs what the questions do not have, or a head does not exist.

    Example:
        >>> import crossflow as cf
        >>> model = cf.load("mini-llava", device="cpu")
        >>> scene = "resources/example/pictures/scene6.jpg"
        >>> asked = cf.ask(model, scene, "Is the box to the left or to the right of the star?")
        >>> table = cf.knockout_heads(asked, "question->last")
        >>> table.nsmallest(1, "change_percent")[["layer", "head"]].to_numpy().tolist()
        [[0, 2]]
    """
    model, every = _together(asked)
    names, parsed = _read(flows, every, swapped is not None)
    shape = model.layers, heads_of(model.loaded)
    chosen = list(np.ndindex(shape)) if heads is None else [(int(layer), int(head)) for layer, head in heads]
    _require_heads(chosen, *shape, model.name)
    cases = [Case.alone(*head) for head in chosen]
    if together:
        subset = np.zeros(shape, dtype=bool)
        subset[tuple(np.transpose(chosen))] = True
        cases = [Case.together(subset)]
    batches = _batches(model, every, parsed, _one_each(swapped, len(every)), seed)
    with faults_as_errors():
        entries = [
            (one.prepared.question, knock_out_heads(model.loaded, one, names, cases, ENGINES["knockout"], seed))
            for batch in batches
            for one in batch
        ]
    return data_frame(HEADS, question_rows(HEADS, entries))


def logit_lens(asked: Asked | Sequence[Asked]) -> pd.DataFrame:
    """Read the answer off the last position after every layer.

    Args:
        asked: From `ask`: a question, or several of one model.

    Returns:
        The columns of a study's logit lens table: ``layer`` (0: the embeddings), ``normed`` (whether the final
        norm was applied before), ``token`` (``answer`` and ``false_option``, in lower case and capitalised) and
        ``probability`` (0..1) of the first token.

    Raises:
        CrossflowError: the model's layers cannot be read.

    Example:
        >>> import crossflow as cf
        >>> model = cf.load("mini-llava", device="cpu")
        >>> scene = "resources/example/pictures/scene9.jpg"
        >>> asked = cf.ask(model, scene, "On which side of the picture is the cross?")
        >>> lens = cf.logit_lens(asked)
        >>> lens[lens["normed"] & (lens["token"] == "answer_capitalized")]["probability"].round(2).tolist()[-2:]
        [1.0, 1.0]
    """
    _, every = _together(asked)
    with faults_as_errors():
        entries = [
            (one.question, track_options(one.model.loaded, one.question, states))
            for one in every
            for states in last_states(one.model.loaded, [one.prepared])
        ]
    return data_frame(LENS, question_rows(LENS, entries))


def plot(table: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """Draw the curves of a table from `knockout` or `logit_lens`, in the style of a study's figures.

    Args:
        table: The table, or some of its rows; a curve is the mean over the questions.
        axes: Where to draw; by default in a new figure.

    Returns:
        The axes.

    Raises:
        CrossflowError: the table is neither.

    Example:
        >>> import crossflow as cf
        >>> model = cf.load("mini-llava", device="cpu")
        >>> scene = "resources/example/pictures/scene6.jpg"
        >>> asked = cf.ask(model, scene, "Is the box to the left or to the right of the star?")
        >>> axes = cf.plot(cf.knockout(asked, "question->last"))
        >>> axes.get_xlabel()
        'centre layer'
    """
    if {"flow", "change_percent"} <= set(table.columns):
        curves = dict(mean_curves(table, names="flow", numbers="change_percent"))
        labels = "centre layer", "change in answer probability (%)"
    elif {"token", "probability", "normed"} <= set(table.columns):
        curves = dict(mean_curves(table[table["normed"]], names="token", numbers="probability"))
        labels = "layer", "probability of the first token"
    else:
        raise CrossflowError(
            f"A table from knockout or logit_lens was expected; this one has the columns {', '.join(table.columns)}."
        )
    if axes is None:
        _, axes = pyplot.subplots(figsize=_SIZE, layout="constrained")
        axes.spines[["top", "right"]].set_visible(False)
    draw_flows(axes, curves)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    if curves:
        axes.legend(frameon=False, handlelength=3.2, loc="upper left", bbox_to_anchor=(1, 1))
    return axes


def show(asked: Asked) -> Image.Image:
    """Draw a question's image with the boxes of its objects, beside the visual tokens that show them.

    Args:
        asked: From `ask`.

    Returns:
        An image, which a notebook displays.

    Example:
        >>> import crossflow as cf
        >>> model = cf.load("mini-llava", device="cpu")
        >>> scene = "resources/example/pictures/scene9.jpg"
        >>> asked = cf.ask(model, scene, "On which side of the picture is the cross?", boxes=[(44, 35, 29, 29)])
        >>> cf.show(asked).width > asked.image.width
        True
    """
    return draw_overlay(asked.model.loaded, asked.prepared, asked.image)

"""What `import crossflow as cf` offers: knockouts in a notebook or a script, with the functions that the jobs use.

    import crossflow as cf

    model = cf.load("mini-llava")
    asked = cf.ask(model, "scene.jpg", "Is the box to the left or to the right of the star?")
    table = cf.knockout(asked, ["image->question", "question->last"])
    cf.plot(table)

`load` reads a model, `ask` puts a question to it, `knockout` and `logit_lens` return tables with the columns of a
study's result tables, `plot` and `show` draw. Unusable input raises `CrossflowError` with the sentence that the command
line prints.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pandas as pd
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers.utils import logging as transformers_logging

from crossflow.core.errors import BrokenQuestion, CrossflowError, faults_as_errors

try:
    from matplotlib import pyplot
    from matplotlib.axes import Axes
except ValueError as error:
    raise CrossflowError(
        "The variable MPLBACKEND names a backend of matplotlib that is not installed: install it, or unset it."
    ) from error

from crossflow.core.devices import take_device
from crossflow.core.flows import PUBLISHED_FLOWS, SET_NAMES, Flow, parse_flow, require_centres, require_window
from crossflow.core.measures import KNOCKOUT
from crossflow.core.records import ChosenQuestion
from crossflow.core.tables import LENS, data_frame, question_rows
from crossflow.data.images import Images, in_rgb, upright
from crossflow.engine.engines import ENGINES
from crossflow.engine.forward import run_clean
from crossflow.engine.planning import AT_ONCE
from crossflow.experiments import answers, knocked_out
from crossflow.experiments.logit_lens import last_states, track_options
from crossflow.experiments.sinks import SinkSets, with_sinks
from crossflow.experiments.trace import SEED, box_of, own_question
from crossflow.fetch import hub
from crossflow.figures.flows import draw_flows, mean_curves
from crossflow.figures.overlay import draw_overlay
from crossflow.models.folder import ModelSource, folder_of
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings, MultimodalModel, Prepared
from crossflow.models.preparing import prepare
from crossflow.models.prompts import TEMPLATES
from crossflow.study import inputs
from crossflow.study.config_files import read_config

_SIZE = (8.0, 3.4)  # inches, for a figure of curves
_OWN_WINDOW = 3  # layers; for a model in a folder, which has no window in params.yaml


@dataclass(frozen=True, repr=False)
class Model:
    """A loaded model; `load` returns it.

    Attributes:
        name: Its name in params.yaml, or its folder.
        window: Width of its window in layers; `knockout` may take another.
        loaded: The transformers model, its processor and settings.
    """

    name: str
    window: int
    loaded: MultimodalModel

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self.loaded.layers)

    def __repr__(self) -> str:
        """Name, size and device of the model, in one line."""
        dtype, device = self.loaded.settings.dtype, self.loaded.device
        return f"<model {self.name}: {self.layers} layers, window {self.window}, {dtype} on {device}>"


@dataclass(frozen=True, repr=False, eq=False)
class Asked:
    """One question about one image, and the model's answer; `ask` returns it.

    Attributes:
        model: The model.
        image: The image.
        prepared: The model's inputs, and the position sets of the prompt as arrays.
        generated: The greedy answer with its tokens, and the probabilities of the first.
    """

    model: Model
    image: Image.Image
    prepared: Prepared
    generated: answers.Answer

    @property
    def question(self) -> ChosenQuestion:
        """The question, its gold answer, options and objects."""
        return self.prepared.question

    @property
    def answer(self) -> str:
        """The model's greedy answer."""
        return self.generated.text

    @property
    def probability(self) -> float:
        """Probability of the answer's first token, 0..1."""
        return float(self.generated.probabilities[self.generated.tokens[0]])

    @cached_property
    def positions(self) -> pd.DataFrame:
        """The prompt: one row per position. Its sinks are computed at first use.

        Columns: ``position`` (from 0), ``token`` (its number in the vocabulary), ``text``, and one column of booleans
        per position set, named as in flows.

        Example:
            >>> import crossflow as cf
            >>> model = cf.load("mini-llava", device="cpu")
            >>> scene = "resources/example/pictures/scene9.jpg"
            >>> asked = cf.ask(model, scene, "On which side of the picture is the cross?")
            >>> table = asked.positions
            >>> table.loc[table["question"], "text"].tolist()
            ['On', 'which', 'side', 'of', 'the', 'picture', 'is', 'the', 'cross', '?']
        """
        tokens = self.prepared.inputs["input_ids"][0].tolist()
        with faults_as_errors():
            (prepared,) = with_sinks(self.model.loaded, [self.prepared])
        positions = prepared.positions
        tokenizer = self.model.loaded.processor.tokenizer
        members = {name: np.isin(np.arange(positions.length), positions[name]) for name in SET_NAMES}
        texts = [tokenizer.decode([token]) for token in tokens]
        return pd.DataFrame({"position": range(positions.length), "token": tokens, "text": texts} | members)

    @cached_property
    def states(self) -> Float[Tensor, "states positions width"]:
        """The residual stream of the clean run, on the CPU, computed at first use.

        Entry 0 holds the embeddings, and entry ``l`` the hidden states after ``l`` decoder layers, the last one before
        the final norm.

        Example:
            >>> import crossflow as cf
            >>> model = cf.load("mini-llava", device="cpu")
            >>> scene = "resources/example/pictures/scene9.jpg"
            >>> asked = cf.ask(model, scene, "On which side of the picture is the cross?")
            >>> tuple(asked.states.shape) == (model.layers + 1, len(asked.positions), 128)
            True
        """
        with faults_as_errors():
            return run_clean(self.model.loaded, self.prepared, 0).states.cpu()

    def answered(self, moved: int | None = None) -> knocked_out.Answered:
        """The question and its answer, as `crossflow.experiments.knocked_out` takes them.

        Args:
            moved: Seed of moved boxes; by default the objects' boxes are not moved.
        """
        prepared = self.prepared
        if moved is not None:
            prepared = prepare(self.model.loaded, knocked_out.request_of(self.question, moved), self.image)
        return knocked_out.Answered(prepared, self.generated.text, self.generated.tokens)

    def __repr__(self) -> str:
        """Question and answer, in one line."""
        return f"<{self.question.question!r} {self.answer!r}, p = {self.probability:.4f} (first token)>"


def _entry(params: Path, slug: str) -> dict[str, Any]:
    """A model's entry in a file of parameters."""
    models = read_config(params).get("models")
    if not isinstance(models, dict):
        raise CrossflowError(f"{params} has no models: settings as in params.yaml were expected.")
    if slug not in models:
        raise CrossflowError(f"{params} has no model {slug!r}; choose from {', '.join(models)}.")
    entry: dict[str, Any] = models[slug]
    return entry


def _settings(entry: Mapping[str, Any], name: str) -> ModelSettings:
    """The settings of an entry; a model on the hub is downloaded if it is not in the cache."""
    hints = get_type_hints(ModelSource)
    found = {key: entry[key] for key in inputs.SETTINGS if entry.get(key) is not None}
    for key, value in found.items():
        known = list(TEMPLATES) if key == "prompt" else get_args(hints[key])
        if known and value not in known:
            raise CrossflowError(f"Model {name}: unknown {key} {value!r}; choose from {', '.join(known)}.")
    path = folder_of(hub.fetch(entry["repo"], entry["revision"])) if "repo" in entry else Path(entry["path"])
    return ModelSettings(path.expanduser(), **found)


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Load without a progress bar: in a notebook without ipywidgets, the bar is a page of text."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def load(
    model: str | Path,
    *,
    params: str | Path = "params.yaml",
    prompt: str | None = None,
    image: str | None = None,
    patches: str | None = None,
    dtype: str | None = None,
    max_new_tokens: int | None = None,
    device: str = "auto",
) -> Model:
    """Load a model: an entry of params.yaml, or a folder.

    An entry that names a model on the Hugging Face hub is downloaded if necessary. A `Path`, or a text with a slash, is
    a folder in Hugging Face format.

    Args:
        model: Name of an entry, or a folder.
        params: File of parameters, for an entry.
        prompt: ``vicuna-v1``, ``llava-llama-3`` or ``chat-template``; by default the entry's; for a folder,
        ``chat-template``. image: ``processor`` (as the folder says), ``pad`` (to a square) or ``anyres`` (tiled).
        patches: The rule that says which visual tokens show a box, ``published`` or ``overlap``; by default the
        entry's; for a folder, ``overlap``.
        dtype: Type of the weights: ``float32``, ``float16`` or ``bfloat16``.
        max_new_tokens: Maximum length of an answer, in tokens.
        device: ``auto`` (a free GPU, otherwise the CPU), ``cpu`` or ``cuda:N``.

    Raises:
        CrossflowError: the entry does not exist, or the model cannot be downloaded or loaded.

    Example:
        >>> import crossflow as cf
        >>> cf.load("mini-llava", device="cpu")
        <model mini-llava: 8 layers, window 3, float32 on cpu>
        >>> cf.load("resources/mini-llava", prompt="vicuna-v1", device="cpu").layers
        8
        >>> cf.load("llava")
        Traceback (most recent call last):
        ...
        crossflow.core.errors.CrossflowError: params.yaml has no model 'llava'; choose from mini-llava, ...
    """
    name = str(model)
    entry: dict[str, Any] = {"path": name, "prompt": "chat-template", "patches": "overlap"}
    if not isinstance(model, Path) and "/" not in name and os.sep not in name:
        entry = _entry(Path(params), name)
    given = {"prompt": prompt, "image": image, "patches": patches, "dtype": dtype, "max_new_tokens": max_new_tokens}
    settings = _settings(entry | {key: value for key, value in given.items() if value is not None}, name)
    with faults_as_errors(), _without_progress_bar():
        loaded = load_model(settings, take_device(device))
    return Model(name, entry.get("window", min(_OWN_WINDOW, len(loaded.layers))), loaded)


def open_image(image: str | Path | Image.Image) -> Image.Image:
    """An image in RGB, from a file or from Pillow.

    Raises:
        CrossflowError: the file is missing, or does not decode.
    """
    path = Path("image" if isinstance(image, Image.Image) else image).expanduser()
    try:
        if isinstance(image, Image.Image):
            return in_rgb(upright(image), "that is given")
        with Images(path.parent, by_file=True) as images:
            return images.open(path.name)
    except BrokenQuestion as reason:
        raise CrossflowError(f"{path}: {reason}.") from reason


def ask(
    model: Model,
    image: str | Path | Image.Image,
    question: str | ChosenQuestion,
    boxes: Sequence[str | Sequence[int]] | Mapping[str, str | Sequence[int]] = (),
    *,
    answer: str | None = None,
    options: tuple[str, str] | None = None,
) -> Asked:
    """Ask a question about an image.

    Args:
        model: From `load`.
        image: A file, or a Pillow image.
        question: The text; or a question from a study or a table, which has its own boxes, answer and options
            (`crossflow.data.chosen.read_chosen`, `crossflow.data.question_table.read_question_table`).
        boxes: Boxes of the objects that the question is about: left, top, width and height in pixels of the image. With
        names, as in ``{"box": (54, 56, 28, 27)}``, the set ``object`` holds the tokens that name the objects.
        answer: The whole answer that counts as correct; by default the first option, otherwise the model's own answer.
        options: The two options that the question offers, the true one first; for the margins in a table of knockouts,
            and for flows of ``true_option`` and the like.

    Raises:
        CrossflowError: the image, a box or the question cannot be used.

    Example:
        >>> import crossflow as cf
        >>> model = cf.load("mini-llava", device="cpu")
        >>> scene = "resources/example/pictures/scene6.jpg"
        >>> asked = cf.ask(model, scene, "Is the box to the left or to the right of the star?")
        >>> asked.answer
        'Right'
        >>> asked.probability > 0.99
        True
    """
    name = "image" if isinstance(image, Image.Image) else str(image)
    seen = open_image(image)
    if isinstance(question, str):
        named = boxes if isinstance(boxes, Mapping) else {}
        found = [box_of(box) for box in (named.values() if named else boxes)]
        question = own_question(
            question, found, list(named), image_id=name, answer=answer, options=options, size=seen.size
        )
    elif boxes or answer or options:
        raise CrossflowError(
            f"Question {question.question_id} already has boxes, an answer and options: leave out these arguments."
        )
    try:
        with faults_as_errors():
            prepared = prepare(model.loaded, knocked_out.request_of(question, None), seen)
            said = answers.answer(model.loaded, prepared)
    except BrokenQuestion as reason:
        raise CrossflowError(f"{name}, {question.question!r}: {reason}.") from reason
    if not question.answer:
        prepared = replace(prepared, question=replace(question, answer=said.text))
    return Asked(model, seen, prepared, said)


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


def _require_objects(flows: Sequence[Flow], questions: Sequence[ChosenQuestion]) -> None:
    """Refuse flows of objects if no question is about any, and substitutions.

    Raises:
        CrossflowError: a flow is refused.
    """
    objects = [chosen for question in questions for chosen in question.objects]
    lacking = {} if objects else {"related": "boxes"}
    if not any(chosen.name for chosen in objects):
        lacking["object"] = "names"
    for flow in flows:
        if flow.substitute is not None:
            raise CrossflowError(
                f"Flow {flow.name!r} reads other images, which a single question does not have: substitute in a study "
                "(flows of params.yaml)."
            )
        sets = {name for part in flow.parts for name in (part.source, part.target)}
        for name in lacking.keys() & sets:
            raise CrossflowError(
                f"Flow {flow.name!r} needs the {lacking[name]} of the objects that the question is about: pass boxes "
                "to ask."
            )


def knockout(
    asked: Asked | Sequence[Asked],
    flows: str | Sequence[str] | None = None,
    window: int | str | None = None,
    *,
    layers: Sequence[int] | None = None,
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
        seed: Seed of random source sets and of moved boxes.
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
    if flows is None:
        shown = any(one.question.objects for one in every)
        flows = [
            name for name in PUBLISHED_FLOWS if shown or parse_flow(name).parts[0].source not in ("related", "other")
        ]
    names = [flows] if isinstance(flows, str) else list(flows)
    parsed = [parse_flow(name) for name in names]
    _require_objects(parsed, [one.question for one in every])
    width = str(model.window if window is None else window)
    require_window(width, model.layers, model.name)
    centres = list(range(model.layers)) if layers is None else [int(layer) for layer in layers]
    require_centres(centres, model.layers, model.name)
    moved = seed if any(flow.is_moved for flow in parsed) else None
    sinks = SinkSets(model.loaded, names, model.name)
    entries: list[tuple[ChosenQuestion, dict[str, Any]]] = []
    with faults_as_errors():
        for first in range(0, len(every), AT_ONCE):
            batch = every[first : first + AT_ONCE]
            answered = [one.answered(moved) for one in batch]
            prompts = sinks.added_to([one.prepared for one in answered])
            found = knocked_out.knock_out(
                model.loaded,
                [one._replace(prepared=prompt) for one, prompt in zip(answered, prompts, strict=True)],
                dict.fromkeys(names, centres),
                width,
                ENGINES["knockout"],
                seed,
                whole_answer,
            )
            entries += [(one.question, outcome.columns()) for one, outcome in zip(batch, found, strict=True)]
    return data_frame(KNOCKOUT, question_rows(KNOCKOUT, entries))


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

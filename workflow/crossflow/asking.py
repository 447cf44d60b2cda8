"""Models and questions in a notebook or a script: `load` reads a model, `ask` puts a question to it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers.utils import logging as transformers_logging

from crossflow.core.devices import take_device
from crossflow.core.errors import BrokenQuestion, CrossflowError, faults_as_errors
from crossflow.core.flows import SET_NAMES, SWAPPED
from crossflow.core.records import ChosenQuestion
from crossflow.data.images import Images, in_rgb, upright
from crossflow.engine.forward import run_clean
from crossflow.experiments import answers, knocked_out
from crossflow.experiments.sinks import with_sinks
from crossflow.experiments.trace import box_of, own_question
from crossflow.fetch import hub
from crossflow.models.folder import ModelSource, folder_of
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings, MultimodalModel, Prepared
from crossflow.models.preparing import prepare
from crossflow.models.prompts import TEMPLATES
from crossflow.study import inputs
from crossflow.study.config_files import read_config

ImageLike = str | Path | Image.Image
"""A file, or a Pillow image."""
_OWN_WINDOW = 3  # layers; for a model in a folder, which has no window in params.yaml
_SHIPPED = Path(__file__).parent / "shipped"  # in an installed wheel: params.yaml and the small model


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

    def answered(self, moved: int | None = None, swapped: "ImageLike | None" = None) -> knocked_out.Answered:
        """The question and its answer, as `crossflow.experiments.knocked_out` takes them.

        Args:
            moved: Seed of moved boxes; by default the objects' boxes are not moved.
            swapped: Another image, whose keys and values substitutions read.

        Raises:
            CrossflowError: the other image cannot be used, or its visual tokens are laid out in another way.
        """
        loaded, prepared = self.model.loaded, self.prepared
        if moved is not None:
            prepared = prepare(loaded, knocked_out.request_of(self.question, moved), self.image)
        answered = knocked_out.Answered(prepared, self.generated.text, self.generated.tokens)
        if swapped is None:
            return answered
        # The boxes are not about the other image.
        question = replace(self.question, objects=(), image_size=None)
        other = prepare(loaded, knocked_out.request_of(question, None), open_image(swapped))
        if other.layout != prepared.layout:
            width, height = self.image.size
            raise CrossflowError(
                f"The other image has another layout of visual tokens than the question's: resize it to {width} x "
                f"{height} pixels."
            )
        return answered._replace(donors={SWAPPED: other})

    def __repr__(self) -> str:
        """Question and answer, in one line."""
        return f"<{self.question.question!r} {self.answer!r}, p = {self.probability:.4f} (first token)>"


def _entry(params: Path, slug: str) -> dict[str, Any]:
    """A model's entry in a file of parameters; without a params.yaml here, in the one that a wheel ships."""
    shipped = params == Path("params.yaml") and not params.exists() and _SHIPPED.is_dir()
    models = read_config(_SHIPPED / params if shipped else params).get("models")
    if not isinstance(models, dict):
        raise CrossflowError(f"{params} has no models: settings as in params.yaml were expected.")
    if slug not in models:
        raise CrossflowError(f"{params} has no model {slug!r}; choose from {', '.join(models)}.")
    entry: dict[str, Any] = models[slug]
    return entry | {"path": str(_SHIPPED / entry["path"])} if shipped and "path" in entry else entry


def _settings(entry: Mapping[str, Any], name: str) -> ModelSettings:
    """The settings of an entry; a model on the hub is downloaded if it is not in the cache."""
    hints = get_type_hints(ModelSource)
    found = {key: entry[key] for key in inputs.SETTINGS if entry.get(key) is not None}
    for key, value in found.items():
        choices = get_args(hints[key]) if get_origin(hints[key]) is Literal else ()
        known = list(TEMPLATES) if key == "prompt" else choices
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
        params: File of parameters, for an entry. An installed package brings a params.yaml with the small model, for
            folders without one.
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


def open_image(image: ImageLike) -> Image.Image:
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
    image: ImageLike,
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

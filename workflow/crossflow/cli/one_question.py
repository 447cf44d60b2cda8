"""What the verbs `trace` and `check` share: one question about one image, and a model that params.yaml names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.records import Box
from crossflow.data.images import Images
from crossflow.fetch import hub
from crossflow.models.folder import folder_of
from crossflow.models.model import ModelSettings
from crossflow.study import inputs
from crossflow.study.config_files import read_config


@dataclass(frozen=True)
class Where:
    """Where models are named, and where the model runs.

    Attributes:
        params: File of parameters.
        window: Width of the window, in layers; by default the model's own.
        device: auto (a free GPU, else the CPU), cpu or cuda:N.
    """

    params: Path = Path("params.yaml")
    window: int | None = None
    device: str = "auto"


def boxes_of(texts: tuple[str, ...]) -> list[Box]:
    """Boxes from ``left,top,width,height``.

    Raises:
        CrossflowError: a text is none, or a box has no area.
    """
    boxes = []
    for text in texts:
        try:
            box = Box(*map(int, text.split(",")))
        except (TypeError, ValueError) as error:
            raise CrossflowError(f"--box: {text!r} is not left,top,width,height in pixels.") from error
        if box.w < 1 or box.h < 1:
            raise CrossflowError(f"--box: {text!r} has no area.")
        boxes.append(box)
    return boxes


def entry_of(params: Path, slug: str) -> dict[str, Any]:
    """A model's entry in a file of parameters.

    Raises:
        CrossflowError: the file can not be read, or has no such model.
    """
    models = read_config(params).get("models")
    if not isinstance(models, dict):
        raise CrossflowError(f"{params} is no file of parameters with models.")
    if slug not in models:
        raise CrossflowError(f"{params} has no model {slug!r}; known are {', '.join(models)}.")
    entry: dict[str, Any] = models[slug]
    return entry


def settings_of(entry: dict[str, Any]) -> ModelSettings:
    """The settings of an entry; a model on the hub is fetched, if it is not there."""
    path = folder_of(hub.fetch(entry["repo"], entry["revision"])) if "repo" in entry else Path(entry["path"])
    return ModelSettings(path, **{key: entry[key] for key in inputs.SETTINGS if key in entry})


def open_image(path: Path) -> Image.Image:
    """An image from a file.

    Raises:
        CrossflowError: it is missing, or does not decode.
    """
    try:
        with Images(path.parent, by_file=True) as images:
            return images.open(path.name)
    except BrokenQuestion as reason:
        raise CrossflowError(f"{path}: {reason}.") from reason


def require_window(window: int, layers: int, name: object) -> None:
    """Refuse a window that is wider than the model is deep on both sides.

    Raises:
        CrossflowError: it is.
    """
    if not 1 <= window < 2 * layers:
        raise CrossflowError(f"A window of {window} layers does not fit {name}, which has {layers}.")

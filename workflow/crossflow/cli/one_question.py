"""Options of verbs that ask one question about one image, of a model that params.yaml or a folder names."""

import argparse
from pathlib import Path
from typing import Any

from PIL import Image

from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.records import Box
from crossflow.data.images import Images
from crossflow.fetch import hub
from crossflow.models.model import ModelSettings
from crossflow.study import inputs
from crossflow.study.config_files import read_config


def box(text: str) -> Box:
    """A box from ``left,top,width,height``; for argparse."""
    try:
        read = Box(*map(int, text.split(",")))
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not left,top,width,height in pixels") from error
    if read.w < 1 or read.h < 1:
        raise argparse.ArgumentTypeError(f"{text!r} has no area")
    return read


def add_box_argument(parser: argparse.ArgumentParser) -> None:
    """The option for boxes."""
    parser.add_argument(
        "--box", type=box, action="append", default=[], metavar="LEFT,TOP,WIDTH,HEIGHT",
        help="what the question is about, in pixels of the image; may be given several times",
    )  # fmt: skip


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Where models are named, and where the model runs."""
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--window", type=int, help="width of the window, in layers (default: the model's own)")
    parser.add_argument("--device", default="auto", help="auto (a free GPU, else the CPU), cpu or cuda:N")


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
    path = hub.folder_of(hub.fetch(entry["repo"], entry["revision"])) if "repo" in entry else Path(entry["path"])
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

"""Options that several verbs share: one table, and how settings are made of them."""

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from crossflow.core.files import hash_file
from crossflow.data.images import Images
from crossflow.experiments.job import Job
from crossflow.experiments.selection import SELECTIONS
from crossflow.fetch.hub import folder_of, read_manifest
from crossflow.models.folder import files_in, hash_model
from crossflow.models.model import DTYPES, ModelSettings
from crossflow.models.prompts import TEMPLATES
from crossflow.models.visual_tokens import RULES

Settings = TypeVar("Settings")

IMAGE_PROCESSING = ("processor", "pad", "anyres")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say which model is run and how it is prompted."""
    model = parser.add_argument_group("model")
    source = model.add_mutually_exclusive_group(required=True)
    source.add_argument("--model-path", type=Path, help="folder in Hugging Face format")
    source.add_argument("--model-manifest", type=Path, help="what `fetch-model` wrote of a model from the hub")
    model.add_argument("--prompt", required=True, choices=TEMPLATES)
    model.add_argument("--image", default="processor", choices=IMAGE_PROCESSING)
    model.add_argument("--patches", default="published", choices=RULES)
    model.add_argument("--dtype", default="float32", choices=DTYPES)
    model.add_argument("--max-new-tokens", type=int, default=16)


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say where the images are."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--root", type=Path, help="data set in GQA's layout")
    source.add_argument("--images", type=Path, help="folder of the images of a table")


def add_job_arguments(parser: argparse.ArgumentParser, table: str) -> None:
    """The options of `Job`.

    Args:
        parser: The verb's.
        table: What is written.
    """
    parser.add_argument("--questions", type=Path, required=True, help="table of the category's questions")
    add_image_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, help=table)
    add_model_arguments(parser)
    add_device_argument(parser)
    parser.add_argument("--workers", type=int, help="processes that prepare questions (default: none beside a CPU)")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Where the model runs."""
    parser.add_argument("--device", default="auto", help="auto (a free GPU, else the CPU), cpu or cuda:N")


def add_answered_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of experiments that look at answered questions."""
    parser.add_argument("--answers", type=Path, required=True, help="table of the model's answers to the questions")
    parser.add_argument("--select", choices=SELECTIONS, default="correct", help="by the model's answer")


def image_source(arguments: argparse.Namespace) -> "partial[Images]":
    """Opens the images that the options name."""
    if arguments.root is None:
        return partial(Images, arguments.images, by_file=True)
    return partial(Images, arguments.root)


def settings_of(kind: type[Settings], arguments: argparse.Namespace, **given: Any) -> Settings:
    """Settings, a dataclass, from the options of the same names.

    Args:
        kind: The dataclass.
        arguments: The options.
        given: Fields that no option has.
    """
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in vars(arguments).items() if name in names} | given)


def model_settings(arguments: argparse.Namespace) -> ModelSettings:
    """The settings of the model that the options name.

    Raises:
        CrossflowError: the model was fetched from the hub, but is not in its cache any more.
    """
    path = arguments.model_path
    return settings_of(
        ModelSettings, arguments, path=folder_of(read_manifest(arguments.model_manifest)) if path is None else path
    )


def _hash_model(arguments: argparse.Namespace) -> str:
    """SHA-256 over a model's files: of a folder, computed; of a model from the hub, as computed when it was fetched."""
    if arguments.model_path is None:
        return hash_model({name: file.sha256 for name, file in read_manifest(arguments.model_manifest).files.items()})
    return hash_model({path.name: hash_file(path) for path in files_in(arguments.model_path)})


def job_of(arguments: argparse.Namespace) -> Job:
    """The job that the options of `add_job_arguments` describe.

    Raises:
        CrossflowError: see `model_settings`.
    """
    model, images = model_settings(arguments), image_source(arguments)
    return settings_of(Job, arguments, model=model, open_images=images, model_hash=_hash_model(arguments))

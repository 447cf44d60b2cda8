"""Options that several verbs share."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from crossflow import __version__
from crossflow.errors import BrokenQuestion
from crossflow.gqa import Pictures
from crossflow.hub import files_in, folder_of, hash_model, read_manifest
from crossflow.journal import hash_file
from crossflow.models import DTYPES, ModelSettings, MultimodalModel, Prepared
from crossflow.patches import RULES
from crossflow.preparing import Asking, prepared_ahead, workers_for
from crossflow.prompts import TEMPLATES


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say which model is run, how it is prompted, and where."""
    model = parser.add_argument_group("model")
    source = model.add_mutually_exclusive_group(required=True)
    source.add_argument("--model-path", type=Path, help="folder in Hugging Face format")
    source.add_argument("--model-manifest", type=Path, help="what `fetch-model` wrote of a model from the hub")
    model.add_argument("--prompt", required=True, choices=TEMPLATES)
    model.add_argument("--image", default="processor", choices=("processor", "pad", "anyres"))
    model.add_argument("--patches", default="published", choices=RULES)
    model.add_argument("--dtype", default="float32", choices=DTYPES)
    model.add_argument("--max-new-tokens", type=int, default=16)
    model.add_argument("--device", default="auto", help="auto (a free GPU, else the CPU), cpu or cuda:N")
    model.add_argument("--workers", type=int, help="processes that prepare questions (default: none beside a CPU)")


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say where the pictures are."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--root", type=Path, help="data set in GQA's layout")
    source.add_argument("--pictures", type=Path, help="folder of the pictures of a table")


def open_pictures(arguments: argparse.Namespace) -> Pictures:
    """The pictures that the options name.

    Raises:
        CrossflowError: there are none, or they can not be read.
    """
    if arguments.root is None:
        return Pictures(arguments.pictures, by_file=True)
    return Pictures(arguments.root)


def preparing(
    arguments: argparse.Namespace, model: MultimodalModel, askings: Sequence[Asking]
) -> AbstractContextManager[Iterator[Prepared | BrokenQuestion]]:
    """The questions, prepared ahead as the options say; see `crossflow.preparing`."""
    workers = workers_for(model.device) if arguments.workers is None else arguments.workers
    return prepared_ahead(model, partial(open_pictures, arguments), askings, workers)


def model_settings(arguments: argparse.Namespace) -> ModelSettings:
    """The settings of the model that the options name.

    Raises:
        CrossflowError: the model was fetched from the hub, but is not in its cache any more.
    """
    path = arguments.model_path
    if path is None:
        path = folder_of(read_manifest(arguments.model_manifest))
    return ModelSettings(
        path,
        arguments.prompt,
        arguments.image,
        arguments.patches,
        arguments.dtype,
        arguments.max_new_tokens,
    )


def _hash_model(arguments: argparse.Namespace) -> str:
    """SHA-256 over a model's files: of a folder, computed; of a model from the hub, as computed when it was fetched."""
    if arguments.model_path is None:
        return hash_model({name: file.sha256 for name, file in read_manifest(arguments.model_manifest).files.items()})
    return hash_model({path.name: hash_file(path) for path in files_in(arguments.model_path)})


def determining(arguments: argparse.Namespace) -> dict[str, Any]:
    """What determines the numbers of a job: parameters and hashes, no path and no time."""
    return {
        "version": __version__,
        "questions": hash_file(arguments.questions),
        "model": _hash_model(arguments),
        "prompt": arguments.prompt,
        "image": arguments.image,
        "patches": arguments.patches,
        "dtype": arguments.dtype,
        "max_new_tokens": arguments.max_new_tokens,
    }

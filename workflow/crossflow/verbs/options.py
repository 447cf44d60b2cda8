"""Options that several verbs share."""

import argparse
from pathlib import Path
from typing import Any

from crossflow import __version__
from crossflow.errors import CrossflowError
from crossflow.journal import hash_file
from crossflow.models import DTYPES, ModelSettings, hash_model
from crossflow.patches import RULES
from crossflow.prompts import TEMPLATES


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say which model is run, how it is prompted, and where."""
    model = parser.add_argument_group("model")
    source = model.add_mutually_exclusive_group(required=True)
    source.add_argument("--model-path", type=Path, help="folder in Hugging Face format")
    source.add_argument("--model-repo", help="repository on the Hugging Face hub")
    model.add_argument("--model-revision", help="commit of the repository, 40 hex digits")
    model.add_argument("--prompt", required=True, choices=TEMPLATES)
    model.add_argument("--image", default="processor", choices=("processor", "pad", "anyres"))
    model.add_argument("--patches", default="published", choices=RULES)
    model.add_argument("--dtype", default="float32", choices=DTYPES)
    model.add_argument("--max-new-tokens", type=int, default=16)
    model.add_argument("--device", default="auto", help="auto (a free GPU, else the CPU), cpu or cuda:N")


def model_settings(arguments: argparse.Namespace) -> ModelSettings:
    """The settings of the model that the options name.

    Raises:
        CrossflowError: the model is on the hub; only folders are read so far.
    """
    if arguments.model_path is None:
        raise CrossflowError(
            f"{arguments.model_repo} is on the Hugging Face hub, which this version does not fetch from: download it "
            "and give its folder as `path`."
        )
    return ModelSettings(
        arguments.model_path,
        arguments.prompt,
        arguments.image,
        arguments.patches,
        arguments.dtype,
        arguments.max_new_tokens,
    )


def determining(settings: ModelSettings, questions: Path) -> dict[str, Any]:
    """What determines the numbers of a job: parameters and hashes, no path and no time."""
    return {
        "version": __version__,
        "questions": hash_file(questions),
        "model": hash_model(settings.path),
        "prompt": settings.prompt,
        "image": settings.image,
        "patches": settings.patches,
        "dtype": settings.dtype,
        "max_new_tokens": settings.max_new_tokens,
    }

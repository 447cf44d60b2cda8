"""``crossflow doctor``: looks at all that a study needs, before it runs."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from crossflow.core.errors import CrossflowError
from crossflow.study import parameters
from crossflow.study.config_files import read_config
from crossflow.verify.doctor import MISSING, examine

SCHEMA = Path("workflow/schemas/params.schema.yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    parser.add_argument("--configfile", type=Path, help="a file to lay over it, as for snakemake")
    parser.add_argument("--study", help="default: the one that params.yaml names")
    parser.add_argument("--offline", action="store_true", help="ask no server")


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    config = read_config(arguments.params, arguments.configfile)
    if arguments.study:
        config["study"] = arguments.study
    parameters.validate(config, SCHEMA)
    return config


def run(arguments: argparse.Namespace) -> None:
    """Print one line per finding.

    Raises:
        CrossflowError: something that the study needs is missing.
    """
    missing = 0
    for finding in examine(partial(_settings, arguments), arguments.offline):
        print(f"{finding.level:<9}{finding.what:<28}{finding.found}", flush=True)
        missing += finding.level == MISSING
    if missing:
        raise CrossflowError(f"{missing} of the things that the study needs are missing; see above.")

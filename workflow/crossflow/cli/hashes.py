"""``crossflow hashes``: the SHA-256 of files, so that what they hold is known where they are not."""

import argparse
from pathlib import Path

from crossflow.core.errors import CrossflowError
from crossflow.core.files import hash_file, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--files", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="path -> hash (JSON)")


def run(arguments: argparse.Namespace) -> None:
    """Write the hashes.

    Raises:
        CrossflowError: a file can not be read.
    """
    try:
        hashes = {str(path): hash_file(path) for path in arguments.files}
    except OSError as error:
        raise CrossflowError(f"{error.filename} could not be read ({error.strerror}).") from error
    write_json(arguments.output, hashes)

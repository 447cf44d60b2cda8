"""Options of the verbs that fetch from the table of sources."""

import argparse
from pathlib import Path

from crossflow.core.errors import CrossflowError
from crossflow.fetch.sources import TABLE, RemoteFile, read_sources


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that name a line of the table of sources."""
    parser.add_argument("--sources", type=Path, default=Path(TABLE), help="the table of sources (CSV)")
    parser.add_argument("--source", required=True, help="name of a line of it")


def named_source(arguments: argparse.Namespace) -> RemoteFile:
    """The line of the table that the options name.

    Raises:
        CrossflowError: there is none of that name, or the table is broken.
    """
    sources = read_sources(arguments.sources)
    if arguments.source not in sources:
        raise CrossflowError(f"{arguments.sources} has no line {arguments.source!r}; known are {', '.join(sources)}.")
    return sources[arguments.source]

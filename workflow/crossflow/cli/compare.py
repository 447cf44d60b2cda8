"""``crossflow compare``: compare summary tables with expected ones."""

import argparse
from pathlib import Path

from crossflow.analysis.expected import write_comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--summary", type=Path, required=True, help="folder of the fresh summary tables")
    parser.add_argument("--expected", type=Path, required=True, help="folder of the expected ones")
    parser.add_argument("--output", type=Path, required=True, help="table of largest differences (CSV)")


def run(arguments: argparse.Namespace) -> None:
    """Write the largest differences; an error if one is not within its tolerance."""
    write_comparison(arguments.summary, arguments.expected, arguments.output)

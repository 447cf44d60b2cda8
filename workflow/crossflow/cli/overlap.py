"""``crossflow overlap``: compare the questions that the filter chooses with the published sets."""

import argparse
from pathlib import Path

from crossflow.data.published_overlap import write_overlap


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--root", type=Path, required=True, help="data set in GQA's layout; images are not needed")
    parser.add_argument("--split", required=True, help="for example val_balanced")
    parser.add_argument(
        "--published", type=Path, nargs="+", required=True,
        help="published question sets (CSV; named as published, or {category}.csv), or a folder of them",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="table of counts, by category (CSV)")
    parser.add_argument("--differences", type=Path, required=True, help="table of the questions that differ (CSV)")


def run(arguments: argparse.Namespace) -> None:
    """Write both tables."""
    write_overlap(arguments.root, arguments.split, arguments.published, arguments.output, arguments.differences)

"""``crossflow explorer``: one page to look around in a study, without a network."""

import argparse
from pathlib import Path

from crossflow.cli.options import add_image_arguments, image_source
from crossflow.cli.results_options import add_results_arguments, results_of
from crossflow.figures.explorer import write_explorer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_results_arguments(parser)
    add_image_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, help="the page (HTML)")


def run(arguments: argparse.Namespace) -> None:
    """Write the page."""
    write_explorer(results_of(arguments), image_source(arguments), arguments.output)

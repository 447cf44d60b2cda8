"""``crossflow examples``: draw a few single questions of every category."""

import argparse
from pathlib import Path

from crossflow.cli.options import add_image_arguments, add_model_arguments, image_source, model_settings
from crossflow.cli.results_options import add_results_arguments, results_of
from crossflow.figures.examples import write_examples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_results_arguments(parser)
    add_image_arguments(parser)
    parser.add_argument("--output", type=Path, nargs="+", required=True, help="a .pdf and a .png of each category")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Draw the figures."""
    write_examples(results_of(arguments), model_settings(arguments), image_source(arguments), arguments.output)

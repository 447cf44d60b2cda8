"""``crossflow summary``: make one of a study's summaries."""

import argparse
import importlib

from crossflow.analysis.tables import SUMMARIES
from crossflow.cli.results_options import add_results_arguments, results_of
from crossflow.core.tables import write_csv


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--summary", choices=SUMMARIES, required=True, help="which one")
    add_results_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write its tables into the study's ``summary`` folder.

    Raises:
        CrossflowError: a table is absent or does not fit the others.
    """
    summary = SUMMARIES[arguments.summary]
    rows = importlib.import_module(summary.module).tables(results_of(arguments))
    for name, columns in summary.tables.items():
        write_csv(arguments.results / "summary" / f"{name}.csv", columns, rows[name])

"""``crossflow page``: a table as a page that a browser shows, for the report."""

import argparse
from pathlib import Path

from crossflow.figures.table_page import write_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--table", type=Path, required=True, help="a table (CSV)")
    parser.add_argument("--title", required=True)
    parser.add_argument("--output", type=Path, required=True, help="the page (HTML)")


def run(arguments: argparse.Namespace) -> None:
    """Write the page."""
    write_page(arguments.table, arguments.title, arguments.output)

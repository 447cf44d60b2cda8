"""``crossflow compare``: compare summary tables with expected ones."""

import argparse
import logging
from pathlib import Path

from crossflow.comparison import compare
from crossflow.errors import CrossflowError
from crossflow.tables import COMPARISON, write_csv

_SHOWN = 5
log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--summary", type=Path, required=True, help="folder of the fresh summary tables")
    parser.add_argument("--expected", type=Path, required=True, help="folder of the expected ones")
    parser.add_argument("--output", type=Path, required=True, help="table of largest differences (CSV)")


def run(arguments: argparse.Namespace) -> None:
    """Write the largest differences.

    Raises:
        CrossflowError: some number is not within its tolerance, or the tables can not be compared.
    """
    agreements = compare(arguments.summary, arguments.expected)
    for agreement in agreements:
        log.info(
            "%s %s: %d numbers, largest difference %.2g, %d not within tolerance",
            agreement.table,
            agreement.column,
            agreement.numbers,
            agreement.largest,
            len(agreement.beyond),
        )
    beyond = [words for agreement in agreements for words in agreement.beyond]
    if beyond:
        more = f"; and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
        raise CrossflowError(
            f"{arguments.summary} is not within tolerance of {arguments.expected} in {len(beyond)} of its numbers: "
            f"{'; '.join(beyond[:_SHOWN])}{more}."
        )
    write_csv(
        arguments.output,
        COMPARISON,
        (
            {
                "table": agreement.table,
                "column": agreement.column,
                "numbers": agreement.numbers,
                "largest_difference": f"{agreement.largest:.6g}",
            }
            for agreement in agreements
        ),
    )
    log.info("All numbers of %s are within tolerance of %s.", arguments.summary, arguments.expected)

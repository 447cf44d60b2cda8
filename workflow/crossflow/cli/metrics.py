"""``crossflow metrics``: the few numbers by which two runs are compared."""

import argparse
from pathlib import Path

from crossflow.analysis.metrics import write_metrics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--effects", type=Path, required=True, help="effects.csv")
    parser.add_argument("--answers", type=Path, required=True, help="answers.csv")
    parser.add_argument("--output", type=Path, required=True, help="the numbers (JSON)")


def run(arguments: argparse.Namespace) -> None:
    """Write the numbers."""
    write_metrics(arguments.effects, arguments.answers, arguments.output)

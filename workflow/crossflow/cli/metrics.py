"""``crossflow metrics``: the few numbers by which two runs are compared."""

import argparse
from pathlib import Path

from crossflow.analysis.metrics import metrics
from crossflow.analysis.tables import ACCURACY, EFFECTS
from crossflow.core.files import write_json
from crossflow.core.tables import read_csv


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--effects", type=Path, required=True, help="effects.csv")
    parser.add_argument("--answers", type=Path, required=True, help="answers.csv")
    parser.add_argument("--output", type=Path, required=True, help="the numbers (JSON)")


def run(arguments: argparse.Namespace) -> None:
    """Write the numbers."""
    effects, answers = read_csv(arguments.effects, EFFECTS), read_csv(arguments.answers, ACCURACY)
    write_json(arguments.output, metrics(effects, answers))

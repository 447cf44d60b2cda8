"""``crossflow claims``: hold the study's claims against the tables."""

import argparse
from pathlib import Path

from crossflow.analysis.claims_text import write_claims
from crossflow.cli.results_options import add_results_arguments, results_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_results_arguments(parser)
    parser.add_argument("--lens", action="store_true", help="the study reads the logit lens, too")
    parser.add_argument("--output", type=Path, required=True, help="claims.json; claims.md is written beside it")


def run(arguments: argparse.Namespace) -> None:
    """Write claims.json and claims.md, from each model's first window."""
    write_claims(results_of(arguments), arguments.lens, arguments.output)

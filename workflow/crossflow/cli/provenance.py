"""``crossflow provenance``: collect versions, machine and time behind a study's results."""

import argparse
from pathlib import Path

from crossflow.analysis.provenance import write_provenance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--jobs", type=Path, nargs="+", required=True, help="what each job wrote by --provenance")
    parser.add_argument("--parameters", required=True, help="the study's part of params.yaml, as JSON")
    parser.add_argument("--hashes", type=Path, required=True, help="hashes of data and models, as `hashes` wrote them")
    parser.add_argument("--output", type=Path, required=True, help="everything (JSON)")
    parser.add_argument("--facts", type=Path, required=True, help="parameters, versions and hashes, to be read (CSV)")
    parser.add_argument("--times", type=Path, required=True, help="one line per job (CSV)")


def run(arguments: argparse.Namespace) -> None:
    """Write the three files."""
    write_provenance(
        arguments.jobs, arguments.parameters, arguments.hashes, arguments.output, arguments.facts, arguments.times
    )

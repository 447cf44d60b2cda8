"""``crossflow answers``: answer the questions of one category, with the image and without it."""

import argparse
from pathlib import Path

from crossflow.cli.options import add_job_arguments, job_of
from crossflow.core.tables import BASELINES
from crossflow.experiments.answers import write_answers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument(
        "--baselines", nargs="*", default=[], choices=BASELINES, help="further answers without the image"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the swapped images")
    parser.add_argument("--skipped", type=Path, required=True, help="table of the questions that are broken (CSV)")
    add_job_arguments(parser, "table of answers (parquet)")


def run(arguments: argparse.Namespace) -> None:
    """Write the tables."""
    write_answers(job_of(arguments), arguments.skipped, arguments.baselines, arguments.seed)

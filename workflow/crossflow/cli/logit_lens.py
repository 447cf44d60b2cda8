"""``crossflow logit-lens``: read the answer off the last position after every layer."""

import argparse

from crossflow.cli.options import add_answered_arguments, add_job_arguments, job_of
from crossflow.experiments.logit_lens import write_logit_lens


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_answered_arguments(parser)
    add_job_arguments(parser, "table of probabilities (parquet)")


def run(arguments: argparse.Namespace) -> None:
    """Write the table."""
    write_logit_lens(job_of(arguments), arguments.answers, arguments.select)

"""``crossflow knockout``: every flow at every centre layer, for one model, window and category."""

import argparse

from crossflow.cli.options import add_answered_arguments, add_job_arguments, job_of, settings_of
from crossflow.core.flows import BOTTOM, TOP
from crossflow.engine.engines import ENGINES
from crossflow.experiments.knockouts import KnockoutSettings, write_knockouts


def _window(text: str) -> str:
    if text not in (BOTTOM, TOP) and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of layers nor {BOTTOM} or {TOP}")
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_answered_arguments(parser)
    parser.add_argument("--window", type=_window, required=True, help="width of the window in layers, bottom or top")
    parser.add_argument("--flows", nargs="+", required=True, metavar="SOURCE->TARGET")
    parser.add_argument("--controls", nargs="*", default=[], metavar="SOURCE->TARGET", help="further flows")
    parser.add_argument("--stride", type=int, default=1, help="from one centre layer of the controls to the next")
    parser.add_argument("--seed", type=int, default=0, help="seed of random source sets")
    parser.add_argument("--whole-answer", action="store_true", help="score all tokens of the answer")
    parser.add_argument("--engine", choices=ENGINES, default="knockout")
    add_job_arguments(parser, "table of knockouts (parquet)")


def run(arguments: argparse.Namespace) -> None:
    """Write the table."""
    write_knockouts(job_of(arguments), settings_of(KnockoutSettings, arguments))

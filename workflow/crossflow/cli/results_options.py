"""Options that name the results of a study."""

import argparse
from pathlib import Path

from crossflow.analysis.results import CurveName, Results


def curve_name(text: str) -> CurveName:
    """A model and a window from ``model:window``; for argparse."""
    model, colon, window = text.partition(":")
    if not (model and colon and window):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form model:window")
    return CurveName(model, window)


def add_results_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `Results`."""
    parser.add_argument("--results", type=Path, required=True, help="folder of the study's results")
    parser.add_argument(
        "--curves", type=curve_name, nargs="+", required=True, metavar="MODEL:WINDOW", help="models with their windows"
    )
    parser.add_argument("--categories", nargs="+", required=True, help="in the order of the figures' panels")
    parser.add_argument("--seed", type=int, required=True, help="seed of the bootstrap and of random samples")


def results_of(arguments: argparse.Namespace) -> Results:
    """The results that the options name."""
    return Results(arguments.results, tuple(arguments.curves), tuple(arguments.categories), arguments.seed)

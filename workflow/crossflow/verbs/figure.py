"""``crossflow figure``: draw one figure from the summary."""

import argparse
from pathlib import Path

from crossflow import figures, tables
from crossflow.figure_kinds import KINDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--summary", type=Path, required=True, help="folder of effects.csv and counts.csv")
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--window", required=True)
    parser.add_argument("--categories", nargs="+", required=True, help="one panel each, in this order")
    parser.add_argument("--output", type=Path, nargs="+", required=True, help="files, .pdf or .png")


def run(arguments: argparse.Namespace) -> None:
    """Draw the figure into every file of ``--output``.

    Raises:
        CrossflowError: the summary lacks what the figure shows, or a file can not be written.
    """
    panels = figures.panels_of(
        tables.read_csv(arguments.summary / "effects.csv", tables.EFFECTS),
        tables.read_csv(arguments.summary / "counts.csv", tables.COUNTS),
        kind=arguments.kind,
        model=arguments.model,
        window=arguments.window,
        categories=arguments.categories,
    )
    with figures.own_settings():
        figure = figures.draw(panels, f"{arguments.model}, window {arguments.window}")
        figures.save(figure, arguments.output)

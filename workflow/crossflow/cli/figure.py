"""``crossflow figure``: draw one figure from the summary."""

import argparse
import importlib
from dataclasses import replace
from pathlib import Path

from crossflow.cli.options import settings_of
from crossflow.figures.kinds import FIGURES, flows_by_kind
from crossflow.figures.request import FigureRequest
from crossflow.figures.style import own_settings, save


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--summary", type=Path, required=True, help="folder of the summary tables")
    parser.add_argument("--kind", choices=FIGURES, required=True)
    parser.add_argument("--models", nargs="+", required=True, help="one; several for a comparison of models")
    parser.add_argument("--windows", nargs="+", default=["own"], help="one per model; several for a sweep")
    parser.add_argument("--categories", nargs="+", required=True, help="one panel each, in this order")
    parser.add_argument("--flows", nargs="+", default=[], help="of a figure of curves (default: those of its kind)")
    parser.add_argument("--output", type=Path, nargs="+", required=True, help="files, .pdf or .png")


def run(arguments: argparse.Namespace) -> None:
    """Draw the figure into every file of ``--output``.

    Raises:
        CrossflowError: the summary lacks what the figure shows, or a file can not be written.
    """
    figure = settings_of(FigureRequest, arguments)
    kind = FIGURES[figure.kind]
    if "effects" in kind.tables and not figure.flows:
        named = dict.fromkeys(row["flow"] for row in figure.rows("effects"))
        figure = replace(figure, flows=flows_by_kind(list(named)).get(figure.kind, ()))
    with own_settings():
        save(importlib.import_module(kind.module).draw(figure), arguments.output)

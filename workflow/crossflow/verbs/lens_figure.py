"""``crossflow lens-figure``: draw how the answer's first token becomes likely, layer by layer."""

import argparse
from pathlib import Path

from crossflow import figure_style, figures, tables
from crossflow.lens_summary import lens_panels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--table", type=Path, required=True, help="lens.csv")
    parser.add_argument("--norm", choices=("final", "published"), required=True, help="before the output embedding")
    parser.add_argument("--model", required=True)
    parser.add_argument("--categories", nargs="+", required=True, help="one panel each, in this order")
    parser.add_argument("--output", type=Path, nargs="+", required=True, help="files, .pdf or .png")


def run(arguments: argparse.Namespace) -> None:
    """Draw the figure into every file of ``--output``.

    Raises:
        CrossflowError: the table lacks what the figure shows, or a file can not be written.
    """
    published = arguments.norm == "published"
    panels = lens_panels(
        tables.read_csv(arguments.table, tables.LENS_SUMMARY),
        model=arguments.model,
        categories=arguments.categories,
        published=published,
    )
    norm = "final norm after the last layer only, as published" if published else "with the final norm"
    with figure_style.own_settings():
        figure = figures.draw(
            panels, f"{arguments.model}, {norm}", across="layer", up="probability of\nthe first token (%)"
        )
        figure_style.save(figure, arguments.output)

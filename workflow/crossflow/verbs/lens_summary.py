"""``crossflow lens-summary``: mean tracks of the answers, with intervals."""

import argparse
from pathlib import Path

from crossflow import tables
from crossflow.lens_summary import lens_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--results", type=Path, required=True, help="folder of the study's results")
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--seed", type=int, required=True, help="seed of the bootstrap")
    parser.add_argument("--output", type=Path, required=True, help="table of means (CSV)")


def run(arguments: argparse.Namespace) -> None:
    """Write the table.

    Raises:
        CrossflowError: a table is absent or lacks a layer.
    """
    rows: list[dict[str, str]] = []
    for model in arguments.models:
        for category in arguments.categories:
            path = arguments.results / "lens" / model / f"{category}.parquet"
            table, metadata = tables.read_parquet(path, tables.LENS)
            rows.extend(lens_rows(table, metadata, model=model, category=category, seed=arguments.seed))
    tables.write_csv(arguments.output, tables.LENS_SUMMARY, rows)

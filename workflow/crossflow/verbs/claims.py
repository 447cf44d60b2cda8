"""``crossflow claims``: hold the study's claims against the tables."""

import argparse
from pathlib import Path

import numpy as np

from crossflow import tables
from crossflow.claims import Case, Finding, judge_model, tracks_of
from crossflow.claims_text import as_json, as_markdown
from crossflow.verbs.summary import read_curve_names, read_knockouts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--results", type=Path, required=True, help="folder of the study's results")
    parser.add_argument("--curves", nargs="+", required=True, metavar="MODEL:WINDOW", help="models with their windows")
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--lens", action="store_true", help="answers were tracked, too")
    parser.add_argument("--seed", type=int, required=True, help="seed of the bootstrap")
    parser.add_argument("--output", type=Path, required=True, help="claims.json; claims.md is written beside it")


def _case(arguments: argparse.Namespace, model: str, window: str, category: str) -> Case:
    table = read_knockouts(arguments.results, model, window, category)
    tracks, pictures = None, np.array([], dtype=object)
    if arguments.lens:
        lens, _ = tables.read_parquet(arguments.results / "lens" / model / f"{category}.parquet", tables.LENS)
        tracks, pictures = tracks_of(lens, table.layers + 1)
    return Case(model, window, category, table.layers, table.curves, tracks, pictures, arguments.seed)


def run(arguments: argparse.Namespace) -> None:
    """Write claims.json and claims.md, from each model's first window.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    first: dict[str, str] = {}
    for model, window in read_curve_names(arguments.curves):
        first.setdefault(model, window)
    findings: list[Finding] = []
    for model, window in first.items():
        findings += judge_model([_case(arguments, model, window, category) for category in arguments.categories])
    findings.sort(key=lambda finding: finding.claim)
    tables.write_json(arguments.output, as_json(findings))
    with tables.replacing(arguments.output.with_suffix(".md")) as temporary:
        temporary.write_text(as_markdown(findings, arguments.results.name), encoding="utf-8")

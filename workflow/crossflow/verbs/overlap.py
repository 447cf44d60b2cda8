"""``crossflow overlap``: compare the questions that the filter chooses with the published sets."""

import argparse
import logging
from pathlib import Path

from crossflow.overlap import compare_with_published
from crossflow.published import find_published, read_published
from crossflow.tables import DIFFERENCES, OVERLAP, write_csv

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--root", type=Path, required=True, help="data set in GQA's layout; pictures are not needed")
    parser.add_argument("--split", required=True, help="for example val_balanced")
    parser.add_argument(
        "--published",
        type=Path,
        nargs="+",
        required=True,
        help="published question sets (CSV; named as published, or {category}.csv), or a folder of them",
    )
    parser.add_argument("--output", type=Path, required=True, help="table of counts, by category (CSV)")
    parser.add_argument("--differences", type=Path, required=True, help="table of the questions that differ (CSV)")


def run(arguments: argparse.Namespace) -> None:
    """Write both tables; a difference is a finding and no error.

    Raises:
        CrossflowError: a file is absent or broken.
    """
    files = find_published(arguments.published)
    # Read first: their errors show at once, and not after the split.
    published = {category: read_published(files[category], category) for category in sorted(files)}
    overlaps = compare_with_published(arguments.root, arguments.split, published)
    counts = [
        {
            "category": category,
            "filter": overlap.filter,
            "published": overlap.published,
            "both": overlap.both,
            "missing": overlap.published - overlap.both,
            "extra": overlap.filter - overlap.both,
            "differing": overlap.differing,
        }
        for category, overlap in overlaps.items()
    ]
    for row in counts:
        log.info(", ".join(f"{name} {value}" for name, value in row.items()))
    write_csv(
        arguments.differences,
        DIFFERENCES,
        (
            {"category": category} | difference._asdict()
            for category, overlap in overlaps.items()
            for difference in overlap.differences
        ),
    )
    write_csv(arguments.output, OVERLAP, counts)

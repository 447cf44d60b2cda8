"""``crossflow fetch-images``: the images of chosen questions, out of GQA's zip of all images."""

import argparse
from pathlib import Path

from crossflow.cli.source_options import add_source_arguments, named_source
from crossflow.core.errors import CrossflowError
from crossflow.core.tables import write_csv
from crossflow.data.chosen import read_chosen
from crossflow.fetch.download import new_session
from crossflow.fetch.gqa_images import COLUMNS, fetch_images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_source_arguments(parser)
    parser.add_argument("--questions", type=Path, required=True, help="table of chosen questions")
    parser.add_argument("--images", choices=("needed", "full"), default="needed", help="only these images, or all")
    parser.add_argument("--root", type=Path, required=True, help="folder that gets images.zip")
    parser.add_argument("--output", type=Path, required=True, help="list of the images that are there (CSV)")


def run(arguments: argparse.Namespace) -> None:
    """Fetch what is missing and list what is there.

    Raises:
        CrossflowError: nothing could be fetched, or GQA has none of the images.
    """
    questions = read_chosen(arguments.questions)
    wanted = {question.image_id for question in questions}
    source = named_source(arguments)
    there = fetch_images(new_session(), source, arguments.root, wanted, full=arguments.images == "full")
    if wanted and not there:
        raise CrossflowError(f"{source.url} holds none of the {len(wanted)} images of {arguments.questions}.")
    write_csv(arguments.output, COLUMNS, (image._asdict() for image in there))

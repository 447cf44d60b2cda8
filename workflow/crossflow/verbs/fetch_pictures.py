"""``crossflow fetch-pictures``: the pictures of chosen questions, out of GQA's zip of all pictures."""

import argparse
from pathlib import Path

from crossflow.download import new_session
from crossflow.errors import CrossflowError
from crossflow.gqa import read_chosen
from crossflow.gqa_pictures import Picture, fetch_pictures
from crossflow.tables import write_csv
from crossflow.verbs.source_options import add_source_arguments, named_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_source_arguments(parser)
    parser.add_argument("--questions", type=Path, required=True, help="table of chosen questions")
    parser.add_argument("--images", choices=("needed", "full"), default="needed", help="only these pictures, or all")
    parser.add_argument("--root", type=Path, required=True, help="folder that gets images.zip")
    parser.add_argument("--output", type=Path, required=True, help="list of the pictures that are there (CSV)")


def run(arguments: argparse.Namespace) -> None:
    """Fetch what is missing and list what is there.

    Raises:
        CrossflowError: nothing could be fetched, or GQA has none of the pictures.
    """
    questions = read_chosen(arguments.questions)
    wanted = {question.image_id for question in questions}
    source = named_source(arguments)
    there = fetch_pictures(new_session(), source, arguments.root, wanted, full=arguments.images == "full")
    if wanted and not there:
        raise CrossflowError(f"{source.url} holds none of the {len(wanted)} pictures of {arguments.questions}.")
    write_csv(arguments.output, Picture._fields, (picture._asdict() for picture in there))

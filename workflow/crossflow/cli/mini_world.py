"""``crossflow mini-world``: draw the mini world and write it in GQA's layout."""

import argparse
from pathlib import Path

from crossflow.mini.world import write_world


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--scenes", type=int, required=True, help="how many images")
    parser.add_argument("--seed", type=int, required=True, help="which world")
    parser.add_argument("--root", type=Path, required=True, help="folder for questions/, sceneGraphs/ and images.zip")


def run(arguments: argparse.Namespace) -> None:
    """Write the world."""
    write_world(arguments.root, arguments.scenes, arguments.seed)

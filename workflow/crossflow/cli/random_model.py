"""``crossflow random-model``: build a tiny LLaVA with random weights."""

import argparse
from pathlib import Path

from crossflow.mini.random_model import save


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--seed", type=int, required=True, help="seed of the weights")
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")


def run(arguments: argparse.Namespace) -> None:
    """Write the model."""
    save(arguments.output, arguments.seed)

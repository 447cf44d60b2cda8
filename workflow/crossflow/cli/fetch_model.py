"""``crossflow fetch-model``: a model from the Hugging Face hub into its cache, and a manifest of it."""

import argparse
from pathlib import Path

from crossflow.core.files import write_json
from crossflow.fetch.hub import fetch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--model-repo", required=True, help="repository on the Hugging Face hub, owner/name")
    parser.add_argument("--model-revision", required=True, help="commit of the repository, 40 hex digits")
    parser.add_argument("--output", type=Path, required=True, help="manifest: files with sizes and SHA-256 (JSON)")


def run(arguments: argparse.Namespace) -> None:
    """Fetch it and write its manifest."""
    manifest = fetch(arguments.model_repo, arguments.model_revision)
    files = {name: file._asdict() for name, file in manifest.files.items()}
    write_json(arguments.output, manifest._asdict() | {"files": files})

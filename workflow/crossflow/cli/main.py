"""The command line: one verb per rule of the workflow.

This module only finds the verb's own module, so that a rule depends on the sources of its verb and on
nothing else.
"""

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from crossflow import __version__
from crossflow.core.errors import BrokenQuestion, CrossflowError, faults_as_errors
from crossflow.core.provenance import Job

VERBS = {
    "fetch": "fetch a file of the table of sources, or one member of a zip",
    "fetch-images": "fetch the images of chosen questions out of GQA's zip",
    "fetch-model": "fetch a model from the Hugging Face hub and list its files",
    "mini-world": "draw the mini world: scenes, scene graphs and questions in GQA's layout",
    "random-model": "build a tiny LLaVA with random weights, for tests",
    "train-mini-llava": "train a small LLaVA on the mini world",
    "mini-card": "ask mini-llava about the mini world and write its model card",
    "questions": "choose the questions of one category from files in GQA's layout or the published sets",
    "overlap": "compare the questions that the filter chooses with the published sets",
    "answers": "answer the chosen questions, with the image and without it",
    "knockout": "knock out every flow at every centre layer",
    "logit-lens": "read the answer off the last position after every layer",
    "summary": "aggregate results into tables with intervals",
    "metrics": "the few numbers by which two runs are compared",
    "claims": "hold the study's claims against the tables",
    "hashes": "hash the files of data and models",
    "trace": "ask one question about one image, and draw its flows and map",
    "bench": "measure how fast knockouts are here, beside the published procedure",
    "check": "verify a model before it is studied",
    "doctor": "look at all that a study needs, before it runs",
    "provenance": "collect versions, machine and time behind a study's results",
    "compare": "compare summary tables with expected ones",
    "page": "write a table as a page for the report",
    "explorer": "write a page to look around in a study",
    "examples": "draw a few single questions of a category",
    "figure": "draw one figure from the summary",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit status: 0, or 1 after a one-sentence message on standard error."""
    argv = list(sys.argv[1:] if argv is None else argv)
    listing = "\n".join(f"  {verb:<16}{help}" for verb, help in VERBS.items())
    top = argparse.ArgumentParser(
        prog="crossflow",
        description="Attention knockout in multimodal LLMs.",
        epilog=f"verbs:\n{listing}\n\n`crossflow VERB --help` lists a verb's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"crossflow {__version__}")
    top.add_argument("verb", choices=VERBS, metavar="VERB")
    verb = top.parse_args(argv[:1]).verb

    try:
        module = importlib.import_module(f"crossflow.cli.{verb.replace('-', '_')}")
    except ModuleNotFoundError as error:
        if (error.name or "crossflow").partition(".")[0] == "crossflow":
            raise
        print(f"crossflow {verb}: The package {error.name} is not installed: run `make environment`.", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(prog=f"crossflow {verb}", description=VERBS[verb])
    module.add_arguments(parser)
    parser.add_argument("--provenance", type=Path, help="write here by what, when and where the result was made")
    arguments = parser.parse_args(argv[1:])
    job = Job(verb, argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        with faults_as_errors():
            module.run(arguments)
        if arguments.provenance:
            job.write(arguments.provenance)
    except (CrossflowError, BrokenQuestion) as error:
        print(f"crossflow {verb}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # A disk that is full or gone can show anywhere.
        print(f"crossflow {verb}: {error.filename or 'A file'} failed: {error.strerror or error}.", file=sys.stderr)
        return 1
    return 0

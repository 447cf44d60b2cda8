"""The command line: ``crossflow VERB --option ...``.

The options of a verb follow from its function (`crossflow.cli.verbs`); `tyro` reads them off its signature and
docstring.
"""

import argparse
import ast
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import tyro

from crossflow import __version__
from crossflow.cli.verbs import VERBS
from crossflow.core.errors import BrokenQuestion, CrossflowError, faults_as_errors
from crossflow.core.provenance import Job

OPTION_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
"""How options follow from a signature: no prefixes, and no --no-FLAG."""


def summary_of(verb: str) -> str:
    """The first sentence of a verb's docstring, read without importing its module."""
    module, _, function = VERBS[verb].partition(":")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    found = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return (ast.get_docstring(next(found)) or "").partition("\n\n")[0].replace("\n", " ")


def _chosen(argv: Sequence[str]) -> argparse.Namespace:
    """The verb, the option that all verbs have, and the rest."""
    parser = argparse.ArgumentParser(
        prog="crossflow",
        description="Attention knockout in multimodal LLMs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if argv[:1] in (["-h"], ["--help"]):
        listing = "\n".join(f"  {verb:<18}{summary_of(verb)}" for verb in VERBS)
        parser.epilog = f"verbs:\n{listing}\n\n`crossflow VERB --help` lists a verb's options."
    parser.add_argument("--version", action="version", version=f"crossflow {__version__}")
    parser.add_argument("verb", choices=VERBS, metavar="VERB")
    chosen = parser.parse_args(argv[:1])
    every = argparse.ArgumentParser(add_help=False, allow_abbrev=False, prog=f"crossflow {chosen.verb}")
    every.add_argument("--provenance", type=Path, help="file in which versions, machine and time are recorded")
    _, chosen.options = every.parse_known_args(argv[1:], chosen)
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit status: 0, or 1 after a one-sentence message on standard error."""
    argv = list(sys.argv[1:] if argv is None else argv)
    chosen = _chosen(argv)
    module, _, name = VERBS[chosen.verb].partition(":")
    # Figures are files. A notebook's kernel leaves its own backend to the programs that it starts, which may lack it.
    os.environ["MPLBACKEND"] = "agg"
    try:
        function = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or "crossflow").partition(".")[0] == "crossflow":
            raise
        print(
            f"crossflow {chosen.verb}: The package {error.name} is not installed: run `make environment`.",
            file=sys.stderr,
        )
        return 1
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    job = Job(chosen.verb, argv[1:])
    try:
        with faults_as_errors():
            tyro.cli(
                function,
                prog=f"crossflow {chosen.verb}",
                args=chosen.options,
                config=OPTION_STYLE,
            )
        if chosen.provenance:
            job.write(chosen.provenance)
    except (CrossflowError, BrokenQuestion) as error:
        print(f"crossflow {chosen.verb}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # A disk that is full or gone can show anywhere.
        print(
            f"crossflow {chosen.verb}: {error.filename or 'A file'} failed: {error.strerror or error}.", file=sys.stderr
        )
        return 1
    return 0

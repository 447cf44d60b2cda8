"""``crossflow provenance``: collect by what, when and where a study's results were made."""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crossflow.errors import CrossflowError
from crossflow.tables import write_csv, write_json

FACTS = ("what", "value")
JOBS = ("job", "started", "seconds", "device", "commit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument(
        "--jobs",
        type=Path,
        nargs="+",
        required=True,
        help="what each job wrote by --provenance; absent ones are left out",
    )
    parser.add_argument("--parameters", required=True, help="the study's part of params.yaml, as JSON")
    parser.add_argument("--hashes", type=Path, required=True, help="hashes of data and models, as `hashes` wrote them")
    parser.add_argument("--output", type=Path, required=True, help="everything (JSON)")
    parser.add_argument("--facts", type=Path, required=True, help="parameters, versions and hashes, to be read (CSV)")
    parser.add_argument("--times", type=Path, required=True, help="one line per job (CSV)")


def _flat(content: Any, prefix: str = "") -> Iterator[dict[str, str]]:
    """One line per leaf; a list is a leaf."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        value = ", ".join(map(str, content)) if isinstance(content, list) else content
        yield {"what": prefix, "value": "" if value is None else str(value)}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CrossflowError(f"{path} is no JSON; delete it.") from error


def run(arguments: argparse.Namespace) -> None:
    """Write the three files.

    Raises:
        CrossflowError: a file is broken.
    """
    jobs = {
        path.with_suffix("").as_posix().partition("/provenance/")[2]: _read(path)
        for path in arguments.jobs
        if path.is_file()
    }
    parameters, hashes = json.loads(arguments.parameters), _read(arguments.hashes)
    # Most jobs ran with the same packages, which then stand there once.
    versions = {name: sorted({job["packages"].get(name, "none") for job in jobs.values()}) for name in _names(jobs)}
    write_json(arguments.output, {"parameters": parameters, "sha256": hashes, "versions": versions, "jobs": jobs})
    write_csv(arguments.facts, FACTS, _flat({"parameters": parameters, "versions": versions, "sha256": hashes}))
    write_csv(
        arguments.times,
        JOBS,
        (
            {"job": name, **{column: job.get(column) or "" for column in JOBS[1:]}}
            for name, job in sorted(jobs.items(), key=lambda item: item[1]["started"])
        ),
    )


def _names(jobs: Mapping[str, Any]) -> list[str]:
    return sorted({name for job in jobs.values() for name in job["packages"]})

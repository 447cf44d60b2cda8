"""Versions, machine and time behind the results of a study, collected from its jobs' records."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from crossflow.core.columns import TEXT, Column, Columns
from crossflow.core.errors import CrossflowError
from crossflow.core.files import write_json
from crossflow.core.tables import write_csv

FACTS: Columns = {
    "what": Column(TEXT, words="A parameter, a package or a file, as a path of keys in provenance.json."),
    "value": Column(TEXT, words="Its value, version or SHA-256."),
}
JOBS: Columns = {
    "job": Column(TEXT, words="The job, by the file that it makes."),
    "started": Column(TEXT, words="When it began."),
    "seconds": Column(TEXT, words="How long it took, in seconds."),
    "device": Column(TEXT, words="The device of the model, for jobs that run one."),
    "commit": Column(TEXT, words="The commit of this repository; nothing where the sources are in none."),
}


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CrossflowError(f"{path} is not valid JSON: delete it and run again.") from error


def write_provenance(
    jobs: tuple[Path, ...], parameters: str, hashes: Path, output: Path, facts: Path, times: Path
) -> None:
    """Collect versions, machine and time behind a study's results.

    Args:
        jobs: Files that jobs wrote by --provenance; missing ones are left out.
        parameters: The study's part of params.yaml, as JSON.
        hashes: Hashes of data and models.
        output: The collected record (JSON).
        facts: Parameters, versions and hashes, for reading (CSV).
        times: One line per job (CSV).

    Raises:
        CrossflowError: a file is broken.
    """
    ran = {path.with_suffix("").as_posix().partition("/provenance/")[2]: _read(path) for path in jobs if path.is_file()}
    content = {"parameters": json.loads(parameters), "sha256": _read(hashes)}
    # Most jobs ran with the same packages, which are then listed once.
    names = sorted({name for job in ran.values() for name in job["packages"]})
    versions = {name: sorted({job["packages"].get(name, "none") for job in ran.values()}) for name in names}
    write_json(output, content | {"versions": versions, "jobs": ran})
    said = {"parameters": content["parameters"], "versions": versions, "sha256": content["sha256"]}
    (leaves,) = pd.json_normalize(said).astype(object).to_dict("records")
    write_csv(facts, FACTS, ({"what": name, "value": _said(value)} for name, value in leaves.items()))
    rows = (
        {"job": name, **{column: job.get(column) or "" for column in list(JOBS)[1:]}}
        for name, job in sorted(ran.items(), key=lambda item: item[1]["started"])
    )
    write_csv(times, JOBS, rows)

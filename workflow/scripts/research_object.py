"""A finished study as a Workflow Run RO-Crate: the workflow, its parameters, its results, and how they were made.

    python workflow/scripts/research_object.py results/mini dist/crossflow-mini.crate.zip

Everything comes from records of the run: `provenance.json` has jobs, times, versions and SHA-256 of data and models,
whose files are not included, because their licences may forbid it. `codemeta.json` describes the workflow.
"""

import json
import mimetypes
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
BASE = "1.1"  # the version of RO-Crate on which these profiles are based
FORMAL_PARAMETER = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"
WORKFLOW = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
SOURCES = ("workflow/**/*", "params.yaml", "envs/lock.txt", "README.md", "LICENSE")
# Beside those that Python knows; all other files are sources.
MEDIA = {".parquet": "application/vnd.apache.parquet", ".md": "text/markdown", ".yaml": "application/yaml"}


def _files(*patterns: str) -> list[Path]:
    """Files of this folder, without compiled sources and without the resume files of unfinished jobs."""
    found = {path for pattern in patterns for path in Path().glob(pattern) if path.is_file()}
    return sorted(path for path in found if "__pycache__" not in path.parts and ".journal." not in path.name)


def _add(crate: ROCrate, path: Path, **properties: Any) -> Any:
    media = MEDIA.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
    about = {"name": path.as_posix(), "encodingFormat": media}
    return crate.add_file(path, path.as_posix(), properties=about | properties)


def _times(jobs: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Start of the first job and end of the last, by their records."""
    starts = [datetime.fromisoformat(job["started"]) for job in jobs.values()]
    ends = [start + timedelta(seconds=job["seconds"]) for start, job in zip(starts, jobs.values(), strict=True)]
    return {"startTime": min(starts).isoformat(), "endTime": max(ends).isoformat(timespec="seconds")}


def _parameter(crate: ROCrate, name: str, kind: str, description: str) -> Any:
    """A formal parameter of the workflow."""
    return crate.add(
        ContextEntity(
            crate,
            f"#{name}",
            properties={
                "@type": "FormalParameter",
                "additionalType": kind,
                "conformsTo": {"@id": FORMAL_PARAMETER},
                "description": description,
                "name": name,
            },
        )
    )


def crate_of(results: Path) -> ROCrate:
    """The crate of a study, by the records among its results."""
    about = json.loads(Path("codemeta.json").read_text(encoding="utf-8"))
    provenance = json.loads((results / "provenance.json").read_text(encoding="utf-8"))
    study = provenance["parameters"]["study"]

    crate = ROCrate(version=BASE)
    crate.name = f"crossflow: the study {study}"
    crate.description = f"Workflow, parameters and results of the study {study}. {about['description']}"
    crate.keywords = about["keywords"]
    crate.license = crate.add(
        ContextEntity(
            crate, about["license"], properties={"@type": "CreativeWork", "name": about["license"].split("/")[-1]}
        )
    )
    authors = [
        crate.add(
            ContextEntity(crate, f"#author-{number}", properties={"@type": "Organization", "name": author["name"]})
        )
        for number, author in enumerate(about["author"])
    ]
    by = authors if len(authors) > 1 else authors[0]
    crate.root_dataset["author"] = by
    crate.root_dataset["conformsTo"] = [
        crate.add(ContextEntity(crate, address, properties={"@type": "CreativeWork", "name": name, "version": version}))
        for address, (name, version) in PROFILES.items()
    ]

    settings = _parameter(crate, "parameters", "File", "The study, its data set and its models.")
    inputs = _parameter(crate, "inputs", "PropertyValue", "Files of the data set and of the models.")
    outputs = _parameter(crate, "outputs", "File", "Tables, figures and records of the study.")
    for entity in (inputs, outputs):
        entity["multipleValues"] = True
    workflow = crate.add_workflow("Snakefile", "Snakefile", main=True, lang="snakemake")
    workflow["name"], workflow["description"] = about["name"], about["description"]
    workflow["encodingFormat"] = "text/plain"
    workflow["version"], workflow["license"], workflow["creator"] = about["version"], crate.license, by
    workflow["input"], workflow["output"] = [settings, inputs], outputs
    workflow["conformsTo"] = {"@id": WORKFLOW}

    used = []
    for path in _files(*SOURCES):
        entity = _add(crate, path)
        if path.name == "params.yaml":
            entity["exampleOfWork"] = settings
            used.append(entity)
        elif path.name == "README.md":
            entity["about"] = crate.root_dataset
    for name, digest in provenance["sha256"].items():
        identified = {"@type": "PropertyValue", "name": f"SHA-256 of {name}", "value": digest}
        used.append(crate.add(ContextEntity(crate, f"#{name}", properties=identified | {"exampleOfWork": inputs})))
    made = [_add(crate, path, exampleOfWork=outputs) for path in _files(f"{results.as_posix()}/**/*")]
    versions = ", ".join(f"{name} {' or '.join(found)}" for name, found in provenance["versions"].items())
    action = crate.add(
        ContextEntity(
            crate,
            "#run",
            properties={
                "@type": "CreateAction",
                "name": f"Run of the study {study}",
                "description": f"{len(provenance['jobs'])} jobs, each with its options, time, commit and machine in "
                f"{results.as_posix()}/provenance.json; with {versions}.",
                "actionStatus": "http://schema.org/CompletedActionStatus",
                **_times(provenance["jobs"]),
            },
        )
    )
    action["instrument"], action["object"], action["result"] = workflow, used, made
    crate.root_dataset["mentions"] = action
    return crate


def main(results: Path, crate: Path) -> int:
    if not (results / "provenance.json").is_file():
        print(f"{results} holds no finished study: run snakemake first.", file=sys.stderr)  # noqa: T201
        return 1
    crate.parent.mkdir(parents=True, exist_ok=True)
    crate_of(results).write_zip(crate)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))

"""The crate of a finished study names its workflow, its inputs, its results and its time."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

SCRIPT = "workflow/scripts/research_object.py"


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture
def finished(repo: Path, tmp_path: Path) -> Path:
    """A tree with two results and their records."""
    root = tmp_path / "tree"
    for name in (
        SCRIPT,
        "Snakefile",
        "params.yaml",
        "codemeta.json",
        "README.md",
        "LICENSE",
        "workflow/rules/data.smk",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repo / name, root / name)
    results = root / "results/mini"
    (results / "summary").mkdir(parents=True)
    (results / "summary/effects.csv").write_text("model\n")
    (results / "summary/.effects.journal.part").write_text("unfinished")
    jobs = {
        "answers": {"started": "2026-01-02T10:00:00+00:00", "seconds": 90.5},
        "summary": {"started": "2026-01-02T09:59:00+00:00", "seconds": 1.0},
    }
    record = {"parameters": {"study": "mini"}, "sha256": {"data/a.json": "00ff"}, "versions": {"torch": ["2.13.0"]}}
    (results / "provenance.json").write_text(json.dumps(record | {"jobs": jobs}))
    return root


def _entities(archive: Path) -> dict[str, dict[str, Any]]:
    with zipfile.ZipFile(archive) as packed:
        graph = json.loads(packed.read("ro-crate-metadata.json"))["@graph"]
        names = set(packed.namelist())
    entities = {entity["@id"]: entity for entity in graph}
    files = {name for name, entity in entities.items() if "File" in entity["@type"]}
    assert names == files | {"ro-crate-metadata.json"}, "what is described is not what is packed"
    return entities


def test_the_crate_of_a_study_holds_workflow_inputs_results_and_time(finished: Path) -> None:
    ran = _run(finished, "results/mini", "dist/mini.zip")
    assert ran.returncode == 0, ran.stderr
    entities = _entities(finished / "dist/mini.zip")
    run = entities["#run"]
    assert run["instrument"] == entities["./"]["mainEntity"] == {"@id": "Snakefile"}
    assert "ComputationalWorkflow" in entities["Snakefile"]["@type"]
    assert (run["startTime"], run["endTime"]) == ("2026-01-02T09:59:00+00:00", "2026-01-02T10:01:30+00:00")
    assert {each["@id"] for each in run["object"]} == {"params.yaml", "#data/a.json"}
    assert entities["#data/a.json"]["value"] == "00ff"
    made = {each["@id"] for each in run["result"]}
    assert made == {"results/mini/provenance.json", "results/mini/summary/effects.csv"}
    assert "workflow/rules/data.smk" in entities
    assert entities["README.md"]["about"] == {"@id": "./"}


def test_an_unfinished_study_has_no_crate(finished: Path) -> None:
    (finished / "results/mini/provenance.json").unlink()
    ran = _run(finished, "results/mini", "dist/mini.zip")
    assert (ran.returncode, ran.stderr) == (1, "results/mini holds no finished study: run snakemake first.\n")
    assert not (finished / "dist").exists()

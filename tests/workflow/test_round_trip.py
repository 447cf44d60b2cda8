"""The study `ci` through both tools once: what `make test` proves of the workflow. The rest is in `make test-workflow`."""

from pathlib import Path

import pytest

from copied import Copy, jobs_of


@pytest.mark.round_trip
def test_dvc_reproduces_the_ci_study_by_snakemake_and_neither_has_anything_left_to_do(
    repo: Path, tmp_path: Path
) -> None:
    copy = Copy(repo, tmp_path / "tree")
    parameters = copy.root / "params.yaml"
    parameters.write_text(parameters.read_text().replace("study: mini", "study: ci"))
    copy.run("git", "init", "-q", "-b", "main")
    copy.run("git", "add", "-A")
    copy.run("git", "commit", "-q", "-m", "state")
    assert jobs_of(copy.run("dvc", "repro"))["knockout"] == 1
    results = copy.root / "results" / "ci"
    assert (results / "summary" / "effects.csv").read_text().count("\n") == 1 + 2 * 8
    assert (results / "figures" / "overview-random-llava-w3.png").read_bytes().startswith(b"\x89PNG")
    assert copy.planned() == {}
    assert jobs_of(copy.run("dvc", "repro")) == {}
    assert "up to date" in copy.run("dvc", "status")

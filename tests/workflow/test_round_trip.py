"""The study `ci` through both tools once: what `make test` proves of the workflow. The rest is in `make test-workflow`."""

from pathlib import Path

import pytest

from copied import Tree, jobs_of
from finished_study import Finished


@pytest.mark.round_trip
def test_dvc_reproduces_the_ci_study_by_snakemake_and_neither_has_anything_left_to_do(
    finished_ci: Finished, tmp_path: Path
) -> None:
    tree = Tree(finished_ci.copy_to(tmp_path / "tree"))
    assert finished_ci.jobs["knockout"] == 1
    results = tree.root / "results" / "ci"
    assert (results / "summary" / "effects.csv").read_text().count("\n") == 1 + 2 * 8
    assert (results / "figures" / "overview-random-llava-w3.png").read_bytes().startswith(b"\x89PNG")
    assert tree.planned() == {}
    assert jobs_of(tree.run("dvc", "repro")) == {}
    assert "up to date" in tree.run("dvc", "status")

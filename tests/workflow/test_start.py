"""Where snakemake is started, and how: in the tree's own folder, or one sentence says what to do."""

import shutil
from pathlib import Path

import pytest

from copied import Copy, Tree

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def copy(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy in a folder whose name a shell or a careless format would stumble over."""
    return Copy(repo, tmp_path_factory.mktemp("trees") / "a b'c\"$x%s*?[é;&#~")


def test_jobs_run_in_a_folder_of_any_name(copy: Copy) -> None:
    copy.snakemake("--config", "study=ci", "--", "results/ci/questions/ChooseAttr.csv")
    assert (copy.root / "results/ci/questions/ChooseAttr.csv").is_file()


def test_a_snakefile_from_elsewhere_runs_with_the_folder_that_the_sentence_names(copy: Copy, tmp_path: Path) -> None:
    elsewhere, snakefile = Tree(tmp_path), str(copy.root / "Snakefile")
    said = elsewhere.snakemake("-n", "-s", snakefile, status=1)
    assert f"crossflow runs in its own folder: start snakemake there, or with `--directory {copy.root}`." in said
    assert "Traceback" not in said
    assert "Job stats" in elsewhere.snakemake("-n", "-s", snakefile, "--directory", str(copy.root))
    assert f"with `--directory {copy.root}`" in copy.snakemake("-n", "--directory", str(tmp_path), status=1)


def test_as_a_module_of_another_workflow_it_says_where_to_start(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "tree").symlink_to(copy.root)
    (tmp_path / "Snakefile").write_text(
        'module crossflow:\n    snakefile: "tree/Snakefile"\nuse rule * from crossflow as crossflow_*\n'
    )
    said = Tree(tmp_path).snakemake("-n", status=1)
    assert f"crossflow cannot be a module of another workflow: start snakemake in its folder, {tmp_path}/tree." in said
    assert "Traceback" not in said


def test_braces_in_the_folders_name_are_said(copy: Copy, tmp_path: Path) -> None:
    shutil.copytree(copy.root, braces := tmp_path / "a {b}")
    said = Tree(braces).snakemake("-n", status=1)
    assert f"Snakemake reads braces in a folder's name as wildcards: rename {braces}." in said
    assert "Traceback" not in said

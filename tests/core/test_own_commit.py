"""Whose commit a result records: that of this tree's own repository, and never one around it."""

import os
import subprocess
from pathlib import Path

import pytest

from crossflow.core import provenance

PLAIN = {"GIT_CONFIG_GLOBAL": os.devnull} | {
    f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


def _git(folder: Path, *command: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, env=os.environ | PLAIN
    ).stdout.strip()


def _committed(folder: Path) -> str:
    _git(folder, "init", "-q")
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "-m", "state")
    return _git(folder, "rev-parse", "HEAD")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source of a tree that lies in a folder of somebody's project."""
    file = tmp_path / "theirs/crossflow main/workflow/crossflow/core/provenance.py"
    file.parent.mkdir(parents=True)
    file.write_text("1\n")
    (tmp_path / "theirs/notes.txt").write_text("1\n")
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(provenance, "_TREE", file.parents[3].resolve())
    return file


def test_a_tree_in_no_repository_has_no_commit(source: Path) -> None:
    assert provenance.own_commit() == (None, None)


@pytest.mark.parametrize("tracked", [False, True])
def test_a_repository_around_the_tree_is_not_its_own(source: Path, tmp_path: Path, tracked: bool) -> None:
    if not tracked:
        (tmp_path / "theirs/.gitignore").write_text("crossflow main/\n")
    _committed(tmp_path / "theirs")
    assert provenance.own_commit() == (None, None)


def test_a_repository_of_its_own_counts_wherever_it_lies(source: Path, tmp_path: Path) -> None:
    _committed(tmp_path / "theirs")
    commit = _committed(source.parents[3])
    assert provenance.own_commit() == (commit, False)
    (source.parents[3] / "README.md").write_text("untracked")
    assert provenance.own_commit() == (commit, False)
    source.write_text("2\n")
    assert provenance.own_commit() == (commit, True)

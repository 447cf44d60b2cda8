"""An archive that does not fit is refused in one sentence before anything is written."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = "workflow/scripts/results_archive.py"
STORED = f"remote/files/md5/00/{'1' * 30}"


@pytest.fixture
def checkout(repo: Path, tmp_path: Path) -> Path:
    """A checkout with a finished result."""
    root = tmp_path / "checkout"
    for name in (SCRIPT, "workflow/crossflow/__init__.py", "workflow/crossflow/__init__.pyi"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repo / name, root / name)
    shutil.copytree(repo / "workflow/crossflow/core", root / "workflow/crossflow/core")
    shutil.copy(repo / "dvc.lock", root / "dvc.lock")
    (root / "results/mini").mkdir(parents=True)
    (root / "results/mini/claims.md").write_text("finished")
    return root


def _refusal(checkout: Path, archive: Path) -> str:
    """The sentence by which the archive is refused; nothing is written."""
    before = {path for path in checkout.rglob("*") if "__pycache__" not in path.parts}
    command = [sys.executable, SCRIPT, "pull", str(archive)]
    ran = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert {path for path in checkout.rglob("*") if "__pycache__" not in path.parts} == before
    assert (checkout / "results/mini/claims.md").read_text() == "finished"
    (sentence,) = ran.stderr.splitlines()
    return sentence


def _archive(path: Path, lock: str) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("dvc.lock", lock)
        packed.writestr(STORED, "a result of some length")
    return path


def test_an_archive_of_another_study_is_refused(checkout: Path, tmp_path: Path) -> None:
    lock = (checkout / "dvc.lock").read_text().replace("study: mini\n", "study: ci\n")
    archive = _archive(tmp_path / "ci.zip", lock)
    assert _refusal(checkout, archive) == (
        f"{archive} holds the study ci, but dvc.lock the study mini: name an archive of mini."
    )


def test_an_archive_of_other_results_of_the_study_is_refused(checkout: Path, tmp_path: Path) -> None:
    lock = (checkout / "dvc.lock").read_text()
    _, _, rest = lock.partition("path: results/mini/hashes.json\n      hash: md5\n      md5: ")
    assert rest
    archive = _archive(tmp_path / "old.zip", lock.replace(rest[:32], "0" * 32))
    assert _refusal(checkout, archive) == (
        f"{archive} holds other results of the study mini than dvc.lock: check out the commit of the archive."
    )


def test_a_file_that_is_no_whole_archive_is_refused(checkout: Path, tmp_path: Path) -> None:
    whole = _archive(tmp_path / "whole.zip", (checkout / "dvc.lock").read_text())
    content = whole.read_bytes()
    broken = {
        "absent.zip": (None, "No such file or directory"),
        "half.zip": (content[: len(content) // 2], "File is not a zip file"),
        "changed.zip": (
            content.replace(b"some length", b"sane length"),
            f"Bad CRC-32 for file {STORED!r}",
        ),
    }
    for name, (wrong, reason) in broken.items():
        archive = tmp_path / name
        if wrong is not None:
            archive.write_bytes(wrong)
        assert _refusal(checkout, archive) == (
            f"{archive} is no complete archive of results ({reason}): name a file from `make results-archive`."
        )
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as packed:
        packed.writestr("notes.txt", "no results")
    assert "There is no item named 'dvc.lock' in the archive" in _refusal(checkout, other)

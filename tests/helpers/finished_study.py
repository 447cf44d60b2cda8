"""The study `ci`, finished once for all tests that begin with a finished study."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from copied import Copy, jobs_of


class Finished(NamedTuple):
    """A finished study.

    Attributes:
        root: Its tree, which nobody changes.
        jobs: Rule -> number of the jobs that made it.
    """

    root: Path
    jobs: dict[str, int]

    def copy_to(self, root: Path) -> Path:
        """Copy the tree, with its modification times; returns the new root."""
        return Path(shutil.copytree(self.root, root, symlinks=True))


def finish(repo: Path, folder: Path) -> Finished:
    """The study in ``folder``, made by `dvc repro` in the first process that asks for it; the others wait."""
    root, made = folder / "tree", folder / "jobs.json"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not made.exists():
            shutil.rmtree(root, ignore_errors=True)
            copy = Copy(repo, root)
            parameters = root / "params.yaml"
            parameters.write_text(parameters.read_text().replace("study: mini", "study: ci"))
            copy.run("git", "init", "-q", "-b", "main")
            copy.run("git", "add", "-A")
            copy.run("git", "commit", "-q", "-m", "state")
            made.write_text(json.dumps(jobs_of(copy.run("dvc", "repro"))))
    return Finished(root, json.loads(made.read_text()))

"""Run a stage in the environment that holds dvc and snakemake, whether or not it is active.

    python3 workflow/scripts/beside_dvc.py STAGE

DVC starts a stage through a shell, whose ``python3`` may be the system's, of an older version and without any package.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

STAGE = Path(__file__).with_name("stage.py")
NONE = "snakemake is neither beside dvc nor on the PATH: activate the environment (`source .venv/bin/activate`)."


def _folders_of_dvc() -> Iterator[Path]:
    """Where the programs may lie by which dvc runs, which is a process that led to this one."""
    pid = os.getppid()
    while pid > 1:
        try:
            ran = subprocess.run(
                ["ps", "-ww", "-o", "ppid=", "-o", "command=", "-p", str(pid)],
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):  # slim containers have no ps
            return
        parent, _, command = ran.stdout.strip().partition(" ")
        if re.search(r"\bdvc\b", command):
            # A folder's name may hold spaces: every place where a path may begin.
            yield from map(Path, re.findall(r"(?=(?:^|\s)(\S.*?)/(?:dvc|python[\d.]*)(?:\s|$))", command))
        pid = int(parent)


def environment() -> Path | None:
    """The folder of python and snakemake: beside the running dvc, else that of this Python, else one of the PATH."""
    folders = [*_folders_of_dvc(), Path(sys.executable).parent]
    if found := shutil.which("snakemake"):
        folders.append(Path(found).parent)
    return next((each for each in folders if all((each / name).is_file() for name in ("python3", "snakemake"))), None)


if __name__ == "__main__":
    folder = environment()
    if folder is None:
        sys.exit(NONE)
    python = str(folder / "python3")
    os.execv(python, [python, str(STAGE), *sys.argv[1:]])  # noqa: S606 (no shell is wanted)

"""What the doctor looks at whatever the study: packages, device, disk, folder, DVC."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from crossflow.core.provenance import version_of
from crossflow.models.memory import GIB
from crossflow.verify.finding import MISSING, NOTE, OK, Finding

LOCK = Path("envs/lock.txt")
_SLOWEST = 120.0  # seconds for `dvc status`, which hashes changed files


def check_packages() -> Iterator[Finding]:
    """Python, and the packages of the lock file."""
    yield Finding(OK, "python", ".".join(map(str, sys.version_info[:3])))
    if not LOCK.is_file():
        yield Finding(NOTE, "packages", f"{LOCK} not found: run from the repository's root to compare versions")
        return
    locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    found = {name: version_of(name) for name in locked}
    absent = [name for name, version in found.items() if version is None]
    other = [
        f"{name} {version} (locked {locked[name]})"
        for name, version in found.items()
        if version is not None and version.partition("+")[0] != locked[name]
    ]
    if absent:
        yield Finding(
            NOTE, "packages", f"not installed: {', '.join(absent)}; `make environment` installs the locked versions"
        )
    if other:
        yield Finding(
            NOTE, "packages", f"other than the tested versions: {', '.join(other)}; `make environment` installs these"
        )
    if not absent and not other:
        yield Finding(OK, "packages", f"{len(locked)} in their tested versions")


def check_device() -> Iterator[Finding]:
    """GPUs, or the CPU if there is none."""
    if not torch.cuda.is_available():
        yield Finding(
            NOTE,
            "device",
            f"torch {torch.__version__} sees no GPU: models run on {os.cpu_count()} CPU cores, which is enough for the "
            "small ones; for a GPU install its driver and a build of torch for it (TORCH_INDEX in the Makefile)",
        )
        return
    for index in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(index)
        taken = "" if free > 0.9 * whole else f", {(whole - free) / GIB:.0f} GiB of it in use"
        level = NOTE if taken else OK
        yield Finding(
            level, "device", f"cuda:{index}, {torch.cuda.get_device_name(index)}, {whole / GIB:.0f} GiB{taken}"
        )


def _unwritable(folder: Path) -> str | None:
    """Why a folder is not writable; None if it is."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def check_disk(needed: Mapping[Path, int]) -> Iterator[Finding]:
    """Whether folders are writable and have room for the bytes that a study needs there."""
    disks: dict[int, int] = {}
    for folder, more in needed.items():
        there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        if reason := _unwritable(there):
            yield Finding(MISSING, "disk", f"{folder} cannot be written ({reason}): change its owner or rights")
            continue
        disk = there.stat().st_dev
        disks[disk] = disks.get(disk, 0) + more
        free = shutil.disk_usage(there).free
        said = f"{folder}: {disks[disk] / 1e9:.1f} GB are needed on its disk, {free / 1e9:.1f} GB are free"
        yield Finding(OK, "disk", said) if free >= disks[disk] else Finding(MISSING, "disk", f"{said}: free some space")


def check_folder() -> Iterator[Finding]:
    """A folder in which snakemake cannot work."""
    here = Path.cwd()
    if set(str(here)) & set("{}"):
        yield Finding(MISSING, "folder", f"snakemake takes braces in a folder's name for wildcards: rename {here}")


def check_leftovers() -> Iterator[Finding]:
    """A lock left by a killed snakemake."""
    locks = Path(".snakemake/locks")
    if locks.is_dir() and any(locks.iterdir()):
        yield Finding(NOTE, "lock", "the folder is locked: if no snakemake runs here, `snakemake --unlock`")


def check_dvc() -> Iterator[Finding]:
    """Whether DVC, which is optional, can read the folder."""
    command = Path(sys.executable).with_name("dvc")
    if not Path(".dvc").is_dir() or not command.is_file():
        yield Finding(NOTE, "dvc", "results are not versioned here: that needs a checkout and the package dvc")
        return
    try:
        ran = subprocess.run(
            [command, "status", "--quiet"], capture_output=True, text=True, check=False, timeout=_SLOWEST
        )
    except subprocess.TimeoutExpired:
        yield Finding(NOTE, "dvc", f"`dvc status` takes more than {_SLOWEST:.0f} seconds: run it yourself")
        return
    if ran.returncode in (0, 1):  # 1: a stage has to run
        yield Finding(OK, "dvc", "some stages are out of date" if ran.returncode else "every stage is up to date")
    else:
        here = Path.cwd()
        if not any((folder / ".git").exists() for folder in (here, *here.parents)):
            hint = "no git repository is here: `git init`, or `dvc config --local core.no_scm true`"
        else:
            said = (ran.stderr.strip() or "no reason given").splitlines()[0]
            hint = f"{said}; see `dvc status --verbose`"
        yield Finding(NOTE, "dvc", f"`dvc status` fails: {hint}")

"""Versions, machine and time behind each result: written by the job beside its results; never a reason to rerun.

The tables' own metadata hold what determines the numbers; this is the rest.
"""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from crossflow.core.errors import CrossflowError

PACKAGES = (
    "crossflow",
    "ijson",
    "matplotlib",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "tokenizers",
    "torch",
    "transformers",
)
"""Packages whose versions are recorded if they are installed."""

_notes: dict[str, Any] = {}


def note(**facts: str) -> None:
    """Record facts that only the job knows, such as the device."""
    _notes.update(facts)


_TREE = Path(__file__).resolve().parents[3]


def _git(*command: str) -> str | None:
    """What git says about the sources; None if they are not a checkout."""
    try:
        said = subprocess.run(["git", "-C", str(_TREE), *command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.stdout.rstrip("\n")


def own_commit() -> tuple[str | None, bool | None]:
    """The commit of this tree's own repository, and whether the sources have changed since.

    None if the tree is not the root of a repository. A repository around it belongs to another project;
    its commit says nothing about this code.
    """
    root = _git("rev-parse", "--show-toplevel")
    if root is None or Path(root).resolve() != _TREE:
        return None, None
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "workflow/crossflow")
    return _git("rev-parse", "HEAD"), None if changed is None else bool(changed)


def version_of(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


class Job:
    """The record of one run of a verb, which starts now."""

    def __init__(self, verb: str, options: Sequence[str]) -> None:
        self._verb = verb
        self._options = list(options)
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()
        _notes.clear()

    def write(self, path: Path) -> None:
        """Write what is known now that the verb has ended.

        Raises:
            CrossflowError: the file cannot be written.
        """
        commit, changed = own_commit()
        content = {
            "verb": self._verb,
            "options": self._options,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 1),
            "commit": commit,
            "sources_changed_since_commit": changed,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": sys.platform,
            "packages": {name: version for name in PACKAGES if (version := version_of(name))},
            **_notes,
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise CrossflowError(f"{path} could not be written ({error.strerror or error}).") from error

"""Atomic file writes, and file hashes."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from crossflow.core.errors import CrossflowError
from crossflow.core.locks import take


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` that replaces it only if the block succeeds.

    Raises:
        CrossflowError: it cannot be written, or another process is writing it.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("ab") as lock:
            if not take(lock):
                raise CrossflowError(
                    f"{path} is being written by another run: wait for that run or stop it, then run again."
                )
            try:
                yield temporary
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise CrossflowError(f"{path} could not be written ({error.strerror or error}).") from error


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_hashes(files: tuple[Path, ...], output: Path) -> None:
    """Hash files, so that results identify them on machines without them.

    Args:
        files: Files to hash.
        output: File with the SHA-256 of each path (JSON).

    Raises:
        CrossflowError: a file cannot be read.
    """
    try:
        hashes = {str(path): hash_file(path) for path in files}
    except OSError as error:
        raise CrossflowError(f"{error.filename} could not be read ({error.strerror}).") from error
    write_json(output, hashes)

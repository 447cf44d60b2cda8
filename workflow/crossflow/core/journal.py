"""Finished questions of a long job, kept in a file until the job's table is written.

The journal lies beside the table and is not an output of the workflow, so it survives a killed job; the next run
resumes from it. Its first line is a fingerprint of everything that shapes the rows. A journal with another fingerprint
is set aside under another name, never mixed in and never deleted. Every entry carries a checksum: the first damaged
entry and all that follow are computed again. One process at a time writes to a journal.
"""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from crossflow.core.errors import CrossflowError
from crossflow.core.files import hash_file
from crossflow.core.locks import take

log = logging.getLogger(__name__)


def fingerprint(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _line(key: str, entry: Any) -> str:
    """A line of the journal: key, entry, and a checksum over both."""
    text = json.dumps([key, entry])
    return f"{text[:-1]}, {zlib.crc32(text.encode())}]\n"


class Journal:
    """The finished entries of one job, by key.

    Attributes:
        finished: Key -> entry, in the order in which they were finished.
    """

    def __init__(self, path: Path, file: IO[str], finished: dict[str, Any]) -> None:
        self._path = path
        self._file = file
        self.finished = finished

    def add(self, key: str, entry: Any) -> None:
        """Append one entry and flush it to disk.

        Raises:
            CrossflowError: the disk is full or not writable; what was added before is kept.
        """
        try:
            self._file.write(_line(key, entry))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CrossflowError(
                f"{self._path} could not be written ({error.strerror or error}); finished work is kept: run again."
            ) from error
        self.finished[key] = entry


def _read(path: Path) -> tuple[str | None, dict[str, Any], int]:
    """Fingerprint, entries, and the length in bytes up to the last sound line: a killed job may leave half a line."""
    content = path.read_bytes()
    first, *lines = content.splitlines(keepends=True) or [b""]
    try:
        mark = json.loads(first)["fingerprint"] if first.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        mark = None
    finished: dict[str, Any] = {}
    length = len(first)
    for line in lines:
        try:
            key, entry, _ = json.loads(line)
            sound = line == _line(key, entry).encode()
        except (ValueError, TypeError):
            sound = False
        if not sound:
            break
        finished[key] = entry
        length += len(line)
    return mark, finished, length


def _begin(path: Path) -> IO[str]:
    """Open a journal for appending and lock it for this process."""
    file = path.open("a", encoding="utf-8")
    # Since it was opened, another process may have set it aside or removed it.
    if take(file) and path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
        return file
    file.close()
    raise CrossflowError(f"{path} is being written by another run: wait for that run or stop it, then run again.")


def _open(path: Path, mark: str, settings: Mapping[str, Any]) -> tuple[IO[str], dict[str, Any]]:
    """Open a journal for appending, after what is already finished in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _begin(path)
    found, finished, keep = _read(path)
    size = path.stat().st_size
    if size and found != mark:
        aside = path.with_name(f"{path.name}.{hash_file(path)[:12]}.set-aside")
        log.warning("%s belongs to another study or version: set aside as %s", path, aside.name)
        path.rename(aside)
        file.close()
        return _open(path, mark, settings)
    if not size:
        file.write(json.dumps({"fingerprint": mark, "settings": settings}) + "\n")
        file.flush()
        return file, {}
    if keep < size:
        log.warning("%s: ignoring the last %d bytes, which are damaged or incomplete", path, size - keep)
        file.truncate(keep)
    if finished:
        log.info("resuming from %s: %d finished", path, len(finished))
    return file, finished


@contextmanager
def writing_behind() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Run pieces of work, such as additions to a journal, one after another in a thread.

    At most one piece runs at a time: submitting the next waits for it. All are done when the block ends, also after an
        exception.

    Raises:
        Exception: the error of a piece of work, raised at the next piece or at the end.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        under_way: list[Future[None]] = []

        def give_away(work: Callable[[], None]) -> None:
            while under_way:
                under_way.pop().result()
            under_way.append(thread.submit(work))

        yield give_away
        while under_way:
            under_way.pop().result()


@contextmanager
def journal_beside(table: Path, settings: Mapping[str, Any]) -> Iterator[Journal]:
    """Open the journal of the job that writes ``table``; it is removed when the block succeeds.

    Raises:
        CrossflowError: the journal cannot be written.
    """
    path = table.with_name(f"{table.stem}.journal.jsonl")
    try:
        file, finished = _open(path, fingerprint(settings), settings)
    except OSError as error:
        raise CrossflowError(f"{path} could not be written ({error.strerror or error}).") from error
    with file:
        yield Journal(path, file, finished)
    path.unlink()

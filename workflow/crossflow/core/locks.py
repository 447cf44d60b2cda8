"""File locks, which the system releases however a process ends.

The descriptors of open files are locked, not paths with `filelock.FileLock`: that one locks no journal, leaves lock
files among results, and stops on a file system without locks.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

log = logging.getLogger(__name__)


def take(file: IO[str] | IO[bytes]) -> bool:
    """Lock an open file until it is closed, if no other process has; whether it is ours."""
    with suppress(OSError):  # a file system without locks lets everybody pass
        return lock_descriptor(file.fileno(), blocking=False)
    return True


@contextmanager
def alone(path: Path, work: str) -> Iterator[None]:
    """Do what only one process may do at a time, also of another run; wait for the others.

    Args:
        path: The file to lock; it is made, and stays.
        work: What is done, for the line that says that it waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if not take(file):
            log.info("another job %s: waiting for it", work)
            lock_descriptor(file.fileno())
        yield

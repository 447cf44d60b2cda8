"""File locks, which the system releases when a process ends in any way.

Locks are on open file descriptors, not on paths as in `filelock.FileLock`, which cannot lock a journal, leaves lock
files among results, and fails on a file system without locks.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

log = logging.getLogger(__name__)


def take(file: IO[str] | IO[bytes]) -> bool:
    """Lock an open file until it is closed; False if another process holds the lock."""
    with suppress(OSError):  # a file system without locks: proceed without one
        return lock_descriptor(file.fileno(), blocking=False)
    return True


@contextmanager
def alone(path: Path, work: str) -> Iterator[None]:
    """Hold a lock inside the block; waits while another process, also of another run, holds it.

    Args:
        path: The file to lock; it is created and not removed.
        work: What the job does, such as "fetches X", for the log line about waiting.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if not take(file):
            log.info("waiting for another job, which %s", work)
            lock_descriptor(file.fileno())
        yield

"""One process at a time: locks on files, which the system releases however a process ends."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)


def take(file: IO[str] | IO[bytes]) -> bool:
    """Lock an open file until it is closed, if no other process has; whether it is ours.

    A file system without locks lets everybody pass.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.debug("%s can not be locked (%s)", file.name, error.strerror)
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
            fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""The table of sources: every address from which this project downloads a file itself.

Models and tables of your own are not in it: params.yaml names them by repository and revision on the Hugging Face hub.
Imports nothing heavy: the workflow reads the table at every start.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from crossflow.core.errors import CrossflowError

TABLE = "resources/sources.csv"
COLUMNS = ("name", "url", "bytes", "sha256", "licence")
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True)
class RemoteFile:
    """One line of the table.

    Attributes:
        name: Its name in rules.
        url: Its address.
        bytes: Its size, if known.
        sha256: Its checksum, if known.
    """

    name: str
    url: str
    bytes: int | None = None
    sha256: str | None = None


def require_safe(url: str) -> None:
    """Refuse an address without TLS, except on this machine.

    Raises:
        CrossflowError: the address is refused.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise CrossflowError(f"{url} is not an https address, so nothing is fetched from it.")


def read_sources(path: Path) -> dict[str, RemoteFile]:
    """The table of sources, by name.

    Raises:
        CrossflowError: the table is missing, or a line is malformed.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except OSError as error:
        raise CrossflowError(f"{path} cannot be read ({error.strerror or error}).") from error
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise CrossflowError(f"{path} has the columns {reader.fieldnames}; expected {list(COLUMNS)}.")
    sources = {}
    for row in rows:
        size, sha256 = row["bytes"] or "", row["sha256"] or ""
        if not re.fullmatch(r"\d*", size) or not re.fullmatch("([0-9a-f]{64})?", sha256):
            raise CrossflowError(f"{path}: invalid bytes or sha256 of {row['name']}.")
        require_safe(row["url"])
        sources[row["name"]] = RemoteFile(row["name"], row["url"], int(size) if size else None, sha256 or None)
    return sources


def named_source(table: Path, name: str) -> RemoteFile:
    """A line of the table of sources.

    Raises:
        CrossflowError: no line has that name, or the table is broken.
    """
    sources = read_sources(table)
    if name not in sources:
        raise CrossflowError(f"{table} has no entry {name!r}; choose from {', '.join(sources)}.")
    return sources[name]

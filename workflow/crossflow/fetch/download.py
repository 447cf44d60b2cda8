"""Downloading files over HTTP, whole or in parts, resumed after an interruption and checked before they are kept.

An unfinished file is stored beside its final place as ``<file>.part`` and survives a killed job.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from crossflow.core.errors import CrossflowError
from crossflow.core.files import hash_file, replacing
from crossflow.core.progress import progress_of
from crossflow.fetch.environment import FILES, advice, require_sound
from crossflow.fetch.sources import TABLE, RemoteFile, require_safe

CONNECTIONS = 8
_TRIES = 5
_BACKOFF = 0.5  # seconds before the second retry, doubled with each
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces of a response
_PIECE = 1 << 16  # most bytes lost when a connection breaks


class NoRangesError(Exception):
    """The server sends only whole files."""


class _BrokenOffError(Exception):
    """The response ended early; retried."""


class _SafeAdapter(HTTPAdapter):
    """Refuses addresses without TLS, redirects included, except on this machine."""

    def send(self, request: requests.PreparedRequest, *positional: Any, **named: Any) -> requests.Response:
        require_safe(request.url or "")
        return super().send(request, *positional, **named)


def new_session() -> requests.Session:
    """A session for `CONNECTIONS` threads that retries transient errors with growing pauses.

    Raises:
        CrossflowError: see `crossflow.fetch.environment.require_sound`.
    """
    require_sound(FILES)
    session = requests.Session()
    retry = Retry(
        total=_TRIES,
        backoff_factor=_BACKOFF,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=("GET", "HEAD"),
    )
    for scheme in ("https://", "http://"):
        session.mount(scheme, _SafeAdapter(max_retries=retry, pool_maxsize=CONNECTIONS))
    # Request the bytes of the file itself, not a compressed encoding.
    session.headers["Accept-Encoding"] = "identity"
    return session


def require_space(folder: Path, needed: int, what: str, hint: str = "") -> None:
    """Check free disk space before a download begins; ``hint`` ends the message with further advice.

    Raises:
        CrossflowError: less than ``needed`` bytes are free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CrossflowError(
            f"{what} needs {needed / 1e9:.1f} GB, but the disk of {folder} has {free / 1e9:.1f} GB free; nothing was "
            f"fetched.{hint}"
        )


def require_size(remote: RemoteFile, size: int) -> None:
    """Refuse a file whose size differs from the recorded size, if there is one.

    Raises:
        CrossflowError: the sizes differ.
    """
    if remote.bytes is not None and size != remote.bytes:
        raise CrossflowError(
            f"{remote.url} has {size} bytes, but {TABLE} says {remote.bytes}: it is truncated, or another version."
        )


def ask(session: requests.Session, remote: RemoteFile, start: int, stop: int | None) -> requests.Response:
    """Request the bytes ``start .. stop - 1``.

    Raises:
        NoRangesError: the server sends the whole file instead of the requested part.
    """
    require_safe(remote.url)
    asked = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if start or stop is not None else {}
    response = session.get(remote.url, headers=asked, stream=True, timeout=TIMEOUT)
    response.raise_for_status()
    if asked and response.status_code != requests.codes.partial_content:
        response.close()
        raise NoRangesError
    return response


def _append(session: requests.Session, remote: RemoteFile, part: Path, start: int, stop: int | None, bar: Any) -> None:
    """Append to ``part`` what is still missing of the bytes ``start .. stop - 1``.

    Raises:
        _BrokenOffError: the connection ended early.
        NoRangesError: the server sends only whole files.
    """
    have = part.stat().st_size if part.exists() else 0
    if stop is not None and have >= stop - start:
        return
    with ask(session, remote, start + have, stop) as response:
        total = response.headers.get("Content-Range", "").rpartition("/")[2] or response.headers.get(
            "Content-Length", ""
        )
        if total.isdecimal():
            require_size(remote, int(total))
            if stop is None:
                require_space(part.parent, int(total) - have, remote.url)
        expected = int(response.headers.get("Content-Length", -1))
        got = 0
        with part.open("ab") as file:
            try:
                for piece in response.iter_content(_PIECE):
                    file.write(piece)
                    got += len(piece)
                    bar.update(len(piece))
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                raise _BrokenOffError from error
            finally:
                file.flush()
                os.fsync(file.fileno())
        if expected not in (-1, got):
            raise _BrokenOffError


def fetch_part(
    session: requests.Session, remote: RemoteFile, part: Path, start: int = 0, stop: int | None = None
) -> None:
    """Download the bytes ``start .. stop - 1`` of a remote file into ``part``, after the bytes it already holds.

    Args:
        stop: None fetches up to the end.

    Raises:
        NoRangesError: the server sends only whole files, and a part is requested.
        CrossflowError: the server cannot be reached, the connection keeps breaking, the size is not the recorded one,
            or the disk is full.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    total = remote.bytes if stop is None else stop - start
    have = part.stat().st_size if part.exists() else 0
    failures = 0
    with progress_of(part.stem, total, have, unit="B") as bar:
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                _append(session, remote, part, start, stop, bar)
                return
            except NoRangesError:
                if stop is not None or not before:
                    raise
                # It cannot be resumed: start over.
                part.unlink()
                bar.reset()
            except _BrokenOffError as error:
                failures = 0 if part.stat().st_size > before else failures + 1
                if failures >= _TRIES:
                    raise CrossflowError(
                        f"The connection to {remote.url} keeps breaking; the partial download is kept: run again later."
                    ) from error
                time.sleep(_BACKOFF * 2**failures)
            except requests.HTTPError as error:
                raise CrossflowError(
                    f"{remote.url} could not be fetched: the server answers {error.response.status_code}."
                ) from error
            except requests.RequestException as error:
                raise CrossflowError(
                    f"{remote.url} could not be reached ({type(error).__name__}): {advice(remote.url, error, FILES)} "
                    "and run again; the partial download is kept."
                ) from error
            except OSError as error:
                raise CrossflowError(
                    f"{part} could not be written ({error.strerror or error}); the partial download is kept: run again."
                ) from error


def fetch_file(session: requests.Session, remote: RemoteFile, path: Path) -> None:
    """Download a whole file and check it against the recorded checksum, if there is one, before it is kept.

    Without a recorded checksum, parts downloaded at different times could not be verified, so the file is downloaded in
    one go.

    Raises:
        CrossflowError: as `fetch_part`, or the checksum differs.
    """
    part = path.with_name(f"{path.name}.part")
    if remote.sha256 is None or (part.exists() and remote.bytes is not None and part.stat().st_size > remote.bytes):
        part.unlink(missing_ok=True)
    if not (part.exists() and remote.bytes is not None and part.stat().st_size == remote.bytes):
        fetch_part(session, remote, part)
    found = hash_file(part)
    if remote.sha256 not in (None, found):
        part.unlink()
        raise CrossflowError(
            f"{remote.url}: the download has SHA-256 {found}, but {TABLE} says {remote.sha256}; it was deleted."
        )
    part.replace(path)


def require_as_at_first(remote: RemoteFile, member: str | None, fetched: Path, record: Path) -> None:
    """Compare a file with the checksum recorded at its first download, or record it if this is the first.

    Args:
        member: Its name in a zip, if it is a member.
        fetched: The file; removed if its checksum differs.
        record: The checksum in the format of ``sha256sum --check``, after a comment line with the file's address.

    Raises:
        CrossflowError: the checksum differs, or the record cannot be written.
    """
    found, name = hash_file(fetched), record.stem
    origin = f"# {remote.url}{f', {member}' if member else ''}"
    known = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    if known[:1] == [origin] and known[1:] != [f"{found}  {name}"]:
        fetched.unlink()
        raise CrossflowError(
            f"{origin[2:]}: the download has SHA-256 {found}, which differs from the first download's in {record}; it "
            "was deleted. Delete that record to accept the new file."
        )
    if known[:1] != [origin]:
        with replacing(record) as temporary:
            temporary.write_text(f"{origin}\n{found}  {name}\n", encoding="utf-8")

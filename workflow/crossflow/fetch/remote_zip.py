"""Single members of a zip on a server, read by HTTP ranges: the rest of the zip is never downloaded.

The zip's directory is read first and kept beside the data, so that a later job does not request it again. Every member
is checked by its CRC, and fetched again if the check fails.
"""

import io
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import requests
from remotezip import RangeNotSupported, RemoteIOError, RemoteZip, RemoteZipError

from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.progress import progress_of
from crossflow.data.images import UNREADABLE_ZIP
from crossflow.fetch.download import CONNECTIONS, TIMEOUT, NoRangesError, ask, fetch_part, require_size, require_space
from crossflow.fetch.environment import FILES, advice
from crossflow.fetch.sources import RemoteFile

_TRIES = 3
_HEADER = 30  # bytes before a member's name; the name and the extra field that follow have up to 65535 bytes each
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # all errors of these methods are among UNREADABLE_ZIP


class Member(NamedTuple):
    """One member of a zip.

    Attributes:
        start, stop: Its bytes in the zip, its own header included.
        method: Compression method.
        packed, size: Bytes before and after decompression.
        crc: Of the unpacked bytes.
    """

    start: int
    stop: int
    method: int
    packed: int
    size: int
    crc: int


def _ask_directory(session: requests.Session, remote: RemoteFile) -> tuple[int, dict[str, Member]]:
    try:
        # One HEAD request instead of a suffix range, which not every server supports.
        with RemoteZip(remote.url, session=session, support_suffix_range=False, timeout=TIMEOUT) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            stops = [*(entry.header_offset for entry in entries[1:]), archive.start_dir]
            size = archive.size()
    except RangeNotSupported as error:
        raise NoRangesError from error
    except (RemoteIOError, requests.RequestException) as error:
        raise CrossflowError(
            f"{remote.url} could not be reached ({error}): {advice(remote.url, error, FILES)}."
        ) from error
    except (RemoteZipError, *UNREADABLE_ZIP) as error:
        raise CrossflowError(f"{remote.url} is not a readable zip, or is truncated ({error}).") from error
    # With overlapping or out-of-range members, the wrong bytes would be unpacked.
    if any(
        entry.header_offset < 0 or stop - entry.header_offset < _HEADER + entry.compress_size
        for entry, stop in zip(entries, stops, strict=True)
    ):
        raise CrossflowError(f"{remote.url} is not a readable zip: the members in its directory overlap.")
    members = {
        entry.filename: Member(
            entry.header_offset,
            min(stop, entry.header_offset + _HEADER + 2 * 65535 + entry.compress_size),
            entry.compress_type,
            entry.compress_size,
            entry.file_size,
            entry.CRC,
        )
        for entry, stop in zip(entries, stops, strict=True)
        if entry.filename and not entry.is_dir()
    }
    return size, members


def read_directory(session: requests.Session, remote: RemoteFile, kept: Path) -> dict[str, Member]:
    """The members of a remote zip, by name.

    Args:
        kept: File that caches the directory; used if its address and size match. Without a recorded size, versions of
            the zip cannot be told apart, and the directory is requested each time.

    Raises:
        NoRangesError: the server sends only whole files.
        CrossflowError: the server cannot be reached, the file is no zip, or its size is not the recorded one.
    """
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        if remote.bytes is not None and (found["url"], found["bytes"]) == (remote.url, remote.bytes):
            return {name: Member(*numbers) for name, numbers in found["members"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # missing or unreadable: request it again
    size, members = _ask_directory(session, remote)
    require_size(remote, size)
    if remote.bytes is not None:
        with replacing(kept) as temporary:
            temporary.write_text(json.dumps({"url": remote.url, "bytes": remote.bytes, "members": members}))
    return members


def _require_known(remote: RemoteFile, name: str, member: Member) -> None:
    if member.method not in _METHODS:
        raise CrossflowError(f"{remote.url}: {name} is compressed by the unsupported method {member.method}.")


@contextmanager
def _unpacked(packed: Path | io.BytesIO, name: str, member: Member) -> Iterator[IO[bytes]]:
    """Open a member from its own bytes of the zip. zipfile decompresses it, up to its size, and checks its CRC."""
    entry = zipfile.ZipInfo(name)
    entry.header_offset = 0
    entry.compress_type, entry.compress_size, entry.file_size, entry.CRC = member[2:]
    # Mode "a" accepts a file without a directory; the directory that it appends does no harm.
    with zipfile.ZipFile(packed, "a") as archive, archive.open(entry) as unpacked:
        yield unpacked


def fetch_members(
    session: requests.Session,
    remote: RemoteFile,
    members: Mapping[str, Member],
    store: Callable[[str, bytes], None],
) -> None:
    """Fetch many small members over several connections; ``store`` is called for each, in this thread.

    Raises:
        NoRangesError: the server sends only whole files.
        CrossflowError: a member is not available or keeps arriving damaged; stored members are kept.
    """

    def fetch(name: str) -> bytes:
        member = members[name]
        _require_known(remote, name, member)
        for number in range(_TRIES):
            try:
                with ask(session, remote, member.start, member.stop) as response:
                    packed = next(response.iter_content(member.stop - member.start), b"")
                with _unpacked(io.BytesIO(packed), name, member) as unpacked:
                    return unpacked.read(member.size)
            except UNREADABLE_ZIP as error:  # those of requests are among them
                reason = str(error) or "it is truncated"
                time.sleep(0.5 * number)
        raise CrossflowError(
            f"{remote.url}: {name} could not be fetched in {_TRIES} tries ({reason}); finished files are kept: run "
            "again later."
        )

    total = sum(member.packed for member in members.values())
    with (
        ThreadPoolExecutor(CONNECTIONS) as pool,
        progress_of(remote.name, total, unit="B") as bar,
    ):
        waiting = {pool.submit(fetch, name): name for name in members}
        try:
            for done in as_completed(waiting):
                store(waiting[done], done.result())
                bar.update(members[waiting[done]].packed)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def fetch_member(session: requests.Session, remote: RemoteFile, name: str, member: Member, path: Path) -> None:
    """Fetch one member, of any size, into ``path``; a partial download survives a killed job.

    Raises:
        NoRangesError: the server sends only whole files.
        CrossflowError: it is not available, keeps arriving damaged, or does not fit on the disk.
    """
    _require_known(remote, name, member)
    part = path.with_name(f"{path.name}.part")
    have = part.stat().st_size if part.exists() else 0
    require_space(path.parent, member.stop - member.start - have + member.size, f"{remote.url}, {name}")
    for _ in range(_TRIES):
        fetch_part(session, remote, part, member.start, member.stop)
        try:
            with replacing(path) as temporary, temporary.open("wb") as file, _unpacked(part, name, member) as unpacked:
                shutil.copyfileobj(unpacked, file)
        except UNREADABLE_ZIP as error:
            reason = str(error) or "it is truncated"
            part.unlink()
        else:
            part.unlink()
            return
    raise CrossflowError(f"{remote.url}: {name} arrived damaged {_TRIES} times ({reason}).")

"""Single members of a zip on a server, read by HTTP ranges: the rest of the zip is never downloaded.

The zip's directory is read first and kept beside the data, so that a later job does not request it again. Every member
is checked by its CRC, and fetched again if the check fails.
"""

import json
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import requests
from remotezip import RangeNotSupported, RemoteIOError, RemoteZip, RemoteZipError
from tqdm import tqdm

from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.data.images import UNREADABLE_ZIP
from crossflow.fetch.download import CONNECTIONS, NoRangesError, fetch_part, require_space
from crossflow.fetch.sources import TABLE, RemoteFile, require_safe

_TRIES = 3
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_PIECE = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


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


class _DamagedError(Exception):
    """The received bytes are not the member; retried."""


def _ask_directory(session: requests.Session, remote: RemoteFile) -> tuple[int, dict[str, Member]]:
    require_safe(remote.url)
    try:
        # One HEAD request instead of a suffix range, which not every server supports.
        with RemoteZip(remote.url, session=session, support_suffix_range=False, timeout=60) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            stops = [*(entry.header_offset for entry in entries[1:]), archive.start_dir]
            size = archive.size()
    except RangeNotSupported as error:
        raise NoRangesError from error
    except (RemoteIOError, requests.RequestException) as error:
        raise CrossflowError(f"{remote.url} could not be reached ({error}).") from error
    except (RemoteZipError, *UNREADABLE_ZIP) as error:
        raise CrossflowError(f"{remote.url} is not a readable zip, or is cut short ({error}).") from error
    # With overlapping or out-of-range members, the wrong bytes would be unpacked.
    if any(
        entry.header_offset < 0 or stop - entry.header_offset < _LOCAL_HEADER.size + entry.compress_size
        for entry, stop in zip(entries, stops, strict=True)
    ):
        raise CrossflowError(f"{remote.url} is not a readable zip: the members in its directory overlap.")
    members = {
        entry.filename: Member(
            entry.header_offset, stop, entry.compress_type, entry.compress_size, entry.file_size, entry.CRC
        )
        for entry, stop in zip(entries, stops, strict=True)
        if entry.filename and not entry.is_dir()
    }
    return size, members


def read_directory(session: requests.Session, remote: RemoteFile, kept: Path) -> dict[str, Member]:
    """The members of a remote zip, by name.

    Args:
        kept: File that caches the directory; used if its address and size match. Without a recorded size, versions of
            the zip can not be told apart, and the directory is requested each time.

    Raises:
        NoRangesError: the server sends only whole files.
        CrossflowError: the server can not be reached, the file is no zip, or its size is not the recorded one.
    """
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        if remote.bytes is not None and (found["url"], found["bytes"]) == (remote.url, remote.bytes):
            return {name: Member(*numbers) for name, numbers in found["members"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # missing or unreadable: request it again
    size, members = _ask_directory(session, remote)
    if remote.bytes not in (None, size):
        raise CrossflowError(
            f"{remote.url} has {size} bytes where {TABLE} says {remote.bytes}: it is cut short, or another version."
        )
    if remote.bytes is not None:
        with replacing(kept) as temporary:
            temporary.write_text(json.dumps({"url": remote.url, "bytes": remote.bytes, "members": members}))
    return members


def _unpack(pieces: Iterator[bytes], member: Member) -> Iterator[bytes]:
    """The unpacked bytes of a member, from the bytes ``start .. stop - 1`` of its zip.

    Raises:
        _DamagedError: they do not match the directory. Never yields more than the size given there.
    """
    head = b""
    while len(head) < _LOCAL_HEADER.size or len(head) < _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack_from(head)[-2:]):
        piece = next(pieces, b"")
        if not piece:
            raise _DamagedError("it is cut short")
        head += piece
    if not head.startswith(b"PK\x03\x04"):
        raise _DamagedError("it does not begin as a member does")
    pending = head[_LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack_from(head)[-2:]) :]
    inflate = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == zipfile.ZIP_DEFLATED else None
    packed, size, crc = member.packed, 0, 0
    while True:
        pending, packed = pending[:packed], packed - len(pending[:packed])
        try:
            out = inflate.decompress(pending, member.size - size + 1) if inflate else pending
        except zlib.error as error:
            raise _DamagedError(str(error)) from error
        size, crc = size + len(out), zlib.crc32(out, crc)
        if size > member.size:
            raise _DamagedError("it is larger than the directory says")
        yield out
        pending = next(pieces, b"") if packed else b""
        if not pending:
            break
    if (size, crc) != (member.size, member.crc):
        raise _DamagedError("its CRC is another one")


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _fetch_small(session: requests.Session, remote: RemoteFile, member: Member) -> bytes:
    """Fetch a member that fits into memory. Raises errors worth a retry, or NoRangesError."""
    headers = {"Range": f"bytes={member.start}-{member.stop - 1}"}
    with session.get(remote.url, headers=headers, timeout=60, stream=True) as response:
        require_safe(response.url)
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            raise NoRangesError
        return b"".join(_unpack(response.iter_content(_PIECE), member))


def _require_known(remote: RemoteFile, name: str, member: Member) -> None:
    if member.method not in _METHODS:
        raise CrossflowError(f"{remote.url}: {name} is packed by method {member.method}, which is not known here.")


def fetch_members(
    session: requests.Session,
    remote: RemoteFile,
    members: Mapping[str, Member],
    store: Callable[[str, bytes], None],
    what: str,
) -> None:
    """Fetch many small members over several connections; ``store`` is called for each, in this thread.

    Raises:
        NoRangesError: the server sends only whole files.
        CrossflowError: a member is not available or keeps arriving damaged; stored members are kept.
    """

    def fetch(name: str) -> bytes:
        _require_known(remote, name, members[name])
        for number in range(_TRIES):
            try:
                return _fetch_small(session, remote, members[name])
            except (_DamagedError, requests.RequestException) as error:
                reason = str(error)
                time.sleep(0.5 * number)
        raise CrossflowError(
            f"{remote.url}: {name} could not be fetched in {_TRIES} tries ({reason}); what was fetched is kept, run "
            "again later."
        )

    packed = sum(member.packed for member in members.values())
    with (
        ThreadPoolExecutor(CONNECTIONS) as pool,
        tqdm(desc=what, total=packed, unit="B", unit_scale=True) as bar,
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
            _write(_unpack(_pieces(part), member), path)
        except _DamagedError as error:
            part.unlink()
            reason = str(error)
            continue
        part.unlink()
        return
    raise CrossflowError(f"{remote.url}: {name} came damaged {_TRIES} times ({reason}).")


def _write(pieces: Iterable[bytes], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(pieces)

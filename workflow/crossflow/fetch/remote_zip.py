"""Single members of a zip on a server, read by HTTP ranges: the rest of the zip is never fetched.

The zip's directory comes first and is kept beside the data, so that a later job does not ask for it again. Every
member is checked by its CRC, and fetched once more if that fails.
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
from tqdm import tqdm

from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.data.images import UNREADABLE_ZIP
from crossflow.fetch.download import CONNECTIONS, NoRangesError, ask, fetch_part, require_space
from crossflow.fetch.sources import TABLE, RemoteFile

_TRIES = 3
_HEADER = 30  # bytes before a member's name, which may be 65535 bytes long, as may be what follows it up to the data
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those whose every fault is among UNREADABLE_ZIP


class Member(NamedTuple):
    """One member of a zip.

    Attributes:
        start, stop: Its bytes in the zip, its own header included.
        method: How it is packed.
        packed, size: Its bytes before and after unpacking.
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
        # A HEAD request more than a suffix range, which not every server knows.
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
    # Where members overlap or lie outside, what is unpacked is not what was asked for.
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
        kept: Where the directory is kept; read from there if it is of the same address and size. Without a recorded
            size nothing tells one version of the zip from another, so it is then asked for each time.

    Raises:
        NoRangesError: the server sends only whole files.
        CrossflowError: the zip can not be reached, is none, or has another size than recorded.
    """
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        if remote.bytes is not None and (found["url"], found["bytes"]) == (remote.url, remote.bytes):
            return {name: Member(*numbers) for name, numbers in found["members"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # none, or none that can be read: it is asked for again
    size, members = _ask_directory(session, remote)
    if remote.bytes not in (None, size):
        raise CrossflowError(
            f"{remote.url} has {size} bytes where {TABLE} says {remote.bytes}: it is cut short, or another version."
        )
    if remote.bytes is not None:
        with replacing(kept) as temporary:
            temporary.write_text(json.dumps({"url": remote.url, "bytes": remote.bytes, "members": members}))
    return members


def _require_known(remote: RemoteFile, name: str, member: Member) -> None:
    if member.method not in _METHODS:
        raise CrossflowError(f"{remote.url}: {name} is packed by method {member.method}, which is not known here.")


@contextmanager
def _unpacked(packed: Path | io.BytesIO, name: str, member: Member) -> Iterator[IO[bytes]]:
    """A member, out of its own bytes of the zip. zipfile unpacks it, up to its promised size, and checks its CRC."""
    entry = zipfile.ZipInfo(name)
    entry.header_offset = 0
    entry.compress_type, entry.compress_size, entry.file_size, entry.CRC = member[2:]
    # Mode "a" takes a file without a directory; what it adds at the end hurts nobody.
    with zipfile.ZipFile(packed, "a") as archive, archive.open(entry) as unpacked:
        yield unpacked


def fetch_members(
    session: requests.Session,
    remote: RemoteFile,
    members: Mapping[str, Member],
    store: Callable[[str, bytes], None],
) -> None:
    """Fetch many small members over several connections; ``store`` gets each as it comes, from this thread.

    Raises:
        NoRangesError: the server sends only whole files.
        CrossflowError: a member can not be had, or comes damaged again and again; those that were stored stay.
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
                reason = str(error) or "it is cut short"
                time.sleep(0.5 * number)
        raise CrossflowError(
            f"{remote.url}: {name} could not be fetched in {_TRIES} tries ({reason}); what was fetched is kept, run "
            "again later."
        )

    total = sum(member.packed for member in members.values())
    with (
        ThreadPoolExecutor(CONNECTIONS) as pool,
        tqdm(desc=remote.name, total=total, unit="B", unit_scale=True) as bar,
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
    """Fetch one member, of any size, into ``path``; what has come so far survives a killed job.

    Raises:
        NoRangesError: the server sends only whole files.
        CrossflowError: it can not be had, comes damaged again and again, or the disk is too small.
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
            reason = str(error) or "it is cut short"
            part.unlink()
        else:
            part.unlink()
            return
    raise CrossflowError(f"{remote.url}: {name} came damaged {_TRIES} times ({reason}).")

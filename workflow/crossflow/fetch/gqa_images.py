"""The images that studies need, from GQA's zip of all images, in one local ``images.zip``.

    <root>/images.zip              all images fetched so far, or all of GQA's
    <root>/images.zip.part.d/      the images of an unfinished job
    <root>/images.directory.json   the directory of GQA's zip

``images.zip`` only grows and is replaced atomically, so a killed job loses and damages nothing.
"""

import logging
import shutil
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import requests

from crossflow.core.columns import IMAGE_ID, TEXT, WHOLE, Column, Columns
from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.locks import alone
from crossflow.data.images import LARGEST_IMAGE, UNREADABLE_ZIP
from crossflow.fetch.download import NoRangesError, fetch_file, require_space
from crossflow.fetch.remote_zip import Member, fetch_members, read_directory
from crossflow.fetch.sources import RemoteFile

COLUMNS: Columns = {
    "image_id": IMAGE_ID,
    "bytes": Column(WHOLE, words="Size of the image file, in bytes."),
    "crc32": Column(TEXT, words="Its checksum in the zip, 8 hex digits."),
}
log = logging.getLogger(__name__)


def _name(image_id: str) -> str:
    return f"images/{image_id}.jpg"


def _inside(archive: Path) -> dict[str, zipfile.ZipInfo]:
    if not archive.exists():
        return {}
    try:
        with zipfile.ZipFile(archive) as file:
            return {entry.filename: entry for entry in file.infolist()}
    except UNREADABLE_ZIP as error:
        raise CrossflowError(f"{archive} is not a readable zip ({error}): delete it and run again.") from error


def _merge(archive: Path, parts: Path) -> None:
    """Add the fetched images to the archive, which is replaced atomically."""
    fetched = sorted(parts.glob("*.jpg"))
    if fetched:
        with replacing(archive) as temporary:
            temporary.unlink(missing_ok=True)  # left by a killed job
            if archive.exists():
                shutil.copyfile(archive, temporary)
            with zipfile.ZipFile(temporary, "a", zipfile.ZIP_STORED) as file:
                inside = set(file.namelist())
                for path in fetched:
                    if _name(path.stem) not in inside:
                        # A fixed date, so that the same images give the same bytes.
                        file.writestr(zipfile.ZipInfo(_name(path.stem)), path.read_bytes())
    shutil.rmtree(parts, ignore_errors=True)


def _fetch_needed(session: requests.Session, remote: RemoteFile, root: Path, image_ids: Collection[str]) -> None:
    parts, archive = root / "images.zip.part.d", root / "images.zip"
    directory = read_directory(session, remote, root / "images.directory.json")
    missing: dict[str, Member] = {}
    for image_id in image_ids:
        name = f"{image_id}.jpg"
        if Path(name).name != name or _name(image_id) not in directory:
            log.warning("%s does not contain the image %s", remote.url, image_id)
        elif max(directory[_name(image_id)].packed, directory[_name(image_id)].size) > LARGEST_IMAGE:
            log.warning("%s: leaving out the image %s, which is far too large", remote.url, image_id)
        elif not (parts / name).exists():
            missing[_name(image_id)] = directory[_name(image_id)]
    kept = archive.stat().st_size if archive.exists() else 0
    # During the merge, every image is stored twice.
    require_space(root, 2 * sum(member.size for member in missing.values()) + kept, f"fetching {len(missing)} images")

    def store(name: str, content: bytes) -> None:
        with replacing(parts / Path(name).name) as temporary:
            temporary.write_bytes(content)

    if missing:
        fetch_members(session, remote, missing, store)
    _merge(archive, parts)


def fetch_images(
    session: requests.Session, remote: RemoteFile, root: Path, image_ids: Collection[str], *, full: bool
) -> list[dict[str, Any]]:
    """Ensure that images are in ``<root>/images.zip``; images already there are not downloaded again.

    Args:
        remote: GQA's zip of images.
        image_ids: The images that are needed.
        full: Download the whole zip; this also happens if the server does not support ranges.

    Returns:
        Rows of `COLUMNS`: the needed images that GQA has, by id.

    Raises:
        CrossflowError: a download or a write failed; finished downloads are kept.
    """
    archive = root / "images.zip"
    with alone(root / ".images.lock", f"fetches images into {root}"):
        inside = _inside(archive)
        absent = sorted({image_id for image_id in image_ids if _name(image_id) not in inside})
        if full and not (archive.exists() and archive.stat().st_size == remote.bytes):
            fetch_file(session, remote, archive)
        elif absent:
            try:
                _fetch_needed(session, remote, root, absent)
            except NoRangesError:
                log.warning("%s: the server does not send parts of files; fetching the whole zip", remote.url)
                fetch_file(session, remote, archive)
        inside = _inside(archive)
    return [
        {"image_id": image_id, "bytes": entry.file_size, "crc32": f"{entry.CRC:08x}"}
        for image_id in sorted(set(image_ids))
        if (entry := inside.get(_name(image_id))) is not None
    ]

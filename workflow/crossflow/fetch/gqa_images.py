"""The images that studies need, from GQA's zip of all images.

<root>/images.zip              all images fetched so far, or all of GQA's (`crossflow.fetch.image_archive`)
<root>/images.directory.json   the directory of GQA's zip
"""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import requests

from crossflow.data.images import LARGEST_IMAGE
from crossflow.fetch.download import NoRangesError, fetch_file, require_space
from crossflow.fetch.image_archive import ImageArchive, is_file_name, member_of
from crossflow.fetch.remote_zip import Member, fetch_members, read_directory
from crossflow.fetch.sources import RemoteFile

log = logging.getLogger(__name__)


def _fetch_needed(
    session: requests.Session, remote: RemoteFile, archive: ImageArchive, image_ids: Collection[str]
) -> None:
    directory = read_directory(session, remote, archive.root / "images.directory.json")
    missing: dict[str, Member] = {}
    for image_id in image_ids:
        name = member_of(image_id)
        if not is_file_name(image_id) or name not in directory:
            log.warning("%s does not contain the image %s", remote.url, image_id)
        elif max(directory[name].packed, directory[name].size) > LARGEST_IMAGE:
            log.warning("%s: leaving out the image %s, which is far too large", remote.url, image_id)
        elif not archive.has_part(image_id):
            missing[name] = directory[name]
    needed = archive.space(sum(member.size for member in missing.values()))
    require_space(archive.root, needed, f"fetching {len(missing)} images")
    if missing:
        fetch_members(session, remote, missing, lambda name, content: archive.store(Path(name).stem, content))
    archive.merge()


def fetch_images(
    session: requests.Session, remote: RemoteFile, root: Path, image_ids: Collection[str], *, full: bool
) -> list[dict[str, Any]]:
    """Ensure that images are in ``<root>/images.zip``; images already there are not downloaded again.

    Args:
        remote: GQA's zip of images.
        image_ids: The images that are needed.
        full: Download the whole zip; this also happens if the server does not support ranges.

    Returns:
        Rows of `crossflow.fetch.image_archive.COLUMNS`: the needed images that GQA has, by id.

    Raises:
        CrossflowError: a download or a write failed; finished downloads are kept.
    """
    archive = ImageArchive(root)
    with archive.held():
        absent = archive.absent(image_ids)
        if full and not (archive.path.exists() and archive.path.stat().st_size == remote.bytes):
            fetch_file(session, remote, archive.path)
        elif absent:
            try:
                _fetch_needed(session, remote, archive, absent)
            except NoRangesError:
                log.warning("%s: the server does not send parts of files; fetching the whole zip", remote.url)
                fetch_file(session, remote, archive.path)
        return archive.rows(image_ids)

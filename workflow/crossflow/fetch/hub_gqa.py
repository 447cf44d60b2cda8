"""GQA from the Hugging Face hub, in the layout of lmms-lab/GQA.

    <split>_instructions/*.parquet    questions, in one file or several
    <split>_images/*.parquet          id and image, in several files of many row groups

Its card says MIT; GQA is CC BY 4.0. It has no scene graphs. Of the images, only the row groups that hold needed ones
are fetched, into the ``images.zip`` of `crossflow.fetch.image_archive`; files in the hub's cache are read there.

    <root>/images.shards.json         the images in each row group
"""

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from huggingface_hub.hf_api import RepoSibling

from crossflow.core.errors import CrossflowError
from crossflow.core.files import write_json
from crossflow.core.progress import progress_of
from crossflow.data.gqa_parquet import write_gqa_questions
from crossflow.data.images import LARGEST_IMAGE
from crossflow.data.parquet import IMAGE, TEXT, opened, require_columns
from crossflow.fetch.download import NoRangesError, require_space
from crossflow.fetch.hub_range import RangeFile
from crossflow.fetch.hub_repo import Files, HubRepo, fetch_whole, find_files
from crossflow.fetch.image_archive import ImageArchive, is_file_name
from crossflow.fetch.sources import TABLE, RemoteFile, named_source

_PAGE = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[0-9a-f]{40})")
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.parquet$")
log = logging.getLogger(__name__)


def repo_of(remote: RemoteFile) -> HubRepo | None:
    """The data set on the hub that a line of the table of sources names, or None if it names a file."""
    found = _PAGE.search(remote.url)
    return HubRepo(found["repo"], found["revision"], "dataset") if found else None


def _wanted(folder: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(f"{folder}/") and name.endswith(".parquet")


def _find(repo: HubRepo, folder: str) -> Files:
    """The files of a folder.

    Raises:
        CrossflowError: as `find_files`, or there are none, or not all.
    """
    files = find_files(repo, _wanted(folder))
    if not files:
        raise CrossflowError(f"{repo.repo} has no parquet files in {folder} at revision {repo.revision}.")
    for name in files:
        if (shard := _SHARD.search(name)) and int(shard[1]) != len(files):
            raise CrossflowError(
                f"{repo.repo} at {repo.revision}: {folder} should have {int(shard[1])} files, but only {len(files)} "
                "are there: run once with network access."
            )
    return files


def write_hub_questions(source: str, split: str, output: Path, sources: Path = Path(TABLE)) -> None:
    """Fetch the questions of a split of GQA from the Hugging Face hub, and write them in GQA's official layout.

    Args:
        source: Name of a line of the table of sources, a data set on the hub.
        split: Split of GQA, for example val_balanced.
        output: File to write (JSON).
        sources: The table of sources (CSV).

    Raises:
        CrossflowError: it could not be fetched (a partial download is kept), or is not as expected (nothing is
            changed).
    """
    remote = named_source(sources, source)
    repo = repo_of(remote)
    if repo is None:
        raise CrossflowError(f"{remote.url} is not a data set of the hub at a revision, .../datasets/NAME/tree/COMMIT.")
    files = _find(repo, f"{split}_instructions")
    folder = fetch_whole(repo, files)
    write_gqa_questions([folder / name for name in sorted(files)], output)


class _Group(NamedTuple):
    """A row group: its bytes, and the ids of its images."""

    bytes: int
    ids: list[str]


_Shards = dict[str, list[_Group]]


@contextmanager
def _open(repo: HubRepo, name: str, file: RepoSibling | None) -> Iterator[pq.ParquetFile]:
    """Open a file: in the hub's cache if it is there, otherwise on the hub."""
    source = repo.cached(name) or RangeFile(repo, name, (file and file.size) or 0)
    with opened(source, f"{repo.repo}/{name}") as parquet:
        require_columns(parquet, f"{repo.repo}/{name}", {"id": TEXT, "image": IMAGE})
        yield parquet


def _read_groups(repo: HubRepo, name: str, file: RepoSibling | None) -> list[_Group]:
    with _open(repo, name, file) as parquet:
        return [
            _Group(
                parquet.metadata.row_group(number).total_byte_size,
                parquet.read_row_group(number, columns=["id"])["id"].to_pylist(),
            )
            for number in range(parquet.num_row_groups)
        ]


def _shards(repo: HubRepo, files: Files, kept: Path) -> _Shards:
    """The row groups of each file, from the kept list if it is of the same files.

    Raises:
        CrossflowError: as `_open`, or an image is there twice.
    """
    about = [repo.repo, repo.revision, *sorted(files)]
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["about"] == about:
            return {name: [_Group(*group) for group in groups] for name, groups in found["shards"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing, unreadable, or of another form: read them again
    shards = {name: _read_groups(repo, name, files[name]) for name in sorted(files)}
    seen: set[str] = set()
    for name, groups in shards.items():
        for image_id in (image_id for group in groups for image_id in group.ids):
            if image_id in seen:
                raise CrossflowError(f"{repo.repo}/{name} contains image {image_id} twice.")
            seen.add(image_id)
    write_json(kept, {"about": about, "shards": shards})
    return shards


def _needed(archive: ImageArchive, ids: Iterable[str], wanted: Collection[str]) -> list[str]:
    return [each for each in ids if each in wanted and is_file_name(each) and not archive.has_part(each)]


def _store(archive: ImageArchive, where: str, image_id: str, content: bytes | None) -> None:
    if not content:
        log.warning("%s holds no bytes of the image %s", where, image_id)
    elif len(content) > LARGEST_IMAGE:
        log.warning("%s: leaving out the image %s, which is far too large", where, image_id)
    else:
        archive.store(image_id, content)


def _fetch_needed(repo: HubRepo, files: Files, shards: _Shards, archive: ImageArchive, wanted: Collection[str]) -> None:
    """Fetch the row groups that hold images which are not there, and add them to the archive."""
    missing: list[tuple[str, int, list[str]]] = []
    stored = 0.0
    for name, groups in shards.items():
        for number, group in enumerate(groups):
            if needed := _needed(archive, group.ids, wanted):
                missing.append((name, number, needed))
                stored += group.bytes * len(needed) / len(group.ids)
    images = sum(len(needed) for _, _, needed in missing)
    require_space(archive.root, archive.space(round(stored)), f"fetching {images} images")
    with progress_of(archive.path.name, images, unit="image") as bar:
        for name in dict.fromkeys(name for name, _, _ in missing):
            with _open(repo, name, files[name]) as parquet:
                for _, number, needed in (each for each in missing if each[0] == name):
                    rows = parquet.read_row_group(number, columns=["id", "image"])
                    contents = dict(zip(rows["id"].to_pylist(), rows["image"].to_pylist(), strict=True))
                    for image_id in needed:
                        _store(archive, f"{repo.repo}/{name}", image_id, (contents[image_id] or {}).get("bytes"))
                    bar.update(len(needed))


def _fetch(repo: HubRepo, split: str, archive: ImageArchive, image_ids: Collection[str], *, full: bool) -> None:
    folder = f"{split}_images"
    files = _find(repo, folder)
    if full:
        fetch_whole(repo, files)
    kept = archive.root / "images.shards.json"
    try:
        shards = _shards(repo, files, kept)
        inside = {image_id for groups in shards.values() for group in groups for image_id in group.ids}
        for image_id in set(image_ids) - inside:
            log.warning("%s/%s does not contain the image %s", repo.repo, folder, image_id)
        wanted = set(archive.absent(inside if full else inside & set(image_ids)))
        _fetch_needed(repo, files, shards, archive, wanted)
    except NoRangesError:
        log.warning("%s: the server does not send parts of files; fetching whole ones", repo.repo)
        fetch_whole(repo, files)
        _fetch(repo, split, archive, image_ids, full=full)


def fetch_hub_images(
    repo: HubRepo, split: str, root: Path, image_ids: Collection[str], *, full: bool
) -> list[dict[str, Any]]:
    """Ensure that images of a split are in ``<root>/images.zip``; images already there are not downloaded again.

    Args:
        repo: The data set on the hub.
        split: Split of GQA, for example val_balanced.
        root: Folder of the zip.
        image_ids: The images that are needed.
        full: Store all images of the split, from whole files.

    Returns:
        Rows of `crossflow.fetch.image_archive.COLUMNS`: the needed images that the data set has, by id.

    Raises:
        CrossflowError: a download or a write failed, or a file is not as expected; finished images are kept.
    """
    archive = ImageArchive(root)
    with archive.held():
        if full or archive.absent(image_ids):
            _fetch(repo, split, archive, image_ids, full=full)
            archive.merge()
        return archive.rows(image_ids)

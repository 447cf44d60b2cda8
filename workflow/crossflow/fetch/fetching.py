"""Downloading a file of the table of sources, or one member of a zip, and the images of chosen questions."""

import logging
import shutil
import zipfile
from pathlib import Path
from typing import Literal

import requests

from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.locks import alone
from crossflow.core.tables import write_csv
from crossflow.data.chosen import read_chosen
from crossflow.data.images import UNREADABLE_ZIP
from crossflow.fetch.download import NoRangesError, fetch_file, new_session, require_as_at_first, require_space
from crossflow.fetch.gqa_images import fetch_images
from crossflow.fetch.hub_gqa import fetch_hub_images, repo_of
from crossflow.fetch.image_archive import COLUMNS
from crossflow.fetch.remote_zip import fetch_member, read_directory
from crossflow.fetch.sources import TABLE, RemoteFile, named_source

log = logging.getLogger(__name__)


def _out_of_whole(session: requests.Session, remote: RemoteFile, name: str, path: Path) -> None:
    """Download the whole zip beside the member, extract the member, and remove the zip."""
    log.warning("%s: the server does not send parts of files; fetching the whole zip", remote.url)
    whole = path.with_name(f"{path.name}.zip")
    fetch_file(session, remote, whole)
    try:
        with zipfile.ZipFile(whole) as archive, archive.open(name) as member:
            require_space(path.parent, archive.getinfo(name).file_size, f"{remote.url}, {name}")
            with replacing(path) as temporary, temporary.open("wb") as file:
                shutil.copyfileobj(member, file)
    except KeyError as error:
        raise CrossflowError(f"{remote.url} does not contain {name}.") from error
    except UNREADABLE_ZIP as error:
        raise CrossflowError(f"{remote.url} is not a readable zip, or is truncated ({error}).") from error
    finally:
        whole.unlink()


def _fetch_member(session: requests.Session, remote: RemoteFile, name: str, path: Path) -> None:
    try:
        members = read_directory(session, remote, path.with_name(f"{remote.name}.directory.json"))
        if name not in members:
            raise CrossflowError(f"{remote.url} does not contain {name}.")
        fetch_member(session, remote, name, members[name], path)
    except NoRangesError:
        _out_of_whole(session, remote, name, path)


def write_fetched(source: str, output: Path, member: str | None = None, sources: Path = Path(TABLE)) -> None:
    """Fetch a file of the table of sources, or one member of a zip.

    Args:
        source: Name of a line of the table of sources.
        output: File to write.
        member: Fetch only this member of the zip.
        sources: The table of sources (CSV).

    Raises:
        CrossflowError: it could not be fetched or written (a partial download is kept), or its checksum differs from
            the first download's (nothing is changed).
    """
    remote, session = named_source(sources, source), new_session()
    fetched = output.with_name(f"{output.name}.fetched")
    with alone(output.with_name(f".{remote.name}.lock"), f"fetches from {remote.url}"):
        if member is None:
            fetch_file(session, remote, fetched)
        else:
            _fetch_member(session, remote, member, fetched)
        require_as_at_first(remote, member, fetched, output.with_name(f"{output.name}.sha256"))
        fetched.replace(output)


def write_images(
    source: str,
    questions: Path,
    root: Path,
    output: Path,
    images: Literal["needed", "full"] = "needed",
    split: str = "",
    sources: Path = Path(TABLE),
) -> None:
    """Fetch the images of chosen questions from GQA's zip or from the Hugging Face hub, and list those that exist.

    Args:
        source: Name of a line of the table of sources.
        questions: Table of chosen questions.
        root: Folder that gets images.zip.
        output: List of the images that exist (CSV).
        images: Fetch only the images that the questions need, or all.
        split: Split of GQA whose images are fetched, if the source is on the hub.
        sources: The table of sources (CSV).

    Raises:
        CrossflowError: nothing could be fetched, or the source has none of the images.
    """
    wanted = {question.image_id for question in read_chosen(questions)}
    remote = named_source(sources, source)
    repo, full = repo_of(remote), images == "full"
    if repo is not None:
        there = fetch_hub_images(repo, split, root, wanted, full=full)
    else:
        there = fetch_images(new_session(), remote, root, wanted, full=full)
    if wanted and not there:
        raise CrossflowError(f"{remote.url} contains none of the {len(wanted)} images of {questions}.")
    write_csv(output, COLUMNS, there)

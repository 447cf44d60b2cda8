"""``crossflow fetch``: one file of the table of sources, or one member of a zip."""

import argparse
import logging
import shutil
import zipfile
from pathlib import Path

import requests

from crossflow.cli.source_options import add_source_arguments, named_source
from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.locks import alone
from crossflow.data.images import UNREADABLE_ZIP
from crossflow.fetch.download import NoRangesError, fetch_file, new_session, require_as_at_first, require_space
from crossflow.fetch.remote_zip import fetch_member, read_directory
from crossflow.fetch.sources import RemoteFile

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_source_arguments(parser)
    parser.add_argument("--member", help="fetch only this member of the zip")
    parser.add_argument("--output", type=Path, required=True)


def _out_of_whole(session: requests.Session, remote: RemoteFile, name: str, path: Path) -> None:
    """The member out of the whole zip, which is fetched beside it and removed."""
    log.warning("%s: the server sends no parts of files, the whole zip is fetched", remote.url)
    whole = path.with_name(f"{path.name}.zip")
    fetch_file(session, remote, whole)
    try:
        with zipfile.ZipFile(whole) as archive, archive.open(name) as member:
            require_space(path.parent, archive.getinfo(name).file_size, f"{remote.url}, {name}")
            with replacing(path) as temporary, temporary.open("wb") as file:
                shutil.copyfileobj(member, file)
    except KeyError as error:
        raise CrossflowError(f"{remote.url} holds no {name}.") from error
    except UNREADABLE_ZIP as error:
        raise CrossflowError(f"{remote.url} is not a readable zip, or is cut short ({error}).") from error
    finally:
        whole.unlink()


def _fetch_member(session: requests.Session, remote: RemoteFile, name: str, path: Path) -> None:
    try:
        members = read_directory(session, remote, path.with_name(f"{remote.name}.directory.json"))
        if name not in members:
            raise CrossflowError(f"{remote.url} holds no {name}.")
        fetch_member(session, remote, name, members[name], path)
    except NoRangesError:
        _out_of_whole(session, remote, name, path)


def run(arguments: argparse.Namespace) -> None:
    """Fetch it.

    Raises:
        CrossflowError: it could not be fetched or written, which keeps what was fetched; or it is not what was
            fetched from there the first time, which leaves everything as it was.
    """
    remote, session, path = named_source(arguments), new_session(), arguments.output
    fetched = path.with_name(f"{path.name}.fetched")
    with alone(path.with_name(f".{remote.name}.lock"), f"fetches from {remote.url}"):
        if arguments.member is None:
            fetch_file(session, remote, fetched)
        else:
            _fetch_member(session, remote, arguments.member, fetched)
        require_as_at_first(remote, arguments.member, fetched, path.with_name(f"{path.name}.sha256"))
        fetched.replace(path)

"""The results that dvc.lock records, packed into one zip file and pulled from it elsewhere.

    python workflow/scripts/results_archive.py pack dist/crossflow-results.zip
    python workflow/scripts/results_archive.py pull ../crossflow-results.zip

The zip file holds a DVC remote in a folder, and the dvc.lock of its results. DVC itself pushes to it and pulls from it.
"""

import argparse
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing

LOCK = Path("dvc.lock")
REMOTE = "remote"
_STORED = re.compile(rf"{REMOTE}/files/md5/[0-9a-f]{{2}}/[0-9a-f]{{30}}(\.dir)?")  # as DVC 3 names them


def _results(lock: dict[str, Any]) -> dict[str, str]:
    """Path -> hash of every result in a dvc.lock."""
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}


def _study(lock: dict[str, Any]) -> str:
    return str(lock["stages"]["data"]["params"]["params.yaml"]["study"])


def _with_remote(folder: Path) -> Any:
    """The DVC repository of this folder, with the folder of a remote."""
    from dvc.repo import Repo  # takes a second, which a refused archive does not need

    return Repo(config={"remote": {REMOTE: {"url": str(folder)}}})


def pack(archive: Path) -> None:
    """Pack the results in dvc.lock, out of DVC's cache.

    Raises:
        CrossflowError: DVC does not have all results, or the file cannot be written.
    """
    from dvc.exceptions import DvcException

    with tempfile.TemporaryDirectory() as folder:
        remote = Path(folder)
        try:
            with _with_remote(remote) as repository:
                repository.push(remote=REMOTE)
        except DvcException as error:
            raise CrossflowError(
                f"DVC does not have all results in {LOCK} ({error}): run `dvc repro` first."
            ) from error
        with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.write(LOCK, LOCK.name)
            for path in sorted(remote.rglob("*")):
                packed.write(path, Path(REMOTE, path.relative_to(remote)))


def _unpack(packed: zipfile.ZipFile, folder: Path) -> None:
    """Write the files of the remote; nothing else in an archive is written."""
    for name in packed.namelist():
        if _STORED.fullmatch(name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with packed.open(name) as content, (folder / name).open("wb") as file:
                shutil.copyfileobj(content, file)


def pull(archive: Path) -> None:
    """Pull the results in dvc.lock out of an archive. What lies in their place and is in no cache of DVC stays.

    Raises:
        CrossflowError: the file is not a complete archive, holds other results than dvc.lock, or DVC refuses to replace
            a file.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(archive) as packed:
                held = yaml.safe_load(packed.read(LOCK.name))
                _require_results_of(yaml.safe_load(LOCK.read_text(encoding="utf-8")), held, archive)
                _unpack(packed, Path(folder))
        except (OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
            reason = getattr(error, "strerror", None) or error
            raise CrossflowError(
                f"{archive} is no complete archive of results ({reason}): name a file from `make results-archive`."
            ) from error
        from dvc.exceptions import DvcException

        try:
            with _with_remote(Path(folder, REMOTE)) as repository:
                repository.pull(remote=REMOTE)
        except DvcException as error:
            raise CrossflowError(
                f"DVC could not pull from {archive} ({error}): move files that are in the way to another folder."
            ) from error


def _require_results_of(lock: dict[str, Any], held: dict[str, Any], archive: Path) -> None:
    study = _study(lock)
    if _study(held) != study:
        raise CrossflowError(
            f"{archive} holds the study {_study(held)}, but {LOCK} the study {study}: name an archive of {study}."
        )
    if _results(held) != _results(lock):
        raise CrossflowError(
            f"{archive} holds other results of the study {study} than {LOCK}: check out the commit of the archive."
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("pack", "pull"))
    parser.add_argument("archive", type=Path)
    arguments = parser.parse_args()
    try:
        {"pack": pack, "pull": pull}[arguments.action](arguments.archive)
    except CrossflowError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Fetching models from the Hugging Face hub, at a pinned revision, into the hub's own cache.

`fetch` runs once, with a network. All else reads the cache and the manifest only (`crossflow.models.folder`), so jobs
need no network and hash no weights. The cache is the usual one (``HF_HOME``, ``HF_HUB_CACHE``): models that it already
holds are not downloaded again.
"""

import hashlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from crossflow.core.errors import CrossflowError
from crossflow.core.files import hash_file, write_json
from crossflow.fetch.sources import require_safe
from crossflow.models.folder import PATTERNS, Manifest, ModelFile, cached_file, files_in, is_model_file, lacking

try:  # the hub's client left httpx for httpx2 with its version 2
    from httpx2 import HTTPError as TransportError
except ModuleNotFoundError:
    from httpx import HTTPError as TransportError  # type: ignore[no-redef, import-not-found, unused-ignore]

log = logging.getLogger(__name__)
for client in ("httpx", "httpx2"):  # one log line per request is too much
    logging.getLogger(client).setLevel(logging.WARNING)


class HubFile(NamedTuple):
    """A file as the hub describes it: its size, and its SHA-256 or (for small files) git's hash of it."""

    size: int
    sha256: str | None
    blob: str | None


def _on_hub(repo: str, revision: str) -> dict[str, HubFile]:
    """The files of a model as the hub describes them."""
    api = HfApi()
    api.auth_check(repo)
    files = {}
    for file in api.model_info(repo, revision=revision, files_metadata=True).siblings or []:
        if is_model_file(file.rfilename):
            sha256 = file.lfs.sha256 if file.lfs is not None else None
            files[file.rfilename] = HubFile(file.size or 0, sha256, file.blob_id)
    return files


def _git_hash(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _local(repo: str, revision: str) -> Path:
    return Path(snapshot_download(repo, revision=revision, allow_patterns=PATTERNS, local_files_only=True))


def _require_space(repo: str, revision: str, files: Mapping[str, HubFile]) -> None:
    needed = sum(file.size for name, file in files.items() if cached_file(repo, revision, name) is None)
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise CrossflowError(
            f"{repo} needs {needed / 1e9:.1f} GB, but the disk of {cache} has {free / 1e9:.1f} GB free; nothing was "
            "fetched. Make room, or name another disk in HF_HOME."
        )


def _check(folder: Path, name: str, file: HubFile | None) -> ModelFile:
    path = folder / name
    found = ModelFile(path.stat().st_size, hash_file(path))
    if file is not None and (
        found.bytes != file.size
        or (file.sha256 is not None and found.sha256 != file.sha256)
        or (file.sha256 is None and file.blob is not None and _git_hash(path) != file.blob)
    ):
        raise CrossflowError(f"{path} is not the file that the hub has: delete {path.resolve()} and run again.")
    return found


def _complete(folder: Path) -> list[str]:
    """The names of a model's files in a folder of the cache, without asking the hub.

    Raises:
        CrossflowError: the model is incomplete.
    """
    if absent := lacking(folder):
        raise CrossflowError(f"{folder} lacks {', '.join(absent)}, and the hub can not be reached.")
    return [path.name for path in files_in(folder)]


def cached_folder(repo: str, revision: str) -> Path | None:
    """The folder of a model that is complete in the hub's cache, or None; needs no network."""
    try:
        folder = _local(repo, revision)
    except LocalEntryNotFoundError:
        return None
    return None if lacking(folder) else folder


def write_manifest(repo: str, revision: str, output: Path) -> None:
    """Fetch a model from the Hugging Face hub into its cache, and write a manifest of it.

    Args:
        repo: Repository on the hub, owner/name.
        revision: Commit of the repository, 40 hex digits.
        output: Manifest: files with sizes and SHA-256 (JSON).

    Raises:
        CrossflowError: see `fetch`.
    """
    manifest = fetch(repo, revision)
    files = {name: file._asdict() for name, file in manifest.files.items()}
    write_json(output, manifest._asdict() | {"files": files})


def fetch(repo: str, revision: str) -> Manifest:
    """Download a model into the hub's cache and check it.

    Raises:
        CrossflowError: one sentence: no such repository or revision, a licence to accept first, too little disk space
            (checked before downloading), no network, or a file that differs from the hub's.
    """
    require_safe(constants.ENDPOINT)
    page = f"https://huggingface.co/{repo}"
    try:
        try:
            files: dict[str, HubFile] | None = _on_hub(repo, revision)
        except (OfflineModeIsEnabled, TransportError) as error:
            if isinstance(error, HfHubHTTPError):
                raise
            log.warning("the hub can not be reached (%s): what is in the cache is taken", type(error).__name__)
            files, folder = None, _local(repo, revision)
        if files is not None:
            if not any(name.endswith(".safetensors") for name in files):
                raise CrossflowError(f"{repo} has no safetensors at revision {revision}; nothing else is read.")
            _require_space(repo, revision, files)
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=sorted(files)))
    except GatedRepoError as error:
        raise CrossflowError(
            f"{repo} asks you to accept its licence: do so at {page}, then log in by `hf auth login` or set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise CrossflowError(
            f"{repo} has no revision {revision}; its revisions are listed at {page}/commits."
        ) from error
    except RepositoryNotFoundError as error:
        raise CrossflowError(f"{repo} is not on the hub, or is private and asks for a login (HF_TOKEN).") from error
    except LocalEntryNotFoundError as error:
        raise CrossflowError(
            f"{repo} at {revision} is not in {constants.HF_HUB_CACHE}, and the hub can not be reached: run once with a "
            "network."
        ) from error
    except (TransportError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CrossflowError(f"{repo} could not be fetched ({reason}); what was fetched is kept, run again.") from error
    names = sorted(files) if files is not None else _complete(folder)
    return Manifest(repo, revision, {name: _check(folder, name, (files or {}).get(name)) for name in names})

"""Fetching models from the Hugging Face hub, at a pinned revision, into the hub's own cache.

`fetch` runs once, with a network. Everything else reads the cache and the manifest only (`crossflow.models.folder`), so
jobs need no network and hash no weights. The cache is the usual one (``HF_HOME``, ``HF_HUB_CACHE``): models that it
already holds are not downloaded again.
"""

import logging
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils.sha import git_hash

from crossflow.core.errors import CrossflowError
from crossflow.core.files import hash_file, write_json
from crossflow.fetch.download import require_space
from crossflow.fetch.environment import HUB, advice, require_sound, token_place
from crossflow.fetch.sources import require_safe
from crossflow.models.folder import PATTERNS, Manifest, ModelFile, cached_file, files_in, is_model_file, lacking

try:  # the hub's client left httpx for httpx2 with its version 2
    from httpx2 import HTTPError as TransportError
except ModuleNotFoundError:
    from httpx import HTTPError as TransportError  # type: ignore[no-redef, import-not-found, unused-ignore]

log = logging.getLogger(__name__)
_KEPT = "finished files are kept: run again"
for client in ("httpx", "httpx2"):  # one log line per request would be too many
    logging.getLogger(client).setLevel(logging.WARNING)


def _on_hub(repo: str, revision: str) -> dict[str, RepoSibling]:
    """The files of a model as the hub describes them."""
    api = HfApi()
    api.auth_check(repo)
    files = api.model_info(repo, revision=revision, files_metadata=True).siblings or []
    return {file.rfilename: file for file in files if is_model_file(file.rfilename)}


def _local(repo: str, revision: str) -> Path:
    return Path(snapshot_download(repo, revision=revision, allow_patterns=PATTERNS, local_files_only=True))


def _is_as_on_hub(path: Path, found: ModelFile, file: RepoSibling) -> bool:
    """Compare sizes and hashes; the hub knows the SHA-256 of large files, and git's hash of small ones."""
    if file.lfs is not None:
        same = found.sha256 == file.lfs.sha256
    else:
        same = file.blob_id is None or git_hash(path.read_bytes()) == file.blob_id
    return found.bytes == file.size and same


def _check(folder: Path, name: str, file: RepoSibling | None) -> ModelFile:
    path = folder / name
    found = ModelFile(path.stat().st_size, hash_file(path))
    if file is not None and not _is_as_on_hub(path, found, file):
        raise CrossflowError(f"{path} differs from the hub's file: delete {path.resolve()} and run again.")
    return found


def _complete(folder: Path) -> list[str]:
    """The names of a model's files in a folder of the cache, without contacting the hub.

    Raises:
        CrossflowError: the model is incomplete.
    """
    if absent := lacking(folder):
        raise CrossflowError(f"{folder} lacks {', '.join(absent)}, and the hub cannot be reached.")
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


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def refused_token() -> str:
    """What is said of a token that the hub refuses."""
    return (
        f"The hub refuses the token in {token_place()}, which has expired or is mistyped: take a new one from "
        "https://huggingface.co/settings/tokens, or remove it, as public models need none"
    )


def _refused(error: HfHubHTTPError, repo: str, revision: str) -> str:
    """What the hub's refusal of a model means, and what to do, in one sentence."""
    page = f"https://huggingface.co/{repo}"
    if error.response.status_code == HTTPStatus.UNAUTHORIZED and get_token():
        return f"{refused_token()}."
    if isinstance(error, GatedRepoError):
        return (
            f"{repo} asks you to accept its licence: do so at {page}, then log in by `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision}; its revisions are listed at {page}/commits."
    if isinstance(error, RepositoryNotFoundError):
        return f"{repo} is not on the hub, or is private and asks for a login (HF_TOKEN)."
    return f"{repo} could not be fetched ({_reason(error)}); {_KEPT}."


def fetch(repo: str, revision: str) -> Manifest:
    """Download a model into the hub's cache and check it.

    Raises:
        CrossflowError: one sentence: no such repository or revision, a licence to accept first, too little disk space
            (checked before downloading), no network, a variable of the environment that cannot work, a refused token,
            or a file that differs from the hub's.
    """
    require_safe(constants.ENDPOINT)
    require_sound(HUB)
    unreached: Exception | None = None
    try:
        try:
            files: dict[str, RepoSibling] | None = _on_hub(repo, revision)
        except (OfflineModeIsEnabled, TransportError) as error:
            if isinstance(error, HfHubHTTPError):
                raise
            log.warning("the hub cannot be reached (%s): using the cache", _reason(error))
            unreached = error
            files, folder = None, _local(repo, revision)
        if files is not None:
            if not any(name.endswith(".safetensors") for name in files):
                raise CrossflowError(f"{repo} has no safetensors at revision {revision}; other weights are not read.")
            absent = [file for name, file in files.items() if cached_file(repo, revision, name) is None]
            needed = sum(file.size or 0 for file in absent)
            require_space(
                Path(constants.HF_HUB_CACHE), needed, repo, " Free some space, or set HF_HOME to another disk."
            )
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=sorted(files)))
    except HfHubHTTPError as error:
        raise CrossflowError(_refused(error, repo, revision)) from error
    except LocalEntryNotFoundError as error:
        offline = isinstance(unreached, OfflineModeIsEnabled)
        what_to_do = "unset HF_HUB_OFFLINE" if offline else advice(constants.ENDPOINT, unreached or error, HUB)
        raise CrossflowError(
            f"{repo} at {revision} is not in {constants.HF_HUB_CACHE}, and the hub cannot be reached "
            f"({_reason(unreached or error)}): {what_to_do} and run once with network access."
        ) from error
    except (TransportError, OSError) as error:
        raise CrossflowError(f"{repo} could not be fetched ({_reason(error)}); {_KEPT}.") from error
    names = sorted(files) if files is not None else _complete(folder)
    return Manifest(repo, revision, {name: _check(folder, name, (files or {}).get(name)) for name in names})

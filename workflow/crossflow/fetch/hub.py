"""Fetching models from the Hugging Face hub, at a pinned revision, into the hub's own cache.

`fetch` runs once, with a network. Everything else reads the cache and the manifest only (`crossflow.models.folder`), so
jobs need no network and hash no weights.
"""

from pathlib import Path

from crossflow.core.errors import CrossflowError
from crossflow.core.files import write_json
from crossflow.fetch.hub_repo import HubRepo, check, fetch_files, find_files
from crossflow.models.folder import Manifest, is_model_file, lacking


def cached_folder(repo: str, revision: str) -> Path | None:
    """The folder of a model that is complete in the hub's cache, or None; needs no network."""
    folder = HubRepo(repo, revision).folder
    return folder if folder.is_dir() and not lacking(folder) else None


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
        CrossflowError: as `crossflow.fetch.hub_repo.fetch_files`; or the model is incomplete, has no safetensors, or a
            file differs from the hub's.
    """
    source = HubRepo(repo, revision)
    files = find_files(source, is_model_file)
    is_reached = any(files.values()) or not files
    if is_reached and not any(name.endswith(".safetensors") for name in files):
        raise CrossflowError(f"{repo} has no safetensors at revision {revision}; other weights are not read.")
    folder = fetch_files(source, files)
    if not is_reached and (absent := lacking(folder)):
        raise CrossflowError(f"{folder} lacks {', '.join(absent)}, and the hub cannot be reached.")
    return Manifest(repo, revision, {name: check(folder / name, file) for name, file in files.items()})

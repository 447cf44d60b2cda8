"""A repository of the Hugging Face hub at a pinned revision, fetched by the hub's own client into its own cache.

The cache is the usual one (``HF_HOME``, ``HF_HUB_CACHE``): files that it already holds are not downloaded again, and
without a network they are enough.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils.sha import git_hash

from crossflow.core.errors import CrossflowError
from crossflow.core.files import hash_file
from crossflow.fetch.download import require_space
from crossflow.fetch.environment import HUB, advice, require_sound, token_place
from crossflow.fetch.sources import require_safe
from crossflow.models.folder import ModelFile, cached_file

try:  # the hub's client left httpx for httpx2 with its version 2
    from httpx2 import HTTPError as TransportError
except ModuleNotFoundError:
    from httpx import HTTPError as TransportError  # type: ignore[no-redef, import-not-found, unused-ignore]

__all__ = [
    "Files",
    "HubRepo",
    "TransportError",
    "check",
    "fetch_files",
    "fetch_whole",
    "find_files",
    "refused_token",
]
Files = Mapping[str, RepoSibling | None]
"""Name -> the hub's description, or None if the hub was not reached."""
log = logging.getLogger(__name__)
_KEPT = "finished files are kept: run again"
for client in ("httpx", "httpx2"):  # one log line per request would be too many
    logging.getLogger(client).setLevel(logging.WARNING)


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def refused_token() -> str:
    """What is said of a token that the hub refuses."""
    return (
        f"The hub refuses the token in {token_place()}, which has expired or is mistyped: take a new one from "
        "https://huggingface.co/settings/tokens, or remove it, as public repositories need none"
    )


@dataclass(frozen=True)
class HubRepo:
    """A repository at a revision.

    Attributes:
        repo: Its name, owner/name.
        revision: Commit, 40 hex digits.
        kind: Of models, or of data sets.
    """

    repo: str
    revision: str
    kind: Literal["model", "dataset"] = "model"

    def listed(self, wanted: Callable[[str], bool]) -> dict[str, RepoSibling]:
        """The wanted files as the hub describes them. Raises the errors of the hub's client."""
        api = HfApi()
        api.auth_check(self.repo, repo_type=self.kind)
        info: Any = api.repo_info(self.repo, revision=self.revision, repo_type=self.kind, files_metadata=True)
        return {file.rfilename: file for file in info.siblings or [] if wanted(file.rfilename)}

    def cached(self, name: str) -> Path | None:
        """A file in the cache, or None."""
        return cached_file(self.repo, self.revision, name, self.kind)

    @property
    def folder(self) -> Path:
        """The folder of its files in the cache; it need not exist."""
        name = repo_folder_name(repo_id=self.repo, repo_type=self.kind)
        return Path(constants.HF_HUB_CACHE) / name / "snapshots" / self.revision

    def download(self, files: Mapping[str, RepoSibling]) -> Path:
        """Download listed files into the cache, and return their folder. Raises the errors of the hub's client.

        Raises:
            CrossflowError: the disk is too small; nothing was fetched.
        """
        needed = sum(file.size or 0 for name, file in files.items() if self.cached(name) is None)
        require_space(
            Path(constants.HF_HUB_CACHE), needed, self.repo, " Free some space, or set HF_HOME to another disk."
        )
        chosen = sorted(files)
        return Path(snapshot_download(self.repo, revision=self.revision, repo_type=self.kind, allow_patterns=chosen))

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Turn errors of the hub's client into one sentence.

        Raises:
            CrossflowError: such an error was raised inside the block.
        """
        try:
            yield
        except HfHubHTTPError as error:
            raise CrossflowError(self._refused(error)) from error
        except OfflineModeIsEnabled as error:
            raise CrossflowError(
                f"{self.repo} is needed from the hub, but HF_HUB_OFFLINE is set: unset it and run once with network "
                "access."
            ) from error
        except (TransportError, OSError) as error:
            raise CrossflowError(f"{self.repo} could not be fetched ({_reason(error)}); {_KEPT}.") from error

    def _refused(self, error: HfHubHTTPError) -> str:
        """What the hub's refusal means, and what to do, in one sentence."""
        page = f"https://huggingface.co/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"
        if error.response.status_code == HTTPStatus.UNAUTHORIZED and get_token():
            return f"{refused_token()}."
        if isinstance(error, GatedRepoError):
            return (
                f"{self.repo} asks you to accept its licence: do so at {page}, then log in by `hf auth login` or set "
                "HF_TOKEN."
            )
        if isinstance(error, RevisionNotFoundError):
            return f"{self.repo} has no revision {self.revision}; its revisions are listed at {page}/commits."
        if isinstance(error, RepositoryNotFoundError):
            return f"{self.repo} is not on the hub, or is private and asks for a login (HF_TOKEN)."
        return f"{self.repo} could not be fetched ({_reason(error)}); {_KEPT}."


def _is_as_on_hub(path: Path, found: ModelFile, file: RepoSibling) -> bool:
    """Compare sizes and hashes; the hub knows the SHA-256 of large files, and git's hash of small ones."""
    if file.lfs is not None:
        same = found.sha256 == file.lfs.sha256
    else:
        same = file.blob_id is None or git_hash(path.read_bytes()) == file.blob_id
    return found.bytes == file.size and same


def check(path: Path, file: RepoSibling | None) -> ModelFile:
    """Compare a file with the hub's, if the hub was reached.

    Raises:
        CrossflowError: they differ.
    """
    found = ModelFile(path.stat().st_size, hash_file(path))
    if file is not None and not _is_as_on_hub(path, found, file):
        raise CrossflowError(f"{path} differs from the hub's file: delete {path.resolve()} and run again.")
    return found


def find_files(repo: HubRepo, wanted: Callable[[str], bool]) -> Files:
    """The wanted files as the hub describes them; without a network, the names of those in the cache.

    Raises:
        CrossflowError: see `fetch_files`.
    """
    require_safe(constants.ENDPOINT)
    require_sound(HUB)
    with repo.blamed():
        try:
            return repo.listed(wanted)
        except (OfflineModeIsEnabled, TransportError) as error:
            if isinstance(error, HfHubHTTPError):
                raise
            log.warning("the hub cannot be reached (%s): using the cache", _reason(error))
            return dict.fromkeys(_in_cache(repo, wanted, error))


def _in_cache(repo: HubRepo, wanted: Callable[[str], bool], unreached: Exception) -> list[str]:
    names = (path.relative_to(repo.folder).as_posix() for path in repo.folder.rglob("*") if path.is_file())
    found = sorted(filter(wanted, names))
    if not found:
        offline = isinstance(unreached, OfflineModeIsEnabled)
        what_to_do = "unset HF_HUB_OFFLINE" if offline else advice(constants.ENDPOINT, unreached, HUB)
        raise CrossflowError(
            f"{repo.repo} at {repo.revision} is not in {constants.HF_HUB_CACHE}, and the hub cannot be reached "
            f"({_reason(unreached)}): {what_to_do} and run once with network access."
        ) from unreached
    return found


def fetch_files(repo: HubRepo, files: Files) -> Path:
    """Download found files into the hub's cache, and return their folder. They are not yet checked.

    Raises:
        CrossflowError: one sentence: no such repository or revision, a licence to accept first, too little disk space
            (checked before downloading), no network, a variable of the environment that cannot work, or a refused
            token.
    """
    with repo.blamed():
        described = {name: file for name, file in files.items() if file is not None}
        return repo.download(described) if described else repo.folder


def fetch_whole(repo: HubRepo, files: Files) -> Path:
    """Download found files into the hub's cache, check them, and return their folder.

    Raises:
        CrossflowError: as `fetch_files`, or a file differs from the hub's.
    """
    folder = fetch_files(repo, files)
    for name, file in files.items():
        check(folder / name, file)
    return folder

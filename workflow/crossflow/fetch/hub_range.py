"""Reading parts of a file on the Hugging Face hub, without downloading it."""

from http import HTTPStatus

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported at run time only
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
)

from crossflow.core.errors import CrossflowError
from crossflow.fetch.download import NoRangesError
from crossflow.fetch.hub_repo import HubRepo, TransportError

_TRIES = 5


class RangeFile:
    """A binary file for reading, each read of which is one request of exactly these bytes.

    Args:
        repo: The repository.
        name: The file's name in it.
        size: The file's size.
    """

    def __init__(self, repo: HubRepo, name: str, size: int) -> None:
        self._repo, self._name, self._size = repo, name, size
        self._at = 0
        self.closed = False

    def close(self) -> None:
        """Nothing is held open between reads."""
        self.closed = True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, from the beginning (0), the present one (1) or the end (2)."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next bytes.

        Raises:
            NoRangesError: the server sends only whole files.
            CrossflowError: the bytes cannot be fetched.
        """
        left = max(0, self._size - self._at)
        size = left if size < 0 else min(size, left)
        if not size:
            return b""
        with self._repo.blamed():
            content = self._fetch(self._at, size)
        self._at += size
        return content

    def _fetch(self, start: int, size: int) -> bytes:
        repo = self._repo
        url = hf_hub_url(
            repo.repo, self._name, repo_type=repo.kind, revision=repo.revision, endpoint=constants.ENDPOINT
        )
        headers = build_hf_headers() | {"Range": f"bytes={start}-{start + size - 1}", "Accept-Encoding": "identity"}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        for _ in range(_TRIES):
            with http_stream_backoff("GET", url, headers=headers, timeout=timeout) as response:
                hf_raise_for_status(response)
                if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                    raise NoRangesError
                try:
                    content = response.read()
                except TransportError:
                    continue
                if len(content) == size:
                    return content
        raise CrossflowError(f"{url}: the connection broke {_TRIES} times; finished files are kept: run again later.")

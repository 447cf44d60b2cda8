"""A stand-in for the Hugging Face hub on this machine, which answers as the hub does to the client's own code."""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPO = "somebody/a-model-hf"
REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One repository with one revision.

    Attributes:
        repo, revision: Their names.
        folder: Its files. Those that end in ``.safetensors`` or ``.parquet`` are kept as the hub keeps large files.
        gated: Does it ask for a licence to be accepted?
        refused: A token that it does not accept, such as an expired one.
        break_off: Names of files whose next answer ends half-way.
        sizes: Sizes that are claimed instead of the true ones.
        ranges: Does it send parts of files?
        asked: Names of the files that were sent, and from which byte on.
        sent: Bytes of all files that were sent, by name.
        pause: Seconds before a file is sent.
    """

    folder: Path
    repo: str = REPO
    revision: str = REVISION
    gated: bool = False
    refused: str = ""
    break_off: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    url: str = ""
    ranges: bool = True
    asked: list[tuple[str, int]] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    pause: float = 0.0


@cache
def _digests(path: Path, modified: int) -> tuple[str, str]:
    """Git's hash of a file, and its SHA-256."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), hashlib.sha256(content).hexdigest()


def _describe(hub: Hub, path: Path) -> dict[str, object]:
    name, found = path.relative_to(hub.folder).as_posix(), path.stat()
    size = hub.sizes.get(name, found.st_size)
    oid, sha256 = _digests(path, found.st_mtime_ns)
    entry: dict[str, object] = {
        "type": "file",
        "path": name,
        "rfilename": name,
        "size": size,
        "oid": oid,
    }
    entry["blobId"] = entry["oid"]
    if path.suffix in (".safetensors", ".parquet"):
        entry["lfs"] = {"oid": sha256, "sha256": sha256, "size": size, "pointerSize": 134}
    return entry


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *message: object) -> None:
            pass

        def _send(self, status: int, body: bytes, headers: dict[str, str], whole: bool = True) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body if whole else body[: len(body) // 2])
                self.close_connection = not whole

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path.strip("/")
            if hub.refused and self.headers.get("Authorization") == f"Bearer {hub.refused}":
                self._send(401, b"{}", {"X-Error-Message": 'User Access Token "t" is expired'})
            elif hub.repo not in path:
                self._refuse(404, "RepoNotFound")
            elif path.endswith("/auth-check"):
                self._refuse(403, "GatedRepo") if hub.gated else self._send(200, b"{}", {})
            elif hub.revision not in path:
                self._refuse(404, "RevisionNotFound")
            elif path.startswith("api/"):
                files = [_describe(hub, file) for file in sorted(hub.folder.rglob("*")) if file.is_file()]
                info = {"id": hub.repo, "sha": hub.revision, "siblings": files, "private": False, "tags": []}
                self._send(200, json.dumps(files if "/tree/" in path else info).encode(), {})
            else:
                self._file(unquote(path.partition(f"/{hub.revision}/")[2]))

        def _file(self, name: str) -> None:
            if not (hub.folder / name).is_file():
                self._refuse(404, "EntryNotFound")
                return
            content = (hub.folder / name).read_bytes()
            entry = _describe(hub, hub.folder / name)
            lfs = entry.get("lfs")
            etag = lfs["sha256"] if isinstance(lfs, dict) else entry["oid"]
            asked = self.headers.get("Range") if hub.ranges else None
            first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else len(content), len(content))
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": hub.revision, "Accept-Ranges": "bytes"}
            if asked:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            if self.command == "GET":
                hub.asked.append((name, start))
                hub.sent[name] += stop - start
                time.sleep(hub.pause)
            whole = self.command == "HEAD" or name not in hub.break_off
            if not whole:
                hub.break_off.discard(name)
            self._send(206 if asked else 200, content[start:stop], headers, whole)

    return Handler


@contextmanager
def hub_of(folder: Path, repo: str = REPO, revision: str = REVISION) -> Iterator[Hub]:
    """Serve a folder as a repository at a revision."""
    hub = Hub(folder, repo, revision)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

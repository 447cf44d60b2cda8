"""A server on this machine that stands in for GQA's site: ranges, and whatever can go wrong."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Site:
    """What a server sends, and what it was asked.

    Attributes:
        root: Its files.
        ranges: Does it send parts of files?
        break_off: Numbers of the answers (from 0) that end half-way.
        corrupt: First bytes of the ranges that come damaged once.
        refuse: How many requests are answered by 503 first.
        pause: Seconds that each answer takes.
        asked: Path, first and last byte of every answered request; None for the whole file.
        sent: Bytes of all bodies.
    """

    root: Path
    ranges: bool = True
    break_off: set[int] = field(default_factory=set)
    corrupt: set[int] = field(default_factory=set)
    refuse: int = 0
    pause: float = 0.0
    url: str = ""
    asked: list[tuple[str, tuple[int, int] | None]] = field(default_factory=list)
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *message: object) -> None:
            pass

        def _range(self, size: int) -> tuple[int, int] | None:
            asked = self.headers.get("Range")
            if asked is None or not site.ranges:
                return None
            first, _, last = asked.removeprefix("bytes=").partition("-")
            if "-" in last:  # from before the beginning
                return -1, -1
            if not first:
                return size - int(last), size - 1
            return int(first), min(int(last), size - 1) if last else size - 1

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = site.root / self.path.lstrip("/")
            with site.lock:
                refused, site.refuse = site.refuse > 0, max(0, site.refuse - 1)
            if refused or not path.is_file():
                self.send_response(503 if refused else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = path.stat().st_size
            part = self._range(size)
            if part and not 0 <= part[0] <= part[1]:
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            first, last = part or (0, size - 1)
            with site.lock:
                number = len(site.asked)
                if body:
                    site.asked.append((self.path, part))
                damaged = first in site.corrupt and part is not None
                site.corrupt.discard(first)
            self.send_response(200 if part is None else 206)
            if part:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Content-Length", str(last - first + 1))
            self.end_headers()
            if not body:
                return
            time.sleep(site.pause)
            left = last - first + 1
            if number in site.break_off:
                left //= 2
            with path.open("rb") as file:
                file.seek(first)
                while left:
                    piece = bytearray(file.read(min(left, 1 << 16)))
                    left -= len(piece)
                    if damaged and not left:
                        piece[len(piece) // 2] ^= 0xFF
                    self.wfile.write(piece)
                    with site.lock:
                        site.sent += len(piece)
            if number in site.break_off:
                self.close_connection = True
                self.wfile.flush()

    return Handler


@contextmanager
def serving(root: Path) -> Iterator[Site]:
    """Serve a folder on the loopback address."""
    site = Site(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()

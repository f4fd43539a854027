"""What a real pip may see in a test: a folder of wheels, and nothing of the machine's settings."""

from __future__ import annotations

import functools
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

TURN = 0.05  # seconds between two pieces of a file


def take_for_only_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every pip that the test starts install from `folder` alone.

    A machine's pip.conf may add indexes, and constraints that refuse a version that a test makes.
    """
    _forget_settings(monkeypatch)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


@contextmanager
def serve_slowly(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    bytes_a_second: int,
    cuts: Sequence[int | None] = (),
) -> Iterator[list[str]]:
    """The same through a package index on this machine; gives the names of the files it sends.

    Of a file that is asked for from a byte on, that byte stands behind its name.

    Args:
        cuts: after how many bytes the connection breaks, for one file after the other; None and
            every later file = never.
    """
    sent: list[str] = []
    handler = functools.partial(_Index, folder, bytes_a_second, sent, list(cuts))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _forget_settings(monkeypatch)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield sent
    finally:
        server.shutdown()
        server.server_close()


def _forget_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # no configuration file is read


class _Index(BaseHTTPRequestHandler):
    """`/simple/PACKAGE/` lists the wheels of a package, `/FILE` is one of them."""

    def __init__(
        self, folder: Path, bytes_a_second: int, sent: list[str], cuts: list[int | None], *args
    ) -> None:
        self.folder, self.piece, self.sent = folder, int(bytes_a_second * TURN), sent
        self.cuts = cuts
        super().__init__(*args)

    def do_GET(self) -> None:
        *_, before, name = self.path.rstrip("/").split("/")
        if before == "simple":
            prefix = name.replace("-", "_") + "-"
            wheels = sorted(path.name for path in self.folder.glob(f"{prefix}*.whl"))
            links = "".join(f'<a href="/{wheel}">{wheel}</a>' for wheel in wheels)
            self._begin("text/html", len(links))
            self.wfile.write(links.encode())
        else:
            self._send(self.folder / name)

    def _send(self, path: Path) -> None:
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.sent.append(f"{path.name} {start}" if start else path.name)
        whole, cut = path.stat().st_size, self.cuts.pop(0) if self.cuts else None
        part = f"bytes {start}-{whole - 1}/{whole}" if asked else None
        self._begin("application/octet-stream", whole - start, part)
        left = whole - start if cut is None else cut
        with path.open("rb") as file, suppress(OSError):  # whoever asked may have gone
            file.seek(start)
            while piece := file.read(min(self.piece, left)):
                self.wfile.write(piece)
                left -= len(piece)
                time.sleep(TURN)

    def _begin(self, kind: str, length: int, part: str | None = None) -> None:
        self.send_response(206 if part else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"as it is"')
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()

    def log_message(self, *_) -> None:
        """Nothing is logged."""

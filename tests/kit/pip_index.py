"""What a real pip may see in a test: a folder of wheels, and nothing of the machine's settings."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator
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
    folder: Path, monkeypatch: pytest.MonkeyPatch, bytes_a_second: int
) -> Iterator[list[str]]:
    """The same through a package index on this machine; gives the names of the files it sends."""
    sent: list[str] = []
    handler = functools.partial(_Index, folder, bytes_a_second, sent)
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

    def __init__(self, folder: Path, bytes_a_second: int, sent: list[str], *args) -> None:
        self.folder, self.piece, self.sent = folder, int(bytes_a_second * TURN), sent
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
        self.sent.append(path.name)
        self._begin("application/octet-stream", path.stat().st_size)
        with path.open("rb") as file, suppress(OSError):  # whoever asked may have gone
            while piece := file.read(self.piece):
                self.wfile.write(piece)
                time.sleep(TURN)

    def _begin(self, kind: str, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_) -> None:
        """Nothing is logged."""

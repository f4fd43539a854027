"""A local endpoint that speaks as much of the hub's protocol as an upload takes.

The calls are those of huggingface_hub: a repository is created, the server says how each file is to
come (here as a large one, by Git LFS's batch interface), takes its bytes, and the commit that names
them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Hub(ThreadingHTTPServer):
    """Repositories of the one who has the token."""

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.token = token
        self.repositories: dict[str, bool] = {}  # whether each is private
        self.objects: dict[str, bytes] = {}  # by the SHA-256 that the client tells
        self.files: dict[str, str] = {}  # path in the repository to that

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer({"error": "Invalid username or password."}, 401)
        lines = [json.loads(line) for line in body.splitlines()]
        if self.path == "/api/repos/create":
            name = f"{lines[0].get('organization') or 'me'}/{lines[0]['name']}"
            private = lines[0].get("private") or lines[0].get("visibility") == "private"
            self.server.repositories[name] = bool(private)
            return self.answer({"url": f"{self.server.address}/{name}", "name": name, "id": name})
        if "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "lfs", "shouldIgnore": False}
                     for f in lines[0]["files"]]  # fmt: skip
            return self.answer({"files": files})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            return self.answer(self.batch(lines[0]))
        assert "/commit/" in self.path, self.path
        for line in lines:
            if line["key"] == "lfsFile":
                self.server.files[line["value"]["path"]] = line["value"]["oid"]
        name, oid = self.path.split("/api/models/")[1].split("/commit/")[0], "0" * 40
        commit = f"{self.server.address}/{name}/commit/{oid}"
        return self.answer({"commitUrl": commit, "commitOid": oid})

    def batch(self, asked: dict) -> dict:
        def upload(one: dict) -> dict:
            return {"upload": {"href": f"{self.server.address}/object/{one['oid']}"}}

        objects = [{**one, "actions": upload(one)} for one in asked["objects"]]
        return {"transfer": "basic", "objects": objects}

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[self.path.rpartition("/")[2]] = body
        self.answer({})

    def answer(self, data: dict, status: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.git-lfs+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        """Nothing: the tests look at what was taken."""


@contextmanager
def hub(token: str) -> Iterator[Hub]:
    server = Hub(token)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

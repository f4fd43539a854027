"""A real ComfyUI server with this checkout as its only custom node, and a client of it."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import websocket
from PIL import Image

START_SECONDS = 240  # a loaded machine; 30 on an idle one
RUN_SECONDS = 240
SETTINGS = {
    "PYTHONUNBUFFERED": "1",
    # glibc gives freed memory back at once: what stays is really held
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
TEXT = 3  # the kind of a binary message
ENDINGS = ("execution_success", "execution_error", "execution_interrupted")


OUR_ERRORS = (  # as the canvas is told of them
    *("LiDiTError", "MissingLLM", "MissingVAEError"),
    *("NoSuchPart", "NoSuchTokens", "NotStorable"),
)


class Refused(Exception):
    """The server's answer 400: what it says is wrong with the prompt."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class HostServer:
    """Starts on entering, ends on leaving. All its output is in `log`."""

    def __init__(self, host: Path, base: Path, pack_name: str, *words: str) -> None:
        self.base = base
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_file = base / "server.log"
        self.words = [sys.executable, str(host / "main.py"), "--listen", "127.0.0.1"]
        self.words += ["--port", str(self.port), "--base-directory", str(base)]
        self.words += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", pack_name]
        self.words += ["--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
        self.words += words if torch.cuda.is_available() else ["--cpu", *words]

    def __enter__(self) -> "HostServer":
        environment = {**os.environ, **SETTINGS}
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                self.words, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait_until_up(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the host ended while it started:\n{self.log[-4000:]}")
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.5)
        raise RuntimeError(f"no host after {START_SECONDS} s:\n{self.log[-4000:]}")

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def get(self, path: str) -> Any:
        return json.loads(self.fetch(path))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer as JSON; None where it is empty.

        Raises:
            Refused: the server answered 400.
        """
        try:
            answer = self.fetch(path, json.dumps(body).encode())
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise Refused(error.read().decode()) from error
        return json.loads(answer) if answer else None

    def fetch(self, path: str, body: bytes | None = None) -> bytes:
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, body, kind)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def picture(self, image: dict[str, str]) -> Image.Image:
        """An output image, as it would be shown."""
        return Image.open(io.BytesIO(self.fetch(f"/view?{urllib.parse.urlencode(image)}")))

    def upload(self, name: str, picture: Image.Image, base: Path) -> None:
        """Put a picture where LoadImage finds it."""
        picture.save(base / "input" / name)

    def wait_for_new(self, known: set[str]) -> list[dict[str, Any]]:
        """The history's entries that were not known, once there is one."""
        end = time.monotonic() + RUN_SECONDS
        while time.monotonic() < end:
            history = self.get("/history")
            if fresh := [entry for i, entry in history.items() if i not in known]:
                return fresh
            time.sleep(0.3)
        raise RuntimeError(f"nothing ended within {RUN_SECONDS} s:\n{self.log[-2000:]}")

    def outputs(self, prompt_id: str) -> dict[str, dict[str, Any]]:
        """What the history keeps of each node of a prompt that ended; it comes a moment later."""
        end = time.monotonic() + RUN_SECONDS
        while time.monotonic() < end:
            if entry := self.get(f"/history/{prompt_id}"):
                return entry[prompt_id]["outputs"]
            time.sleep(0.1)
        raise RuntimeError(f"the history does not know {prompt_id} after {RUN_SECONDS} s")

    def draw(self, api: dict[str, Any]) -> "Run":
        """Queue a prompt with a client of its own and wait for its end."""
        with Client(self) as client:
            return client.wait(client.queue(api))


@dataclass
class Run:
    """What one prompt's client heard, until its end."""

    prompt_id: str
    ending: str = ""
    events: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)
    pictures: dict[str, list[Image.Image]] = field(default_factory=dict)  # by node id
    texts: dict[str, list[str]] = field(default_factory=dict)  # put on nodes, by node id
    previews: int = 0

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [data for _, k, data in self.events if k == kind]

    @property
    def error(self) -> str:
        """What the failed node says."""
        (data,) = self.of_type("execution_error")
        return data["exception_message"].strip()

    @property
    def cached(self) -> set[str]:
        """The nodes that did not run again."""
        return {node for data in self.of_type("execution_cached") for node in data["nodes"]}


class Client:
    """One user: its own websocket, so that it hears of its own prompts alone."""

    def __init__(self, server: HostServer) -> None:
        self.server, self.id = server, uuid.uuid4().hex
        self.runs: dict[str, Run] = {}

    def __enter__(self) -> "Client":
        url = f"ws://127.0.0.1:{self.server.port}/ws?clientId={self.id}"
        self.socket = websocket.create_connection(url, timeout=RUN_SECONDS)
        flags = {"supports_preview_metadata": True}
        self.socket.send(json.dumps({"type": "feature_flags", "data": flags}))
        return self

    def __exit__(self, *_: Any) -> None:
        self.socket.close()

    def queue(self, api: dict[str, Any]) -> str:
        """Its prompt id."""
        answer = self.server.post("/prompt", {"prompt": api, "client_id": self.id})
        return answer["prompt_id"]

    def listen(self, prompt_id: str) -> tuple[str, dict[str, Any]]:
        """The next event of this prompt; those of the client's other prompts are kept."""
        while True:
            message = self.socket.recv()
            if isinstance(message, bytes):
                self._hear(message, prompt_id)
                continue
            event = json.loads(message)
            kind, data = event["type"], event["data"]
            if "prompt_id" not in data:
                continue
            run = self.runs.setdefault(data["prompt_id"], Run(data["prompt_id"]))
            run.events.append((time.monotonic(), kind, data))
            run.ending = kind if kind in ENDINGS else run.ending
            if run.prompt_id == prompt_id:
                return kind, data

    def _hear(self, message: bytes, prompt_id: str) -> None:
        """A text for a node, or a preview, which is counted."""
        kind, length = struct.unpack(">II", message[:8])
        if kind == TEXT:
            node, text = message[8 : 8 + length].decode(), message[8 + length :].decode()
            run = self.runs.setdefault(prompt_id, Run(prompt_id))
            run.texts.setdefault(node, []).append(text)
        else:
            self.runs.setdefault(prompt_id, Run(prompt_id)).previews += 1

    def wait(self, prompt_id: str) -> Run:
        """Everything about the prompt, once it ended."""
        while not (run := self.runs.setdefault(prompt_id, Run(prompt_id))).ending:
            self.listen(prompt_id)
        for data in run.of_type("executed"):
            images = (data["output"] or {}).get("images", [])
            run.pictures[data["node"]] = [self.server.picture(image) for image in images]
        return run

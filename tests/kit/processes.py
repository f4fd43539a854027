"""Processes of a training that tests start, alone or joined."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 1800 if os.environ.get("LIDIT_LONG") else 400  # seconds; proofs run beside other work
WATCHED = """
import json, sys, threading, time
def held(kind):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(kind))
most = {"RssAnon": 0, "VmRSS": 0}
def watch():
    while True:
        most.update({kind: max(of, held(kind)) for kind, of in most.items()})
        time.sleep(0.01)
IMPORTS
before = held("RssAnon")
threading.Thread(target=watch, daemon=True).start()
told = {}
BODY
print(json.dumps({"before": before, **most, **told}))
"""


def watched(body: str, *words: str, imports: str, cache: Path | None = None) -> dict:
    """Run a body in a process of its own; gives its memory before, the most of it, and `told`.

    Args:
        imports: what is there before the memory is looked at.
        cache: LIDIT_CACHE; None = the user's own.
    """
    text = WATCHED.replace("IMPORTS", imports).replace("BODY", body)
    more = {"LIDIT_CACHE": str(cache)} if cache else {}
    done = subprocess.run(
        [sys.executable, "-c", text, *words],
        capture_output=True,
        text=True,
        env=environment(**{**more, "OMP_NUM_THREADS": "2"}),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    memory = {name: found[name] for name in ("before", "RssAnon", "VmRSS")}
    print({name: f"{size / 1e9:.2f} GB" for name, size in memory.items()})
    return found


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}


def together(*commands: list[str]) -> list[str]:
    """Run one command a process, joined by gloo; what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            words,
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), ACCELERATE_USE_CPU="1", **shared),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, words in enumerate(commands)
    ]
    try:
        told = [process.communicate(timeout=LONGEST) for process in processes]
    finally:
        for process in processes:  # one that another has left alone would wait for half an hour
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(commands), told
    return [out for out, _ in told]

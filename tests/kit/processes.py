"""Processes of a training that tests start, alone or joined."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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
    told = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(commands), told
    return [out for out, _ in told]

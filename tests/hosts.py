"""Runs the nodes' tests by the Python of every ComfyUI there is: ``python tests/hosts.py``.

Words for pytest may follow. All ComfyUIs run at once; the first one's tests are seen as they run,
those of the others when they have ended. Without words the others leave out what takes half of the
time and seldom fails in one alone: what a browser draws, the table of every node, pictures by
bridges and the whole first run. `python3 run.py prove hosts` runs all tests in every one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]

# Where a ComfyUI may be: its folder and its Python by name, or a folder in the home folder.
HOSTS = (
    ("COMFYUI_PATH", "COMFYUI_PYTHON", "ComfyUI"),
    ("COMFYUI_PATH_2", "COMFYUI_PYTHON_2", "ComfyUI-0.3.64"),
)
HOST_PYTHONS = (  # relative to the host's folder; the last is the portable build's
    ".venv/bin/python",
    "venv/bin/python",
    ".venv/Scripts/python.exe",
    "venv/Scripts/python.exe",
    "../python_embeded/python.exe",
)
SKIPPED_HOSTS = "skipped, no ComfyUI is here; set COMFYUI_PATH and COMFYUI_PYTHON to run them"
NEEDED = "pytest websocket-client playwright"  # in the host's Python
LEFT_OUT = ("browser", "every_node_ends", "drawn_bridge", "shows_progress")
IN_PART = ["-k", " and ".join(f"not {name}" for name in LEFT_OUT)]  # of ComfyUIs but the first
NO_TESTS_CHOSEN = 5  # pytest's exit status when, say, -k leaves none


class HostError(Exception):
    """One sentence: which host is not there and what to set."""


def say(text: str) -> None:
    print(f"[hosts.py] {text}", flush=True)


def find_hosts() -> list[tuple[Path, Path]]:
    """The folder and the Python of every ComfyUI that is named or lies in the home folder.

    Raises:
        HostError: one is named and not there.
    """
    found = []
    for path_name, python_name, usual in HOSTS:
        folder = Path(os.environ.get(path_name) or Path.home() / usual).expanduser()
        named = os.environ.get(python_name)
        choices = [Path(named).expanduser()] if named else [folder / each for each in HOST_PYTHONS]
        python = next((choice for choice in choices if choice.is_file()), None)
        if python and (folder / "main.py").is_file():
            found.append((folder, python))
        elif {path_name, python_name} & set(os.environ):
            raise HostError(
                f"no ComfyUI with its Python is found in {folder}; set {path_name} to the folder "
                f"of its main.py and {python_name} to the Python that it is started with"
            )
    return found


def host_version(folder: Path) -> str:
    file = folder / "comfyui_version.py"
    return file.read_text().split('"')[1] if file.is_file() else "of unknown version"


def can_test(python: Path) -> bool:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    modules = "import pytest, websocket, playwright"
    return subprocess.call([str(python), "-c", modules], **quiet) == 0


def start(folder: Path, python: Path, words: list[str], out: IO | None) -> subprocess.Popen:
    """The tests in one host; what they print goes to `out`, or is seen as it comes."""
    ours = {"COMFYUI_PATH": str(folder), "LIDIT_TRAINING_PYTHON": sys.executable}
    command = [str(python), "-m", "pytest", "tests/host", *words]
    environment = {**os.environ, **ours}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=out, stderr=out and subprocess.STDOUT
    )


def show(out: IO | None) -> None:
    if out is not None:
        out.seek(0)
        print(out.read(), end="", flush=True)


def run_host_tests(words: list[str]) -> int:
    """Run the nodes' tests by the Python of every ComfyUI there is; says where it did."""
    told, failures, running = [], 0, []
    for folder, python in find_hosts():
        name = f"ComfyUI {host_version(folder)} in {folder}"
        if can_test(python):
            say(f"the nodes' tests in {name}")
            out = tempfile.TemporaryFile("w+", errors="replace") if running else None
            own = words or (IN_PART if running else [])
            name += " in part" if own is IN_PART else ""
            running.append((name, start(folder, python, own, out), out))
        else:
            failures += "COMFYUI_PATH" in os.environ  # who names a host wants its tests
            told.append(f'skipped in {name}, for want of: "{python}" -m pip install {NEEDED}')
    for name, tests, out in running:
        failed = tests.wait() not in (0, NO_TESTS_CHOSEN)
        show(out)
        told.append(f"{'FAILED' if failed else 'passed'} in {name}")
        failures += failed
    say("the nodes' tests: " + ("; ".join(told) or SKIPPED_HOSTS))
    return 1 if failures else 0


def main(words: list[str]) -> int:
    try:
        return run_host_tests(words)
    except HostError as error:
        say(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

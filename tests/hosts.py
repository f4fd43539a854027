"""Runs the nodes' tests by the Python of every ComfyUI there is: ``python tests/hosts.py``.

Words for pytest may follow. Three processes work at once; the first one's tests are seen as they
run, those of the others when they have ended. Without words the first ComfyUI's tests are shared by
two of them, and the other ComfyUIs leave out what takes half of the time and seldom fails in one
alone: what a browser draws, the table of every node, pictures by bridges, bridges that add, queues
of many prompts, the benchmark of guidance and the whole first run. `python3 run.py prove hosts`
runs all tests in every one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

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
LEFT_OUT = (
    *("browser", "every_node_ends", "shows_progress", "many_prompts"),
    *("drawn_bridge", "adding_bridge", "guidance_benchmark"),
)
IN_PART = ["-k", " and ".join(f"not {name}" for name in LEFT_OUT)]  # of ComfyUIs but the first
HALF = ("tests/host/bridge", "tests/host/every_node", "tests/host/lidit")  # of the tests' time
AT_ONCE = 3  # processes; each holds up to 3 GB, and a server, and waits for a browser at times
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


def threads(processes: int) -> dict[str, str]:
    """The environment of one of several processes, which share the cores.

    Two of two threads on two cores, which wait for each other, take half as long again.
    """
    return {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // processes, 1))}


def of_host(folder: Path) -> dict[str, str]:
    """The environment of tests in a ComfyUI, some of which train by this Python's libraries."""
    return {"COMFYUI_PATH": str(folder), "LIDIT_TRAINING_PYTHON": sys.executable}


@dataclass(frozen=True)
class Share:
    """Tests that one process runs in a ComfyUI: words for pytest."""

    name: str
    folder: Path
    python: Path
    words: tuple[str, ...]

    def run(self, seen: bool) -> tuple[bool, str]:
        """Whether they pass, and what they print unless it is seen as it comes."""
        say(f"the nodes' tests in {self.name}")
        ended = subprocess.run(
            [str(self.python), "-m", "pytest", *self.words],
            cwd=ROOT,
            env={**threads(AT_ONCE), **os.environ, **of_host(self.folder)},
            stdout=None if seen else subprocess.PIPE,
            stderr=None if seen else subprocess.STDOUT,
            errors="replace",
        )
        return ended.returncode in (0, NO_TESTS_CHOSEN), ended.stdout or ""


def shares(folder: Path, python: Path, words: list[str], first: bool) -> list[Share]:
    """What of a ComfyUI's tests is run, and by how many processes."""
    name = f"ComfyUI {host_version(folder)} in {folder}"
    if words or not first:
        part = " in part" if not words else ""
        chosen = ("tests/host", *(words or IN_PART))
        return [Share(name + part, folder, python, chosen)]
    rest = ("tests/host", *(f"--ignore={each}" for each in HALF))
    halves = {"first": HALF, "second": rest}
    return [Share(f"{name}, {half} half", folder, python, halves[half]) for half in halves]


def run_host_tests(words: list[str]) -> int:
    """Run the nodes' tests by the Python of every ComfyUI there is; says where it did."""
    told, failures, wanted = [], 0, []
    for folder, python in find_hosts():
        if can_test(python):
            wanted += shares(folder, python, words, first=not wanted)
        else:
            name = f"ComfyUI {host_version(folder)} in {folder}"
            failures += "COMFYUI_PATH" in os.environ  # who names a host wants its tests
            told.append(f'skipped in {name}, for want of: "{python}" -m pip install {NEEDED}')
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = pool.map(Share.run, wanted, [True, *[False] * len(wanted)])
        for share, (passed, printed) in zip(wanted, ended):
            print(printed, end="", flush=True)
            told.append(f"{'passed' if passed else 'FAILED'} in {share.name}")
            failures += not passed
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

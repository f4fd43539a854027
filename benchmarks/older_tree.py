"""The files of an older commit, to be measured beside those of today."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lidit_core.errors import LiDiTError

ROOT = Path(__file__).resolve().parent.parent


def take_out(commit: str, folder: Path) -> Path:
    """Make a clone in a folder, new or empty, that stands at a commit.

    Raises:
        LiDiTError: it is not in this repository.
    """
    subprocess.run(["git", "clone", "-q", "-n", "--shared", str(ROOT), str(folder)], check=True)
    words = ["git", "checkout", "-q", commit, "--"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise LiDiTError(
            f"the commit {commit} cannot be taken out of {ROOT} (git says "
            f"{done.stderr.strip()!r}); expected one of its history: clone it whole"
        )
    return folder

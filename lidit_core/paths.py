"""Paths on a user's disk. Standard library only, so that any script may ask."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

SHIPPED_WEIGHTS = Path(__file__).resolve().parent / "weights"


def at_home(path: str | Path) -> Path:
    """A path whose beginning `~` is the user's folder; that of no user stays as it is written."""
    return Path(os.path.expanduser(path))


def is_hidden(path: Path) -> bool:
    """Whether a name begins with a dot, as macOS's ._NAME beside each file on others' disks."""
    return path.name.startswith(".")


def files_like(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that match a pattern and are not hidden, in order."""
    if not os.path.isdir(folder):  # where pathlib raises on a name that no system takes
        return []
    return sorted(path for path in folder.glob(pattern) if not is_hidden(path))


def cache_root() -> Path:
    """The user cache of command line and ComfyUI alike: `LIDIT_CACHE`, else `~/.cache/lidit`.

    Where the system knows no home of this user, as in some containers, it is the temporary folder.
    """
    if override := os.environ.get("LIDIT_CACHE"):
        return at_home(override)
    home = at_home("~")
    return (home if home.is_absolute() else Path(tempfile.gettempdir())) / ".cache" / "lidit"


def states_folder() -> Path:
    """The folder that encoded prompts are kept in, when asked for."""
    return cache_root() / "states"


def llm_folder(name: str) -> Path:
    """The folder of one LLM in the user cache: what was fetched of it, and its converted copy."""
    return cache_root() / "llm" / name

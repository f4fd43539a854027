"""Where things lie on a user's disk. Standard library only, so that any script may ask."""

from __future__ import annotations

import os
from pathlib import Path

SHIPPED_WEIGHTS = Path(__file__).resolve().parent / "weights"


def at_home(path: str | Path) -> Path:
    """A path whose beginning `~` is the user's folder; that of no user stays as it is written."""
    return Path(os.path.expanduser(path))


def cache_root() -> Path:
    """The user cache of command line and ComfyUI alike: `LIDIT_CACHE`, else `~/.cache/lidit`."""
    override = os.environ.get("LIDIT_CACHE")
    return at_home(override) if override else Path.home() / ".cache" / "lidit"


def states_folder() -> Path:
    """Where encoded prompts are kept on disk, when that is asked for."""
    return cache_root() / "states"


def llm_folder(name: str) -> Path:
    """The folder of one LLM in the user cache: what was fetched of it, and its converted copy."""
    return cache_root() / "llm" / name

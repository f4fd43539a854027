"""What a real pip may see in a test: a folder of wheels, and nothing of the machine's settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def take_for_only_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every pip that the test starts install from `folder` alone.

    A machine's pip.conf may add indexes, and constraints that refuse a version that a test makes.
    """
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # no configuration file is read
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

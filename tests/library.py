"""Runs the library's tests: ``python tests/library.py``, or with words for pytest.

Without words up to four processes share them, a file at a time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MOST = 4  # processes; each holds up to 3 GB


def spread(cores: int) -> list[str]:
    """Words for pytest by which so many cores share the tests, each of which takes one."""
    return ["-n", str(min(cores, MOST)), "--dist", "loadfile"] if cores > 1 else []


def main(words: list[str]) -> int:
    """Run them; gives pytest's exit status."""
    words = words or spread(os.cpu_count() or 1)
    return subprocess.call([sys.executable, "-m", "pytest", str(Path(__file__).parent), *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Every ratio and time that the project promises, side by side: ``python -m benchmarks``.

Run it on an otherwise idle machine, from the repository's root, after ``python3 run.py setup``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from . import encoder
from .encoder import Measurement, seconds

PROMPT = "a cat to the left of a dog"


def picture_seconds() -> float:
    """One picture by the command line, with everything that a process loads."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["generate", PROMPT, "--out", str(Path(folder) / "picture.png"), "--device", "cpu"]
        return seconds(
            lambda: subprocess.run(
                [sys.executable, "-m", "lidit_core", *words], check=True, capture_output=True
            )
        )


def rows() -> list[Measurement]:
    return [*encoder.measure(), ("one picture by the command line, seconds", picture_seconds(), 30)]


def main() -> None:
    for what, measured, limit in rows():
        verdict = "holds" if measured <= limit else "MISSED"
        print(f"{what:45} {measured:8.3f}   limit {limit:5.2f}   {verdict}")


if __name__ == "__main__":
    main()

"""Writes captions that the stickers are trained on, one a line: to record an LLM's states of them.

python -m lidit_stickers.training_captions captions.txt --count 18000
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lidit_core.errors import check, exit_status
from lidit_core.io.atomic import replacing

from .source import SEEDS, training_captions


def write_captions(path: Path, language: str, count: int) -> None:
    """Write so many captions; a longer file begins with the shorter one."""
    check(count > 0, f"--count is {count}; expected 1 or more")
    texts = [caption.text for caption in training_captions(language, count)]
    with replacing(path) as beside:
        beside.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="written anew")
    parser.add_argument("--language", choices=SEEDS, default="en")
    parser.add_argument("--count", type=int, default=18_000, help="of captions (18000)")
    options = parser.parse_args()
    write_captions(options.file, options.language, options.count)
    print(options.file)


if __name__ == "__main__":
    sys.exit(exit_status("training_captions", main))

"""The strip of pictures at the top of the README: `python -m lidit_stickers.making.strip`.

Eight prompts and the seeds 0 to 7, one each, as

    lidit generate --prompts prompts.txt --out pictures

draws them; none is chosen by eye.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lidit_core.cli import main as lidit
from lidit_core.errors import LiDiTError, exit_status
from lidit_core.io.atomic import replacing

PROMPTS = (
    "a cat to the left of a red balloon on a blue background",
    "three apples on a yellow background",
    "a fox above a mushroom",
    "a red car in the middle of the picture",
    "a couple of frogs",
    "On a warm evening somebody left a banana here, and just to the right of the banana there is "
    "an umbrella; everything else in this picture is plain green.",
    "a small bee and a purple tulip",
    "a trio of penguins on a white background",
)


def drawn(model: str, folder: Path) -> list[Image.Image]:
    """The pictures, in order."""
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(f"{prompt}\n" for prompt in PROMPTS), encoding="utf-8")
    words = ["generate", "--prompts", str(prompts), "--model", model, "--out", str(folder)]
    status = lidit(words)
    if status:
        raise LiDiTError(f"no strip is made, for `lidit {' '.join(words)}` ended with {status}")
    return [Image.open(folder / f"{number:05d}.png") for number in range(len(PROMPTS))]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/strip.png"), metavar="FILE")
    parser.add_argument("--model", default="stickers", help="a name or a file (stickers)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        pictures = [np.asarray(picture) for picture in drawn(options.model, Path(folder))]
    with replacing(options.out) as beside:
        Image.fromarray(np.concatenate(pictures, axis=1)).save(beside, format="PNG")
    print(f"{len(PROMPTS)} pictures in {options.out}")


if __name__ == "__main__":
    sys.exit(exit_status("strip", main))

"""Draws the pictures of the template browser: workflows/NAME.jpg, by what each workflow saves.

    python tests/host/kit/draw_thumbnails.py HOST_FOLDER [NAME …]

Run by the host's Python, with the weights that ship.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

from host_server import HostServer
from PIL import Image, ImageOps
from workflow_kit import NAMES, WORKFLOWS, give_files, read, saving

SIDE = 512  # of a thumbnail, in pixels
GAP = 8
BACKGROUND = (32, 32, 36)


def grid(pictures: list[Image.Image]) -> Image.Image:
    """The pictures in rows on a square, as large as they fit."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    side = (SIDE - GAP * (columns - 1)) // columns
    left = (SIDE - columns * side - GAP * (columns - 1)) // 2
    top = (SIDE - rows * side - GAP * (rows - 1)) // 2
    square = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        whole = picture.convert("RGB")
        resized = ImageOps.pad(whole, (side, side), Image.Resampling.LANCZOS, BACKGROUND)
        square.paste(resized, (left + column * (side + GAP), top + row * (side + GAP)))
    return square


def draw(server: HostServer, name: str) -> None:
    api = read(name)[1]
    give_files(server, api)
    run = server.draw(api)
    if run.ending != "execution_success":
        raise SystemExit(f"{name}: {run.error}")
    pictures = [p for node in sorted(saving(api), key=int) for p in run.pictures[node]]
    grid(pictures).save(WORKFLOWS / f"{name}.jpg", quality=90, optimize=True)


def main(host: str, *names: str) -> None:
    sys.path.append(str(WORKFLOWS.parent))
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "custom_nodes").mkdir()
        (base / "custom_nodes" / "lidit").symlink_to(WORKFLOWS.parent, target_is_directory=True)
        with HostServer(Path(host), base, "lidit") as server:
            for name in names or NAMES:
                draw(server, name)


if __name__ == "__main__":
    main(*sys.argv[1:])

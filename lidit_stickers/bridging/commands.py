"""The commands that a comparison of bridges is made by; each goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lidit_core.cli import main
from lidit_core.errors import check
from lidit_train.run import FINAL

from ..training_captions import write_captions

RECIPES = Path("recipes")


def lidit(*words: str) -> None:
    """Run a command of `lidit`.

    Raises:
        LiDiTError: it failed, and has told why.
    """
    shown = " ".join(words)
    check(main(words) == 0, f"`lidit {shown}` failed, see above; the same command goes on")


def recorded(out: Path, captions: int, model: str, llm: str = "") -> Path:
    """The recording of training captions, in a folder.

    Args:
        llm: which of the model's; "" = the demo checkpoint's own encoder.
    """
    file, recording = out / "captions.txt", (out / "recording").absolute()
    if not file.exists():
        write_captions(file, "en", captions)
    which = ("--llm", llm) if llm else ()
    lidit("record", str(file), "--model", model, *which, "--out", str(recording))
    return recording


def trained(recipe: str, folder: Path, changes: Sequence[str]) -> Path:
    """The file that a recipe of the repository trains.

    Raises:
        LiDiTError: the recipes are not here, or the training failed.
    """
    path, final = RECIPES / recipe, folder / FINAL
    check(path.is_file(), f"there is no {path}; run this in the repository, where the recipes are")
    if not final.exists():
        sets = [word for change in changes for word in ("--set", change)]
        lidit("train", str(path), "--out", str(folder), *sets)
    return final

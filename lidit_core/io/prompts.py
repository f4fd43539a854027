"""Prompts as text: files of them, and characters that are none."""

from __future__ import annotations

from pathlib import Path

from ..errors import LiDiTError


def without_halves(text: str) -> str:
    """The text with "?" for each half of a surrogate pair, which no tokenizer or file takes.

    JSON can escape one, and so can a saved workflow hold one. There are as many characters.
    """
    return text.encode("utf-8", "replace").decode()


def read_prompts(path: str | Path) -> list[str]:
    """One prompt a line, in UTF-8; an empty line is the empty prompt, so that numbers match."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise LiDiTError(
            f"the prompts file {path} cannot be read ({error}); expected UTF-8 text with one "
            "prompt a line"
        ) from error
    prompts = [line.strip() for line in text.splitlines()]
    if not any(prompts):
        raise LiDiTError(f"the prompts file {path} is empty; write one prompt a line")
    return prompts

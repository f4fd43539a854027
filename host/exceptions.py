"""The pack's exceptions by their plain names: ComfyUI shows the module too, here a file's path."""

from __future__ import annotations

from ..lidit_core.errors import LiDiTError


def name_plainly(kind: type[LiDiTError] = LiDiTError) -> None:
    """Let the host show an exception and its kinds by their names alone."""
    kind.__module__ = "builtins"  # the one that hosts leave out
    for narrower in kind.__subclasses__():
        name_plainly(narrower)

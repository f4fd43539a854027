"""Files are written beside and renamed, so that a run that dies leaves the old one whole."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it becomes ``path`` if the block ends without an error.

    The folder is made; writers at the same time do not meet. Whoever may read what this process
    writes may read the file: safetensors 0.8 would keep its files to their owner.
    """
    path = Path(path)
    if not path.name:  # "" and "."
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    beside.touch()
    mode = beside.stat().st_mode
    try:
        yield beside
        beside.chmod(mode)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)

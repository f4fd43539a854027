"""One run at a time in a folder: a second is refused, however the first one may end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator
from filelock import FileLock, Timeout

from lidit_core.errors import LiDiTError

from .loop.voice import by_first

LOCK = ".lock"  # in the run's folder


@contextlib.contextmanager
def alone_in(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Hold a run's folder; the system lets go of it when the process ends.

    Raises:
        LiDiTError: another run holds it.
    """
    lock = FileLock(folder / LOCK)

    def take() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise LiDiTError(
                f"another run is training in {folder}; wait until it ends or stop it, or name "
                "another folder with --out"
            ) from error

    by_first(accelerator, take)
    try:
        yield
    finally:
        lock.release()

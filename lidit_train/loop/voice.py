"""Several processes speak through the first: what all would say is said once, errors too."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from datetime import timedelta

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch.distributed import TCPStore

from lidit_core.errors import LiDiTError, refusal

from .lost import sentence_of_loss

SAID, FAILED = (
    "lidit said ",
    "lidit failed",
)  # keys in the store that the launcher's processes share
PATIENCE = timedelta(seconds=5)  # for that store
LOGGERS = ("lidit_train", "lidit_core", "lidit_stickers")


def is_first() -> bool:
    """Whether this process speaks for all, as far as the launcher's environment says."""
    return os.environ.get("RANK", "0") == "0"


def is_alone() -> bool:
    """Whether no launcher has started other processes beside this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) < 2


def hush() -> None:
    """Leave what this process logs to the first one, which logs the same."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """An error that another process has told ends this one without a word.

    Raises:
        SystemExit: in place of such an error, with status 2.
        LiDiTError: the processes have lost one another, and this one is the first to tell.
    """
    if not is_first():
        hush()
    try:
        yield
    except (LiDiTError, OSError) as error:
        if not _says_first(f"{type(error).__name__} {error}"):
            raise SystemExit(2) from None
        raise
    except Exception as error:
        lost = sentence_of_loss(error)
        if lost is None and (is_first() or not _has_failed()):
            raise
        if lost is None or not _fails_first():
            raise SystemExit(2) from None
        raise LiDiTError(lost) from error


def _says_first(sentence: str) -> bool:
    store = _store()
    if store is None:
        return True
    store.add(FAILED, 1)
    return store.add(SAID + hashlib.sha256(sentence.encode()).hexdigest(), 1) == 1


def _fails_first() -> bool:
    store = _store()
    return store is None or store.add(FAILED, 1) == 1


def _has_failed() -> bool:
    store = _store()
    return store is not None and store.add(FAILED, 0) > 0


def _store() -> TCPStore | None:
    """The store of the launcher; None for a process that is alone, or left alone."""
    if is_alone():
        return None
    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(*place, is_master=False, timeout=PATIENCE, wait_for_workers=False)
    except (KeyError, ValueError, RuntimeError):
        return None


def by_first(accelerator: Accelerator, act: Callable[[], None]) -> None:
    """Let the first process act; an error of it is raised by all, so that none waits in vain."""
    told: list[str | None] = [None]
    if accelerator.is_main_process:
        try:
            act()
        except (LiDiTError, OSError) as error:
            told = [refusal(error)]
    if accelerator.num_processes > 1:
        broadcast_object_list(told)
    if told[0] is not None:
        raise LiDiTError(told[0])


def of_all(accelerator: Accelerator, own: list) -> list:
    """What every process has, in one list; every process must ask."""
    return gather_object(own) if accelerator.num_processes > 1 else own

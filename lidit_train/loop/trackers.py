"""The trackers that show a run's numbers and pictures: TensorBoard and Weights & Biases."""

from __future__ import annotations

import importlib.util
import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from torch import Tensor

from lidit_core.errors import LiDiTError, check, first_line
from lidit_core.io.atomic import replacing

log = logging.getLogger(__name__)

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}  # of each tracker that is offered
FOLDER = "trackers"  # in the run's folder
PROJECT = "lidit"  # at Weights & Biases
IDENTITY = "wandb-run.txt"  # in the run's folder: by which a resumed run is the same run there
REMEDY = "log in by `wandb login`, set WANDB_MODE=offline, or take wandb out of log.trackers"


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that is not offered; one whose package is not there is left out later."""
    for name in names:
        check(
            name in PACKAGES,
            f"the recipe's tracker {name!r} is not known; expected one of {', '.join(PACKAGES)}",
        )


def check_login(names: Sequence[str]) -> None:
    """Try, before a run, whether Weights & Biases takes it; a terminal is asked for a key.

    Raises:
        LiDiTError: nobody is logged in, or the key is refused.
    """
    if "wandb" not in names or not _is_there("wandb"):
        return
    from wandb import login
    from wandb.errors import Error

    try:
        login()
    except Error as error:
        raise LiDiTError(
            f"the recipe's tracker wandb takes no run ({first_line(error)}); {REMEDY}"
        ) from error


def open_trackers(
    accelerator: Accelerator,
    names: Sequence[str],
    folder: Path,
    step: int,
    recipe: Mapping[str, Any],
) -> None:
    """Open the trackers in a run's folder.

    Args:
        step: after which the run goes on; TensorBoard forgets what was told beyond it.
        recipe: stored where a tracker has a place for it.
    Raises:
        LiDiTError: one cannot be opened.
    """
    check_trackers(names)
    there = [name for name in names if _is_there(name)]
    for name in names:
        if name not in there:
            log.warning("the tracker %s is left out: its package is not installed", name)
    if there and accelerator.is_main_process:
        try:
            opened: list[Any] = [_opened(name, folder, step) for name in there]
            accelerator.log_with = opened
            accelerator.init_trackers(FOLDER)
        except Exception as error:  # of packages that are not ours
            accelerator.trackers = []  # else they are ended though they have not begun
            raise LiDiTError(
                f"the recipe's trackers {', '.join(there)} cannot be opened ({first_line(error)}); "
                f"{REMEDY if 'wandb' in there else 'take them out of log.trackers'}"
            ) from error
    for tracker in accelerator.trackers:
        if tracker.name == "wandb":
            tracker.store_init_configuration(dict(recipe))


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(PACKAGES[name]) is not None


def _opened(name: str, folder: Path, step: int) -> GeneralTracker:
    folder.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        return TensorBoardTracker(FOLDER, str(folder), purge_step=step + 1)
    same = {"id": _identity(folder), "resume": "allow"}
    return WandBTracker(PROJECT, name=folder.absolute().name, dir=str(folder), **same)


def _identity(folder: Path) -> str:
    path = folder / IDENTITY
    if not path.is_file():
        with replacing(path) as beside:
            beside.write_text(secrets.token_hex(8))
    return path.read_text().strip()


def show_picture(accelerator: Accelerator, step: int, name: str, pixels: Tensor) -> None:
    """Show a picture (H, W, 3) uint8 in every tracker."""
    for tracker in accelerator.trackers:
        how = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        tracker.log_images({name: pixels[None].numpy()}, step=step, **how)

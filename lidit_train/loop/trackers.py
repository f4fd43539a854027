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

from lidit_core.errors import check
from lidit_core.io.atomic import replacing

log = logging.getLogger(__name__)

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}  # of each tracker that is offered
FOLDER = "trackers"  # in the run's folder
PROJECT = "lidit"  # at Weights & Biases
IDENTITY = "wandb-run.txt"  # in the run's folder: by which a resumed run is the same run there


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that is not offered; one whose package is not there is left out later."""
    for name in names:
        check(
            name in PACKAGES,
            f"the recipe's tracker {name!r} is not known; expected one of {', '.join(PACKAGES)}",
        )


def open_trackers(
    accelerator: Accelerator,
    names: Sequence[str],
    folder: Path,
    step: int,
    recipe: Mapping[str, Any],
) -> None:
    """Open them in a run's folder.

    Args:
        step: after which the run goes on; TensorBoard forgets what was told beyond it.
        recipe: stored where a tracker has a place for it.
    """
    check_trackers(names)
    opened = []
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            log.warning("the tracker %s is left out: its package is not installed", name)
        elif accelerator.is_main_process:
            opened.append(_opened(name, folder, step))
    if opened:
        accelerator.log_with = opened
        accelerator.init_trackers(FOLDER)
    for tracker in accelerator.trackers:
        if tracker.name == "wandb":
            tracker.store_init_configuration(dict(recipe))


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

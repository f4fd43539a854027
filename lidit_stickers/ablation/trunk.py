"""What every run starts from, as it was when the ablation began."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from lidit_core.checkpoints.lidit import read_config
from lidit_core.demo.checkpoint import read_demo_config
from lidit_core.io.atomic import replacing
from lidit_core.io.hashes import sha256
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_core.shipped import find_vae

from .variants import Ablation

log = logging.getLogger(__name__)


def kept(path: Path, vae: Path | None, folder: Path) -> Path:
    """Weights that no update of the project changes, with their autoencoder beside them.

    What ships is copied into the folder when an ablation begins: it runs for days, and runs that
    started from other weights, or were drawn by another decoder, are not to be compared. A file of
    the user's own stays where it is.
    """
    if path.parent != SHIPPED_WEIGHTS:
        return path
    for file in (vae, path):
        if file is not None:
            copy(file, folder)
    if sha256(folder / path.name) != sha256(path):
        log.warning("%s is another than when this ablation began, whose copy is used", path)
    return folder / path.name


def copy(file: Path, folder: Path) -> None:
    """Copy a file into a folder that does not have one of its name."""
    if not (folder / file.name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / file.name) as beside:
            shutil.copyfile(file, beside)


def autoencoder(ablation: Ablation, trunk: Path) -> Path | None:
    """The file that pictures are encoded with and drawn by; None where the trunk holds its own."""
    if not ablation.adapter:
        return find_vae(read_config(trunk).latent, trunk)
    demo = read_demo_config(trunk) if trunk.is_file() else None
    return find_vae(demo.latent, trunk) if demo else None

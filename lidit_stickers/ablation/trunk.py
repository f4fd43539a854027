"""What every run starts from, as it was when the ablation began."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from lidit_core.checkpoints.lidit import load_vae, read_config
from lidit_core.demo.checkpoint import read_demo_config
from lidit_core.errors import check
from lidit_core.io.atomic import replacing
from lidit_core.io.hashes import sha256
from lidit_core.model.config import LatentFormat
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_core.shipped import find_vae
from lidit_train.data.autoencoders.find import find_autoencoder
from lidit_train.tasks.lidit.start import configuration

from .recipes import fork_fields, with_cache
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
    return _as_it_was(path, folder)


def _as_it_was(path: Path, folder: Path) -> Path:
    if sha256(folder / path.name) != sha256(path):
        log.warning("%s is another than when this ablation began, whose copy is used", path)
    return folder / path.name


def copy(file: Path, folder: Path, name: str = "") -> None:
    """Copy a file into a folder that does not have one of its name, or of another."""
    name = name or file.name
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / name) as beside:
            shutil.copyfile(file, beside)


def kept_autoencoder(ablation: Ablation, folder: Path) -> Path:
    """The autoencoder of models that start from nothing, kept as `kept` keeps weights.

    Raises:
        LiDiTError: it is none that pictures are drawn with here.
    """
    latent = latents_of(ablation)
    found = find_autoencoder(ablation.model.get("vae", "shipped"), latent)
    check(
        found.path.is_file() and found.prefix is None,
        f"the ablation's model has vae={found.path}; expected a file in TAESD's layout, as "
        "pictures are drawn with it where no other kind is read",
    )
    load_vae(found.path)
    if found.path.parent != SHIPPED_WEIGHTS:
        return found.path
    copy(found.path, folder)
    return _as_it_was(found.path, folder)


def latents_of(ablation: Ablation) -> LatentFormat:
    """The latents of models that start from nothing."""
    recipe = with_cache(fork_fields(ablation, ablation.variants[0], 0, ""), Path("."))
    return configuration(recipe.model, recipe.stages).latent


def autoencoder(ablation: Ablation, trunk: Path | None) -> Path | None:
    """The file that pictures are encoded with and drawn by; None where the trunk holds its own.

    Args:
        trunk: or the base of adapters; None where all starts from nothing.
    """
    if trunk is None:
        return Path(ablation.model["vae"])  # as `kept_autoencoder` found it
    if not ablation.adapter:
        return find_vae(read_config(trunk).latent, trunk)
    demo = read_demo_config(trunk) if trunk.is_file() else None
    return find_vae(demo.latent, trunk) if demo else None

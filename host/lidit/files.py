"""Finds LI-DiT checkpoints, their autoencoders and refiner files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths

from ...lidit_core.errors import LiDiTError, shown
from ...lidit_core.model.config import LiDiTConfig
from ...lidit_core.paths import SHIPPED_WEIGHTS, files_like
from ...lidit_core.shipped import SHIPPED_MODELS, find_vae
from ..folders import plain_name

if TYPE_CHECKING:
    from ...lidit_core.demo.checkpoint import DemoConfig

FOLDER = "diffusion_models"  # the host's own, extra_model_paths included
SUFFIX = ".safetensors"
NONE = "(put a .safetensors file into models/diffusion_models)"


def checkpoints() -> list[str]:
    """Shipped weights first, then the host's diffusion models, each name once; never empty."""
    shipped = {model.file for model in SHIPPED_MODELS.values()}
    present = sorted(file for file in shipped if (SHIPPED_WEIGHTS / file).is_file())
    return list(dict.fromkeys([*present, *_files()])) or [NONE]


def refiners() -> list[str]:
    return _files() or [NONE]


def _files() -> list[str]:
    names = folder_paths.get_filename_list(FOLDER)
    return [name.replace("\\", "/") for name in names if name.endswith(SUFFIX)]


def find_file(name: str) -> Path:
    """The file of a listed name; names from another system's workflow are understood.

    Raises:
        LiDiTError: the name leads out of the model folders, or no file has it.
    """
    plain = plain_name(name)
    for folder in (SHIPPED_WEIGHTS, *folder_paths.get_folder_paths(FOLDER)):
        if os.path.isfile(path := Path(folder) / plain):  # False for a name that no system takes
            return path
    if name == NONE:
        raise LiDiTError(
            f"there is no model file yet; put a {SUFFIX} file into models/{FOLDER}, press R and "
            "choose it from the list"
        )
    raise LiDiTError(
        f"no file {shown(name)} in models/{FOLDER} or among the shipped weights; put it there and "
        "press R, or choose another from the list"
    )


class MissingVAEError(LiDiTError, AttributeError):
    """A host that only asks whether the VAE has something gets its default and goes on."""


class MissingVAE:
    """Stands for the VAE that is not there, and says so when it is used."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        raise MissingVAEError(self._reason)


def vae_of(config: LiDiTConfig | DemoConfig, checkpoint: Path):
    """The checkpoint's autoencoder as the host's VAE, or what tells which one to load."""
    import comfy.sd
    import comfy.utils

    try:
        path = find_vae(config.latent, checkpoint)
    except LiDiTError:
        name = config.latent.name
        return MissingVAE(
            f"{checkpoint.name} paints in the latents of {name}, and no autoencoder of that name "
            f"lies beside it; load the {name} VAE with the VAE loader and connect that instead"
        )
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))


def fingerprint(name: str | None) -> str:
    """A text that changes when the file or an autoencoder beside it does, so that it loads again.

    A name that another node gives is None here; the host looks at what gives it.
    """
    if name is None:
        return ""
    path = find_file(name)
    beside = [p for p in files_like(path.parent, "*-vae.safetensors") if os.path.isfile(p)]
    stats = [(p.name, p.stat()) for p in (path, *beside)]
    return repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])

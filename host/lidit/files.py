"""Finds LI-DiT checkpoints, their autoencoders and refiner files."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...lidit_core.errors import LiDiTError
from ...lidit_core.model.config import LiDiTConfig
from ...lidit_core.paths import SHIPPED_WEIGHTS, files_like
from ...lidit_core.shipped import SHIPPED_MODELS, find_vae
from ..folders import find_weights, none_in, weights_in
from ..other_vaes import tell_other_latents

if TYPE_CHECKING:
    import comfy.sd

    from ...lidit_core.demo.checkpoint import DemoConfig

FOLDER = "diffusion_models"  # the host's own, extra_model_paths included


def checkpoints() -> list[str]:
    """Shipped weights first, then the host's diffusion models, each name once; never empty."""
    shipped = {model.file for model in SHIPPED_MODELS.values()}
    present = sorted(file for file in shipped if (SHIPPED_WEIGHTS / file).is_file())
    return list(dict.fromkeys([*present, *weights_in(FOLDER)])) or [none_in(FOLDER)]


def refiners() -> list[str]:
    return weights_in(FOLDER) or [none_in(FOLDER)]


def find_file(name: str) -> Path:
    """The file of a listed name, see `find_weights`."""
    return find_weights(name, FOLDER, "there is no model file yet", shipped=True)


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


_VAE = comfy.sd.VAE if TYPE_CHECKING else object  # the host's, which loads with the first model


class OwnVAE(_VAE):
    """The host's VAE, which tells where it decodes another model's latents."""

    latent_name = ""

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        tell_other_latents(self.latent_name)
        return super().decode(*args, **kwargs)

    def decode_tiled(self, *args: Any, **kwargs: Any) -> Any:
        tell_other_latents(self.latent_name)
        return super().decode_tiled(*args, **kwargs)


@cache
def _own_vae(kind: type) -> type:
    return type(kind.__name__, (OwnVAE, kind), {})


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
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
    vae.__class__, vae.latent_name = _own_vae(comfy.sd.VAE), config.latent.name
    return vae


def autoencoders_beside(checkpoint: Path) -> list[Path]:
    """The files of autoencoders that lie in a checkpoint's folder."""
    found = files_like(checkpoint.parent, "*-vae.safetensors")
    return [path for path in found if os.path.isfile(path)]

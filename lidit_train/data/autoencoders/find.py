"""The autoencoder that a recipe names, for training alone: pictures to latents and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from lidit_core.checkpoints.lidit import load_vae
from lidit_core.errors import LiDiTError, check, first_line
from lidit_core.io.hashes import weights_sha256
from lidit_core.model.config import LatentFormat
from lidit_core.model.vae import CHANNELS
from lidit_core.paths import SHIPPED_WEIGHTS, at_home
from lidit_core.shipped import find_vae

from .ldm import ldm_channels, ldm_identity, ldm_prefix, read_ldm

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.vae import DecoderOutput
    from diffusers.models.modeling_outputs import AutoencoderKLOutput

Kind = TypeVar("Kind", bound=nn.Module)


class Autoencoder(Protocol):
    def encode(self, pictures: Tensor) -> Tensor:
        """Encode pictures (B, 3, H, W) in [0, 1] as latents (B, C, h, w), not normalised yet."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse, pictures in [0, 1]."""
        ...


def as_pixels(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) uint8 as an autoencoder reads them: float32 in [0, 1]."""
    return (pictures.float() / 255).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class AutoencoderFile:
    """The file or folder of an autoencoder; it is opened only to encode or draw something."""

    path: Path

    @cached_property
    def prefix(self) -> str | None:
        """The prefix of the tensors' names in a file of Stable Diffusion's; None in other files."""
        return ldm_prefix(self.path) if self.path.is_file() else None

    def identity(self) -> str:
        """The hash of the weights, by which the cache of latents tells autoencoders apart."""
        if self.prefix is not None:
            return ldm_identity(self.path, self.prefix)
        return weights_sha256(self.path)

    def check(self, latent: LatentFormat) -> None:
        """Look whether it is an autoencoder of these latents, before anything is encoded.

        Raises:
            LiDiTError: it is not, or the package that reads it is missing.
        """
        channels = CHANNELS
        if self.path.is_dir():
            _diffusers(self.path)
            channels = _folder_channels(self.path)
        elif self.prefix is not None:
            _diffusers(self.path)
            channels = ldm_channels(self.path, self.prefix)
        else:
            load_vae(self.path)
        check(
            channels == latent.channels,
            f"the recipe's autoencoder {self.path} makes latents of {channels} channels, and the "
            f"model reads {latent.channels}; give the autoencoder of {latent.name}",
        )

    def open(self, device: torch.device | str, half: bool = False) -> Autoencoder:
        """Load it; ``half``: one of diffusers', which is large, computes in bf16."""
        dtype = torch.bfloat16 if half else torch.float32
        if self.path.is_dir():
            kind = _diffusers(self.path)
            return DiffusersAutoencoder(kind.from_pretrained(self.path, torch_dtype=dtype), device)
        if self.prefix is not None:
            own = read_ldm(_diffusers(self.path), self.path, self.prefix)
            return DiffusersAutoencoder(own.to(dtype), device)
        return load_vae(self.path, device=device)


class DiffusersAutoencoder:
    """diffusers' AutoencoderKL, as SD3's: the mean of the posterior, without its sampling."""

    def __init__(self, model: AutoencoderKL, device: torch.device | str) -> None:
        self.model = _placed(model, device)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        pixels = (2 * pictures - 1).to(self.model.dtype)
        encoded = cast("AutoencoderKLOutput", self.model.encode(pixels))
        return encoded.latent_dist.mode().float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.to(self.model.device, self.model.dtype)
        decoded = cast("DecoderOutput", self.model.decode(latents))
        return (decoded.sample.float() / 2 + 0.5).clamp(0, 1)


def _diffusers(folder: Path) -> type[AutoencoderKL]:
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise LiDiTError(
            f"the autoencoder {folder} is read by diffusers, which is not installed; "
            "install it with: python -m pip install diffusers"
        ) from error
    return AutoencoderKL


def _folder_channels(folder: Path) -> int:
    """The latents' channels, by the configuration of a folder that holds weights too."""
    check(
        any(folder.glob("*.safetensors")),
        f"the recipe's autoencoder {folder} holds no .safetensors; fetch the folder again",
    )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return int(config.get("latent_channels", 4))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise LiDiTError(
            f"{folder / 'config.json'} is no configuration of diffusers' AutoencoderKL "
            f"({first_line(error)}); fetch the folder again"
        ) from error


def _placed(model: Kind, device: torch.device | str) -> Kind:
    return model.to(device).eval()


def find_autoencoder(name: str, latent: LatentFormat, model: Path | None = None) -> AutoencoderFile:
    """The autoencoder of a recipe.

    Args:
        name: "shipped", for the one that the latents' format names, or a path.
        model: the checkpoint that is trained on: its own is taken, or the one beside it.
    """
    if name == "shipped":
        if model is not None and (own := _own_of(model)) is not None:
            return own
        check(
            model is None or latent.channels == CHANNELS,
            f"{model} holds no autoencoder; give that of {latent.name}, a .safetensors or a folder "
            "of diffusers' AutoencoderKL, as a recipe's model.vae or with --vae of lidit eval",
        )
        return AutoencoderFile(find_vae(latent, model or SHIPPED_WEIGHTS / "a new model"))
    path = at_home(name)
    if not (path.is_file() or (path / "config.json").is_file()):
        raise LiDiTError(
            f"the recipe's autoencoder {name} is not there; expected 'shipped', a .safetensors in "
            "TAESD's layout or Stable Diffusion's, or a folder of diffusers' AutoencoderKL with "
            "its config.json"
        )
    return AutoencoderFile(path)


def _own_of(model: Path) -> AutoencoderFile | None:
    """The autoencoder in a checkpoint of Stable Diffusion's, or in a diffusers folder."""
    if (model / "vae" / "config.json").is_file():
        return AutoencoderFile(model / "vae")
    found = AutoencoderFile(model)
    return found if found.prefix else None

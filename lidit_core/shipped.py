"""What ships with this package, and where a model or an autoencoder lies that users name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import LiDiTError
from .model.config import LatentFormat
from .paths import SHIPPED_WEIGHTS, at_home


@dataclass(frozen=True)
class ShippedModel:
    """A model that `--model` knows by name: its file, and which of its LLMs take part."""

    file: str
    llms: tuple[str, ...]


SHIPPED_MODELS = {
    "stickers": ShippedModel("stickers.safetensors", ("SmolLM2-135M-Instruct",)),
    "stickers-duo": ShippedModel("stickers.safetensors", ("SmolLM2-135M-Instruct", "gemma-3-270m")),
}


def find_model(name: str) -> tuple[Path, tuple[str, ...]]:
    """The file of a model, and the LLMs that take part; () = the checkpoint's own, for a path.

    Raises:
        LiDiTError: the weights of a shipped name are not in this copy.
    """
    if name not in SHIPPED_MODELS:
        return at_home(name), ()
    shipped = SHIPPED_MODELS[name]
    path = SHIPPED_WEIGHTS / shipped.file
    if not path.is_file():
        raise LiDiTError(
            f"the weights of {name!r} are not in this copy ({path}); get a full copy of the "
            "project, or give the path of another checkpoint"
        )
    return path, shipped.llms


def find_base(name: str) -> Path:
    """A shipped checkpoint by its file's name, such as "stickers-sd", or a path."""
    shipped = SHIPPED_WEIGHTS / f"{name}.safetensors"
    return shipped if shipped.is_file() else at_home(name)


def find_vae(latent: LatentFormat, checkpoint: Path) -> Path:
    """The autoencoder's file: beside the checkpoint, or among the shipped weights."""
    file = f"{latent.name}-vae.safetensors"
    for folder in (checkpoint.parent, SHIPPED_WEIGHTS):
        if (folder / file).is_file():
            return folder / file
    raise LiDiTError(
        f"{checkpoint.name} paints in the latents of {latent.name} and there is no {file} beside "
        "it; put one in TAESD's layout with 16 channels there, for no other kind is read here, or "
        "draw in a host with its own VAE"
    )

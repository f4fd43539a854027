"""The autoencoder in a checkpoint of SD1.5 or SDXL, or in a file of its own in the same layout."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lidit_core.io.tensors import opened

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

PREFIXES = ("first_stage_model.", "vae.", "")
FIRST = "encoder.down.0.block.0.conv1.weight"  # by which the layout is known


def ldm_prefix(path: Path) -> str | None:
    """What stands before an autoencoder's tensors in a file; None where it holds none."""
    if path.suffix != ".safetensors":
        return None
    with opened(path) as file:
        names = set(file.keys())
    return next((prefix for prefix in PREFIXES if prefix + FIRST in names), None)


def ldm_identity(path: Path, prefix: str) -> str:
    """SHA-256 of the autoencoder's tensors alone."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(path, prefix).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def ldm_channels(path: Path, prefix: str) -> int:
    """The latents' channels."""
    with opened(path) as file:
        return file.get_slice(f"{prefix}decoder.conv_in.weight").get_shape()[1]


def read_ldm(kind: type[AutoencoderKL], path: Path, prefix: str) -> AutoencoderKL:
    """Read the autoencoder of a file in the layout of SD1.5 and SDXL as diffusers' class.

    Args:
        kind: diffusers' class, which whoever calls has imported.
        prefix: of the autoencoder's tensors, by `ldm_prefix`.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    tensors = _tensors(path, prefix)
    config = _config(tensors)
    model = kind(**config)
    model.load_state_dict(convert_ldm_vae_checkpoint(tensors, config))
    return model


def _tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    with opened(path) as file:
        names = [n for n in file.keys() if n.startswith(prefix) and _is_part(n[len(prefix) :])]
        return {name[len(prefix) :]: file.get_tensor(name) for name in names}


def _is_part(name: str) -> bool:
    return name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))


def _config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keywords of diffusers' class, by the tensors' names and shapes."""
    levels = _count(tensors, "encoder.down.")
    widths = [tensors[f"encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in levels]
    return {
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": len(_count(tensors, "encoder.down.0.block.")),
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
    }


def _count(names: Mapping[str, Tensor], place: str) -> Sequence[int]:
    found = {int(name[len(place) :].split(".")[0]) for name in names if name.startswith(place)}
    return sorted(found)

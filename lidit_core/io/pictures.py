"""Pictures on disk: PNGs that carry the prompt and the settings they were drawn with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..errors import LiDiTError, check, first_line, shown
from .atomic import replacing
from .prompts import without_halves

SETTINGS_KEY = "lidit"  # of the PNG text chunk with the settings as JSON


def save_picture(
    path: str | Path, pixels: Tensor, settings: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write (H, W, 3) uint8 as a PNG, beside and then renamed; equal input gives equal bytes.

    Args:
        path: of the file, whose folder is made.
        settings: how it was drawn, become JSON under the key "lidit"; its "prompt" is also the
            PNG's Description.
    Raises:
        LiDiTError: it is no picture, or a setting is nothing that JSON has.
        OSError: the file cannot be written.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    good = isinstance(pixels, Tensor) and pixels.ndim == 3 and pixels.dtype == torch.uint8
    check(
        good and pixels.shape[-1] == 3 and pixels.numel() > 0,
        f"the picture is {shown(pixels)}; expected (H, W, 3) of torch.uint8, as one of "
        "Pipeline.pictures, or of to_pixels",
    )
    try:
        told = json.dumps(dict(settings))
    except (TypeError, ValueError, RecursionError) as error:
        raise LiDiTError(
            f"settings are {shown(settings)} ({first_line(error)}); expected a dict of what JSON "
            "has, as {'prompt': 'a frog', 'seed': 0}"
        ) from error
    text = PngInfo()
    text.add_itxt("Description", without_halves(str(settings.get("prompt", ""))))
    text.add_text(SETTINGS_KEY, told)
    with replacing(path) as beside:
        Image.fromarray(pixels.cpu().numpy()).save(beside, format="PNG", pnginfo=text)


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings that a picture of ours carries."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return json.loads(picture.info[SETTINGS_KEY])
    except (OSError, UnidentifiedImageError, KeyError, ValueError, RecursionError) as error:
        raise LiDiTError(
            f"{path} carries no settings of LI-DiT ({error}); expected a PNG that `lidit "
            "generate` wrote"
        ) from error


def to_pixels(pictures: Tensor) -> Tensor:
    """Turn pictures (B, 3, H, W) in [0, 1] into pixels (B, H, W, 3) uint8 on the CPU.

    Raises:
        LiDiTError: it is no batch of pictures.
    """
    good = isinstance(pictures, Tensor) and pictures.ndim == 4 and pictures.is_floating_point()
    check(
        good and pictures.shape[1] == 3,
        f"pictures are {shown(pictures)}; expected (B, 3, H, W) of floats in [0, 1], as an "
        "autoencoder decodes them",
    )
    return (pictures.float() * 255).round().byte().permute(0, 2, 3, 1).cpu()

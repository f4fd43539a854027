"""Pictures on disk: PNGs that carry the prompt and the settings they were drawn with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import LiDiTError
from .atomic import replacing

SETTINGS_KEY = "lidit"  # of the PNG text chunk with the settings as JSON


def save_picture(path: Path, pixels: Tensor, settings: Mapping[str, Any]) -> None:
    """Write (H, W, 3) uint8 as a PNG, beside and then renamed; equal input gives equal bytes.

    `settings` become JSON under the key "lidit"; its "prompt" is also the PNG's Description.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    prompt = str(settings.get("prompt", "")).encode("utf-8", "replace").decode()
    text.add_itxt("Description", prompt)
    text.add_text(SETTINGS_KEY, json.dumps(dict(settings)))
    with replacing(path) as beside:
        Image.fromarray(pixels.numpy()).save(beside, format="PNG", pnginfo=text)


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
    """Turn pictures (B, 3, H, W) in [0, 1] into pixels (B, H, W, 3) uint8 on the CPU."""
    return (pictures.float() * 255).round().byte().permute(0, 2, 3, 1).cpu()

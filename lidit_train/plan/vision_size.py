"""What a vision encoder takes, by its configuration: it runs on torch's meta device, unread."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data.latent_cache import at_once
from ..data.vision.encoder import VisionEncoder
from .counting import META, count
from .workload import FLOAT32

HELD = 12  # tensors like the tokens that a forward pass without gradients holds


@dataclass(frozen=True)
class VisionSize:
    """An encoder that is given pictures of one size."""

    weights: int  # bytes, in float32
    picture: int  # bytes that one picture takes while it is encoded
    forward: int  # operations for one picture

    def pictures(self, side: int, most: int) -> int:
        """Bytes of as many square pictures as are encoded at once, of so many.

        Args:
            side: of the pictures as they are trained on, pixels.
        """
        return self.picture * min(most, at_once((side, side)))


@functools.lru_cache(maxsize=64)
def vision_size(folder: Path, grain: int, side: int) -> VisionSize:
    """Count an encoder for square pictures.

    Args:
        folder: of the encoder.
        grain: pixels of the side of an image token.
        side: of the pictures, pixels.
    """
    encoder = VisionEncoder(folder, grain, META)
    with torch.device(META):
        model = encoder.new_model()
    tokens = side // grain
    size, options = encoder.size(tokens, tokens, model)
    seen: list[int] = []

    def run(_) -> Tensor:
        shown = torch.empty(1, encoder.config.num_channels, *size, device=META)
        made = model(pixel_values=shown, **options).last_hidden_state
        seen.append(FLOAT32 * (HELD * made.numel() + 2 * shown.numel()))
        return made

    cost = count(run, model.parameters())
    return VisionSize(sum(FLOAT32 * p.numel() for p in model.parameters()), seen[0], cost.forward)

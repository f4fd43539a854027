"""What an autoencoder takes in memory, before it is opened.

Per pixel of all pictures that are computed at once: of the tiny one four tensors of its full
resolution; of diffusers' AutoencoderKL with Stable Diffusion's widths as measured on a CPU at 256
and 512 pixels: 2,600 to 2,750 bytes encoding and 3,900 to 4,200 decoding in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lidit_core.model.vae import WIDTH

from ..data.latent_cache import BATCH, at_once
from .workload import FLOAT32, StageLoad

TINY_WEIGHTS = 1_230_000  # numbers in either half
KL_WEIGHTS = 83_653_863  # numbers in both halves, which are loaded together


@dataclass(frozen=True)
class AutoencoderSize:
    """Bytes of the weights, and of each pixel that is encoded or decoded."""

    weights: int
    encoding: float
    decoding: float

    def pictures(self, side: int, count: int, decoded: bool = False) -> int:
        """Of square pictures that are encoded, as many at once as is done, or decoded."""
        each = self.decoding if decoded else self.encoding
        return round(each * min(count, at_once((side, side))) * side * side)

    def filling(self, loads: Sequence[StageLoad]) -> dict[str, int]:
        """Bytes while the latents of all stages are computed, before the model is there."""
        most = max(self.pictures(load.side, BATCH) for load in loads)
        return {"autoencoder": self.weights, "pictures being encoded": most}


def autoencoder_size(large: bool, half: bool) -> AutoencoderSize:
    """Args: large: diffusers' AutoencoderKL. half: in bf16, which the tiny one never is."""
    if not large:
        each = 4 * FLOAT32 * WIDTH
        return AutoencoderSize(FLOAT32 * TINY_WEIGHTS, each, each)
    part = 0.5 if half else 1.0
    return AutoencoderSize(round(FLOAT32 * KL_WEIGHTS * part), 2700 * part, 4100 * part)

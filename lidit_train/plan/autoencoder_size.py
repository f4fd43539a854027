"""What an autoencoder takes, before it is opened: memory, and operations of its encoder.

Per pixel of all pictures that are computed at once: of the tiny one four tensors of its full
resolution; of diffusers' AutoencoderKL with Stable Diffusion's widths as measured on a CPU at 256
and 512 pixels: 2,600 to 2,750 bytes encoding and 3,900 to 4,200 decoding in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lidit_core.checkpoints.lidit import load_vae
from lidit_core.errors import LiDiTError
from lidit_core.model.config import LatentFormat
from lidit_core.model.vae import CHANNELS, WIDTH, ResidualBlock
from lidit_core.paths import at_home

from ..data.autoencoders.find import find_autoencoder
from ..data.latent_cache import BATCH, at_once
from .workload import FLOAT32, StageLoad

TINY_WEIGHTS = 1_230_000  # numbers in either half
BLOCKS = (1, 3, 3, 3)  # of the tiny encoder at each resolution, the whole one first
KL_WEIGHTS = 83_653_863  # numbers in both halves, which are loaded together
KL_OPERATIONS, KL_ATTENTION = 4_128_642, 0.5  # of a pixel, and for each other one, encoding


@dataclass(frozen=True)
class AutoencoderSize:
    """Bytes of the weights, and what a pixel takes that is encoded or decoded."""

    weights: int
    encoding: float  # bytes
    decoding: float  # bytes
    operations: float  # to encode it
    attention: float = 0.0  # the same for each pixel of its picture

    def pictures(self, side: int, count: int, decoded: bool = False) -> int:
        """The bytes of square pictures, encoded as many at once as is done, or decoded."""
        each = self.decoding if decoded else self.encoding
        return round(each * min(count, at_once((side, side))) * side * side)

    def flops(self, side: int) -> int:
        """Operations that encode a square picture."""
        pixels = side * side
        return round(pixels * (self.operations + self.attention * pixels))

    def filling(self, loads: Sequence[StageLoad]) -> dict[str, int]:
        """Bytes while the latents of all stages are computed, before the model is there."""
        most = max(self.pictures(load.side, BATCH) for load in loads)
        return {"autoencoder": self.weights, "pictures being encoded": most}


def autoencoder_size(large: bool, half: bool, blocks: Sequence[int] = BLOCKS) -> AutoencoderSize:
    """Reckon the size of an autoencoder.

    Args:
        large: diffusers' AutoencoderKL.
        half: in bf16, which the tiny one never is.
        blocks: of the tiny one's encoder, those that are computed at each resolution.
    """
    if not large:
        each = 4 * FLOAT32 * WIDTH
        return AutoencoderSize(FLOAT32 * TINY_WEIGHTS, each, each, _tiny_operations(blocks))
    part = 0.5 if half else 1.0
    weights = round(FLOAT32 * KL_WEIGHTS * part)
    return AutoencoderSize(weights, 2700 * part, 4100 * part, KL_OPERATIONS, KL_ATTENTION)


def recipe_autoencoder(
    name: str, latent: LatentFormat, checkpoint: Path | None, half: bool
) -> AutoencoderSize:
    """Reckon the size of the autoencoder a recipe names; one not there yet has every block."""
    try:
        file = find_autoencoder(name, latent, checkpoint)
        large = file.path.is_dir() or file.prefix is not None
        blocks = BLOCKS if large else computed_blocks(file.path)
    except LiDiTError:  # a run will say so
        return autoencoder_size(at_home(name).is_dir(), half)
    return autoencoder_size(large, half, blocks)


def computed_blocks(path: Path) -> tuple[int, ...]:
    """How many blocks of a tiny encoder are computed at each resolution; zeros are skipped."""
    blocks = [b for b in load_vae(path).taesd_encoder.modules() if isinstance(b, ResidualBlock)]
    levels = (blocks[sum(BLOCKS[:n]) : sum(BLOCKS[: n + 1])] for n in range(len(BLOCKS)))
    return tuple(sum(not block.bypassed for block in level) for level in levels)


def _tiny_operations(blocks: Sequence[int]) -> float:
    """The operations of a pixel: 3x3 convolutions, three a block, one before each lower level."""
    conv = 2 * 9 * WIDTH
    operations = conv * (3 + 3 * WIDTH * blocks[0]) + conv * CHANNELS / 4 ** (len(blocks) - 1)
    deeper = (conv * WIDTH * (1 + 3 * n) / 4**level for level, n in enumerate(blocks) if level)
    return operations + sum(deeper)

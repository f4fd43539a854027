"""What may befall a drawn scene before it is scored, and how many strong edges it keeps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter

from lidit_core.errors import check
from lidit_core.io.pictures import to_pixels
from lidit_core.model.vae import DOWNSAMPLING, TinyAutoencoder

STRONG = 90  # of 255: a difference of neighbouring pixels, in any channel, that is a strong edge

Alter = Callable[[np.ndarray], np.ndarray]


def blurred(sigma: float) -> Alter:
    """Gaussian blur of a picture, sigma in pixels."""
    return lambda p: np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(sigma)))


def noisy(sigma: float, seed: int = 0) -> Alter:
    """Gaussian noise, sigma in 8-bit steps."""
    rng = np.random.default_rng(seed)
    return lambda p: np.clip(p + rng.normal(0, sigma, p.shape), 0, 255).astype(np.uint8)


@torch.no_grad()
def reconstruct(vae: TinyAutoencoder, picture: np.ndarray) -> np.ndarray:
    """Send a picture (S, S, 3) uint8 through the autoencoder and back.

    Raises:
        LiDiTError: S is no multiple of a latent pixel's side.
    """
    side = len(picture)
    check(
        side % DOWNSAMPLING == 0,
        f"a picture of {side} pixels goes through no autoencoder; expected a multiple of "
        f"{DOWNSAMPLING}",
    )
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    return to_pixels(vae.decode(vae.encode(pixels)))[0].numpy()


def strong_edges(picture: np.ndarray) -> np.ndarray:
    """Mark where (S, S, 3) uint8 changes strongly to the right or down: (S - 1, S - 1) bool."""
    signed = picture.astype(np.int16)
    down = np.abs(np.diff(signed, axis=0))[:, :-1].max(axis=2)
    right = np.abs(np.diff(signed, axis=1))[:-1].max(axis=2)
    return np.maximum(down, right) > STRONG

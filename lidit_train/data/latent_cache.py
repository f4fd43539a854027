"""Latents of all pictures, computed once and kept in pieces; what cannot be read is marked.

A piece is named after all that its latents depend on, so a changed picture, shape or autoencoder
never meets an old piece, and work that was interrupted goes on with the first piece that lacks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import write_safetensors

from .buckets import fit
from .schedule import StageBuckets
from .sources import PictureSource

log = logging.getLogger(__name__)

PIECE = 512  # pictures in a file
BATCH = 32  # pictures encoded at once
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises
Encode = Callable[[Tensor], Tensor]  # (B, 3, H, W) in [0, 1] -> latents (B, C, h, w)


def read_picture(source: PictureSource, index: int, size: tuple[int, int]) -> Tensor | None:
    """(3, H, W) uint8 at the size of its bucket, (width, height); None if it cannot be decoded."""
    try:
        picture = fit(source.picture(index, size), size)
    except UNREADABLE:
        return None
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)


def as_pixels(pictures: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) to float32 in [0, 1]."""
    return (pictures.float() / 255).contiguous(memory_format=torch.channels_last)


class LatentCache:
    """The latents of every picture of every stage.

    Args:
        vae: what tells the autoencoder from others.
        dtype: torch's, in which latents are kept.
    """

    def __init__(self, folder: Path, vae: str, dtype: torch.dtype) -> None:
        self.folder, self.vae, self.dtype = folder, vae, dtype
        self._place: dict[tuple[int, int, tuple[int, int]], tuple[Path, int]] = {}

    def prepare(
        self,
        sources: Sequence[PictureSource],
        stages: Sequence[StageBuckets],
        encode: Encode,
        share: slice = slice(None),
    ) -> None:
        """Compute this process's share of the pieces that lack."""
        pieces = list(self._pieces(sources, stages))
        absent = [piece for piece in pieces[share] if not piece[0].is_file()]
        for done, (path, source, indices, size) in enumerate(absent, start=1):
            write_safetensors(path, self._compute(sources[source], indices, size, encode), {})
            log.info("latents: %d of %d pieces", done, len(absent))

    def _pieces(self, sources, stages) -> Iterator[tuple[Path, int, np.ndarray, tuple[int, int]]]:
        """Every piece: its file, source, pictures and their size; each picture finds its place."""
        for stage in stages:
            for number, buckets in enumerate(stage.members):
                for size, members in zip(stage.sizes, buckets):
                    for first in range(0, len(members), PIECE):
                        indices = members[first : first + PIECE]
                        path = self._path(sources[number], indices, size)
                        for row, index in enumerate(indices):
                            self._place[number, int(index), size] = path, row
                        yield path, number, indices, size

    def _path(self, source: PictureSource, indices: np.ndarray, size: tuple[int, int]) -> Path:
        of = hashlib.sha256(f"{self.vae}\0{self.dtype}\0{size}".encode())
        for index in indices:
            of.update(b"\0" + source.key(int(index)).encode())
        return self.folder / f"{of.hexdigest()[:24]}.safetensors"

    @torch.no_grad()
    def _compute(self, source, indices, size, encode: Encode) -> dict[str, Tensor]:
        parts, good = [], []
        with ThreadPoolExecutor(4) as threads:
            for first in range(0, len(indices), BATCH):
                part = indices[first : first + BATCH]
                read = list(threads.map(lambda i: read_picture(source, int(i), size), part))
                good += [picture is not None for picture in read]
                blank = torch.zeros(3, size[1], size[0], dtype=torch.uint8)
                pictures = torch.stack([blank if p is None else p for p in read])
                parts.append(encode(as_pixels(pictures)).to("cpu", self.dtype))
        return {"latents": torch.cat(parts), "good": torch.tensor(good)}

    def read(self, source: int, index: int, size: tuple[int, int]) -> Tensor | None:
        """A picture's latents (C, h, w) float32; None if the picture could not be decoded."""
        path, row = self._place[source, index, size]
        file, good = _opened(path)
        if not good[row]:
            return None
        return file.get_slice("latents")[row : row + 1][0].float()


@lru_cache(maxsize=256)
def _opened(path: Path):
    """The file and which of its pictures are good; kept open, for batches come back to it."""
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt")
        return file, file.get_tensor("good").tolist()
    except (SafetensorError, OSError) as error:
        raise LiDiTError(
            f"the latents {path} cannot be read ({error}); delete the file and start the same "
            "command again, which computes it anew"
        ) from error

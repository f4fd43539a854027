"""Latents of all pictures, computed once and kept in pieces; what cannot be read is marked.

A piece is named after all that its latents depend on, so a changed picture, shape or autoencoder
never meets an old piece, and work that was interrupted goes on with the first piece that lacks.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import write_safetensors

from .buckets import fit
from .schedule import StageBuckets
from .sources import PictureSource

log = logging.getLogger(__name__)

PIECE = 512  # pictures in a file
BATCH = 32  # pictures encoded at once
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises
Part = tuple[int, np.ndarray, tuple[int, int]]  # of a source: indices, and their pictures' size
Encode = Callable[[Tensor], Tensor]  # (B, 3, H, W) uint8 -> latents (B, C, h, w)


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
        workers: int = 0,
    ) -> None:
        """Compute this process's share of the pieces that lack; workers read the pictures."""
        pieces = list(self._pieces(sources, stages))
        absent = [piece for piece in pieces[share] if not piece[0].is_file()]
        parts = [
            (source, indices[first : first + BATCH], size)
            for _, source, indices, size in absent
            for first in range(0, len(indices), BATCH)
        ]
        ahead = DataLoader(_Pictures(sources, parts), batch_size=None, num_workers=workers)
        read = iter(ahead)
        for done, piece in enumerate(absent, start=1):
            own = itertools.islice(read, -(-len(piece[2]) // BATCH))
            write_safetensors(piece[0], self._computed(own, encode), {})
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
    def _computed(self, read, encode: Encode) -> dict[str, Tensor]:
        parts, good = [], []
        for pictures, decoded in read:
            parts.append(encode(pictures).to("cpu", self.dtype))
            good.append(decoded)
        return {"latents": torch.cat(parts), "good": torch.cat(good)}

    def read(self, source: int, index: int, size: tuple[int, int]) -> Tensor | None:
        """A picture's latents (C, h, w) float32; None if the picture could not be decoded."""
        path, row = self._place[source, index, size]
        file, good = _opened(path)
        if not good[row]:
            return None
        return file.get_slice("latents")[row : row + 1][0].float()


class _Pictures(Dataset):
    """Pictures (n, 3, H, W) uint8 of one source, and which of them could be decoded (n,)."""

    def __init__(self, sources: Sequence[PictureSource], parts: Sequence[Part]) -> None:
        self.sources, self.parts = sources, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        source, indices, size = self.parts[number]
        with ThreadPoolExecutor(4) as threads:
            one = partial(read_picture, self.sources[source], size=size)
            read = list(threads.map(one, indices.tolist()))
        blank = torch.zeros(3, size[1], size[0], dtype=torch.uint8)
        pictures = torch.stack([blank if picture is None else picture for picture in read])
        return pictures, torch.tensor([picture is not None for picture in read])


@lru_cache(maxsize=512)
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

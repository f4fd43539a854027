"""Latents of all pictures, computed once and kept in pieces; what cannot be read is marked.

The pictures of a bucket are taken 512 at a time. Such a chunk is named after all that its latents
depend on, pictures by their path, size and time of change, so that a start over the same data looks
into no picture. A chunk of a new name is looked for picture by picture, each by its bytes: what is
known, wherever it lies and whenever it was copied, is not encoded again. A chunk is thus a piece of
its own, or a list of places in pieces.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lidit_core.errors import LiDiTError
from lidit_core.io.atomic import replacing
from lidit_core.io.tensors import opened, write_safetensors

from .buckets import fit
from .schedule import StageBuckets
from .sources import PictureSource
from .sources.masks import Size
from .workers import ignore_interrupts

log = logging.getLogger(__name__)

PIECE = 512  # pictures in a chunk
BATCH = 32  # pictures encoded at once, at most
AREA = BATCH * 256 * 256  # pixels encoded at once, at most
MASKS = "masks"  # (N, h, w) uint8 in a piece of a source that has masks
KEYS = "keys"  # in a piece's metadata: of each of its pictures
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises
SourceBucket = tuple[int, np.ndarray, Size]  # of a source: indices, and their pictures' size
PieceRow = tuple[str, int]  # a piece's file, and the row in it
EncodePictures = Callable[[Tensor], Tensor]  # (B, 3, H, W) uint8 -> latents (B, C, h, w)


def read_picture(source: PictureSource, index: int, size: Size) -> Tensor | None:
    """Read a picture at the size of its bucket: (3, H, W) uint8; None if it cannot be decoded.

    Args:
        size: (width, height).
    """
    try:
        picture = fit(source.picture(index, size), size)
    except UNREADABLE:
        return None
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)


def read_mask(source: PictureSource, index: int, size: Size) -> Tensor | None:
    """Read what the loss counts of `read_picture`: (H, W) uint8; None if it cannot be decoded.

    A mask is scaled and cut as its picture is, by means of areas: nothing in it overshoots.
    """
    try:
        mask = source.mask(index)
    except UNREADABLE:
        return None
    if mask is None:
        return torch.full((size[1], size[0]), 255, dtype=torch.uint8)
    width, height = source.sizes[index].tolist()
    if mask.size != (width, height):
        mask = mask.resize((width, height), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(fit(mask, size, Image.Resampling.BOX)).copy())


def on_latents(masks: Tensor, shape: Sequence[int]) -> Tensor:
    """Means of masks (B, H, W) over what each latent pixel covers: (B, h, w) uint8."""
    return F.adaptive_avg_pool2d(masks[:, None].float(), (shape[0], shape[1]))[:, 0].round().byte()


def at_once(size: Size) -> int:
    """Pictures of this width and height that an autoencoder is given together."""
    return max(1, min(BATCH, AREA // (size[0] * size[1])))


@dataclass(frozen=True, eq=False)
class Chunk:
    """Up to 512 pictures of one source and one bucket."""

    name: str
    source: int
    indices: np.ndarray
    size: Size


class LatentCache:
    """The latents of every picture of every stage.

    Args:
        vae: what tells the autoencoder from others.
        dtype: torch's, in which latents are kept.
    """

    def __init__(self, folder: Path, vae: str, dtype: torch.dtype) -> None:
        self.folder, self.vae, self.dtype = folder, vae, dtype
        self._rows: dict[tuple[int, int, Size], tuple[str, int]] = {}  # chunk, and row in it
        self._lists: dict[str, list[PieceRow] | None] = {}  # of chunks that have no own piece

    def prepare(
        self,
        sources: Sequence[PictureSource],
        stages: Sequence[StageBuckets],
        encode: EncodePictures,
        share: slice = slice(None),
        workers: int = 0,
    ) -> None:
        """Compute this process's share of what lacks; workers read the pictures."""
        self._lists.clear()
        absent = [c for c in self.chunks(sources, stages)[share] if self._places(c.name) is None]
        known = self._known() if absent else {}
        found = [self._found(sources, chunk, known) for chunk in absent]
        missing = [
            chunk.indices[[place is None for place in places]]
            for chunk, places in zip(absent, found)
        ]
        parts = [
            (chunk.source, part, chunk.size)
            for chunk, indices in zip(absent, missing)
            for part in _batches(indices, chunk.size)
        ]
        read = iter(
            DataLoader(
                _Pictures(sources, parts),
                batch_size=None,
                num_workers=workers,
                worker_init_fn=ignore_interrupts,
            )
        )
        for done, (chunk, places, indices) in enumerate(zip(absent, found, missing), start=1):
            own = itertools.islice(read, -(-len(indices) // at_once(chunk.size)))
            self._write(chunk, places, len(indices), own, encode)
            log.info("latents: %d of %d pieces", done, len(absent))

    def chunks(
        self, sources: Sequence[PictureSource], stages: Sequence[StageBuckets]
    ) -> list[Chunk]:
        """Every chunk; each picture finds its place."""
        found = []
        for stage in stages:
            for number, buckets in enumerate(stage.members):
                for size, members in zip(stage.sizes, buckets):
                    for first in range(0, len(members), PIECE):
                        indices = members[first : first + PIECE]
                        name = self._name(sources[number], indices, size)
                        chunk = Chunk(name, number, indices, size)
                        for row, index in enumerate(indices):
                            self._rows[number, int(index), size] = chunk.name, row
                        found.append(chunk)
        return found

    def _name(self, source: PictureSource, indices: np.ndarray, size: Size) -> str:
        of = hashlib.sha256(f"{self.vae}\0{self.dtype}\0{size}".encode())
        for index in indices:
            of.update(b"\0" + source.key(int(index)).encode())
        return of.hexdigest()[:24]

    def _places(self, name: str) -> list[PieceRow] | None:
        """The places of a chunk's pictures, if all of them are there; [] = in its own piece."""
        if self._piece(name).is_file():
            return []
        places = _listed(self.folder / f"{name}.json")
        if places is None or not all((self.folder / f).is_file() for f in {f for f, _ in places}):
            return None
        return places

    def _piece(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _known(self) -> dict[str, PieceRow]:
        """Every picture of which the folder has latents, by its bytes, if its piece says that."""
        known = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with opened(path) as file:
                    keys = json.loads((file.metadata() or {}).get(KEYS, "[]"))
            except (LiDiTError, ValueError):  # a broken piece is told of when it is read
                continue
            known |= {key: (path.name, row) for row, key in enumerate(keys)}
        return known

    def _found(self, sources, chunk: Chunk, known: dict[str, PieceRow]) -> list[PieceRow | None]:
        if not known:
            return [None] * len(chunk.indices)
        return [
            known.get(self._key(key, chunk.size)) for key in _keys(sources[chunk.source], chunk)
        ]

    def _key(self, picture: str, size: Size) -> str:
        of = f"{self.vae}\0{self.dtype}\0{size}\0{picture}"
        return hashlib.sha256(of.encode()).hexdigest()[:32]

    @torch.no_grad()
    def _write(self, chunk: Chunk, places: list[PieceRow | None], count: int, read, encode) -> None:
        """Write a piece of what was read, and a list where some of the chunk lies elsewhere."""
        parts, masks, good, keys = [], [], [], []
        for pictures, read_masks, decoded, own in read:
            parts.append(encode(pictures).to("cpu", self.dtype))
            if read_masks is not None:
                masks.append(on_latents(read_masks, parts[-1].shape[-2:]))
            good.append(decoded)
            keys += [self._key(key, chunk.size) for key in own]
        whole = count == len(places)
        name = chunk.name if whole else hashlib.sha256("".join(keys).encode()).hexdigest()[:24]
        path = self._piece(name)
        if count:
            tensors = {"latents": torch.cat(parts), "good": torch.cat(good)}
            if masks:
                tensors[MASKS] = torch.cat(masks)
            write_safetensors(path, tensors, {KEYS: json.dumps(keys)})
        if not whole:
            rows = iter(range(count))
            listed = [place or (path.name, next(rows)) for place in places]
            with replacing(self.folder / f"{chunk.name}.json") as beside:
                beside.write_text(json.dumps(listed))

    def broken(self, stages: Sequence[StageBuckets]) -> set[tuple[int, int]]:
        """Source and place of each picture of these stages that could not be decoded."""
        members = (
            (number, int(index), size)
            for stage in stages
            for number, buckets in enumerate(stage.members)
            for size, numbers in zip(stage.sizes, buckets)
            for index in numbers
        )
        found = ((place, self._place(*place)) for place in members)
        return {(source, index) for (source, index, _), (_, good, row) in found if not good[row]}

    def read(self, source: int, index: int, size: Size) -> Tensor | None:
        """A picture's latents (C, h, w) float32; None if the picture could not be decoded."""
        held, good, row = self._place(source, index, size)
        return held.get_slice("latents")[row : row + 1][0].float() if good[row] else None

    def read_mask(self, source: int, index: int, size: Size) -> Tensor:
        """What the loss counts of a picture that could be decoded, (h, w) uint8."""
        held, _, row = self._place(source, index, size)
        return held.get_slice(MASKS)[row : row + 1][0]

    def _place(self, source: int, index: int, size: Size):
        """The piece with a picture, which of that piece's pictures are good, and its row there."""
        name, row = self._rows[source, index, size]
        if name not in self._lists:
            self._lists[name] = None if self._piece(name).is_file() else self._places(name)
        places = self._lists[name]
        file, row = (f"{name}.safetensors", row) if places is None else places[row]
        return *_opened(self.folder / file), row

    def unused(
        self, sources: Sequence[PictureSource], stages: Sequence[StageBuckets]
    ) -> list[Path]:
        """The folder's files that hold no latents of these pictures."""
        used = set()
        for chunk in self.chunks(sources, stages):
            places = self._places(chunk.name) or []
            used |= {file for file, _ in places}
            used.add(f"{chunk.name}.{'json' if places else 'safetensors'}")
        files = (p for end in ("safetensors", "json") for p in self.folder.glob(f"*.{end}"))
        return sorted(path for path in files if path.name not in used)


def _batches(indices: np.ndarray, size: Size) -> Iterator[np.ndarray]:
    step = at_once(size)
    yield from (indices[first : first + step] for first in range(0, len(indices), step))


def _keys(source: PictureSource, chunk: Chunk) -> list[str]:
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(partial(_content_key, source), chunk.indices.tolist()))


def _content_key(source: PictureSource, index: int) -> str:
    """A picture's key by its bytes, or by what is known of a file that cannot be read just now."""
    try:
        return source.content_key(index)
    except OSError:
        return f"unreadable {source.key(index)}"


class _Pictures(Dataset):
    """Pictures (n, 3, H, W) uint8 of one source, their masks (n, H, W) uint8 where it has some,
    which of both could be decoded (n,), and their keys."""

    def __init__(self, sources: Sequence[PictureSource], parts: Sequence[SourceBucket]) -> None:
        self.sources, self.parts = sources, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor | None, Tensor, list[str]]:
        place, indices, size = self.parts[number]
        source = self.sources[place]
        with ThreadPoolExecutor(4) as threads:
            read = list(threads.map(partial(read_picture, source, size=size), indices.tolist()))
            keys = list(threads.map(partial(_content_key, source), indices.tolist()))
        blank = torch.zeros(3, size[1], size[0], dtype=torch.uint8)
        pictures = torch.stack([blank if picture is None else picture for picture in read])
        good = torch.tensor([picture is not None for picture in read])
        if not source.masked:
            return pictures, None, good, keys
        masks = [read_mask(source, index, size) for index in indices.tolist()]
        good &= torch.tensor([mask is not None for mask in masks])
        return pictures, torch.stack([blank[0] if m is None else m for m in masks]), good, keys


def _listed(path: Path) -> list[PieceRow] | None:
    """A chunk's list of places; None where there is no list, or a broken one."""
    try:
        return [(str(file), int(row)) for file, row in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return None


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

"""The cache of latents: what is encoded again, how much at once, and when memory is full.

Run: pytest tests/train/data/test_latent_cache.py
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_llm import save_llm

from lidit_core.errors import LiDiTError
from lidit_core.text.spec import LLMSpec
from lidit_core.text.templates import find_template
from lidit_train.data.caption_states import CaptionReader
from lidit_train.data.latent_cache import AREA, LatentCache, at_once
from lidit_train.data.schedule import StageBuckets
from lidit_train.data.sources.folder import FolderSource
from lidit_train.memory import InParts, is_full
from lidit_train.recipe import Data, Source

SIZE = (32, 32)


def write_pictures(folder: Path, names: range) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n in names:
        Image.fromarray(np.full((40, 40, 3), n, np.uint8)).save(folder / f"{n:03}.png")
        (folder / f"{n:03}.txt").write_text(f"picture {n}")
    return folder


class Encoder:
    """Means of pictures; it counts what it is given."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        self.seen += [int(p[0, 0, 0]) for p in pictures]
        return pictures.float().mean((2, 3), keepdim=True)


def filled(folder: Path, pictures: Path, vae: str = "vae") -> tuple[list[int], LatentCache]:
    """What was encoded, and the cache, in which every picture is found as it is."""
    source = FolderSource(Source("folder", str(pictures)), Data(sources=(Source("folder", "."),)))
    stage = StageBuckets((SIZE,), ((np.arange(len(source)),),))
    cache, encoder = LatentCache(folder, vae, torch.float32), Encoder()
    cache.prepare([source], [stage], encoder)
    for index in range(len(source)):
        shown = np.asarray(source.picture(index, SIZE))[0, 0, 0]
        assert cache.read(0, index, SIZE).flatten()[0] == shown
    cache.gone = cache.unused([source], [stage])
    return encoder.seen, cache


def test_one_more_picture_is_one_more_that_is_encoded(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", range(10, 30))
    assert len(filled(tmp_path / "cache", pictures)[0]) == 20
    assert filled(tmp_path / "cache", pictures)[0] == []
    write_pictures(pictures, range(5, 6))  # before all others, which move by one
    assert filled(tmp_path / "cache", pictures)[0] == [5]
    (pictures / "020.png").unlink()
    assert filled(tmp_path / "cache", pictures)[0] == []
    Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save(pictures / "015.png")
    assert filled(tmp_path / "cache", pictures)[0] == [99]
    assert len(filled(tmp_path / "cache", pictures, "another")[0]) == 20


def test_a_data_set_that_was_copied_or_renamed_is_the_same(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", range(10, 20))
    filled(tmp_path / "cache", pictures)
    copied = shutil.copytree(pictures, tmp_path / "copied")
    for path in copied.iterdir():
        os.utime(path, (1, 1))
        path.rename(path.with_name("x" + path.name))
    assert filled(tmp_path / "cache", copied)[0] == []


def test_a_cache_of_before_is_read_as_it_is(tmp_path):
    """Its pieces have the same names and say nothing of their pictures."""
    pictures = write_pictures(tmp_path / "pictures", range(10, 20))
    filled(tmp_path / "cache", pictures)
    (piece,) = (tmp_path / "cache").iterdir()
    save_file(load_file(piece), piece)  # without the metadata
    assert filled(tmp_path / "cache", pictures)[0] == []
    write_pictures(pictures, range(20, 21))
    assert len(filled(tmp_path / "cache", pictures)[0]) == 11


def test_a_piece_that_is_gone_is_computed_again(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", range(10, 20))
    filled(tmp_path / "cache", pictures)
    write_pictures(pictures, range(20, 21))
    filled(tmp_path / "cache", pictures)
    (listed,) = (tmp_path / "cache").glob("*.json")
    gone = json.loads(listed.read_text())[0][0]
    (tmp_path / "cache" / gone).unlink()
    assert len(filled(tmp_path / "cache", pictures)[0]) == 10


def test_what_no_picture_needs_is_named(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", range(10, 20))
    assert filled(tmp_path / "cache", pictures)[1].gone == []
    (first,) = (tmp_path / "cache").iterdir()
    write_pictures(pictures, range(20, 21))
    assert filled(tmp_path / "cache", pictures)[1].gone == []  # the first piece is read still
    for n in range(10, 20):
        (pictures / f"{n:03}.png").unlink()
    gone = filled(tmp_path / "cache", pictures)[1].gone
    assert first in gone and len(gone) == 2  # and the list of before


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (512, 512), (1024, 1024), (8192, 8192)])
def test_as_many_pictures_are_encoded_at_once_as_their_area_allows(size):
    assert 1 <= at_once(size) <= 32
    assert at_once(size) == 1 or at_once(size) * size[0] * size[1] <= AREA


def too_much_above(rows: int):
    """Fails as a device does that is asked for more than it has, by asking for that."""

    def run(batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > rows:
            torch.empty(1 << 60)
        return batch.float().mean((1, 2, 3))

    return run


def test_memory_that_is_full_is_met_with_halves_and_then_a_sentence():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert is_full(error.value)
    batch = torch.rand(13, 3, 4, 4)
    for rows in (1, 2, 5, 13):
        in_parts = InParts(too_much_above(rows), "lower it")
        assert torch.equal(in_parts(batch), batch.mean((1, 2, 3)))
        assert torch.equal(in_parts(batch, most=4), batch.mean((1, 2, 3)))
    with pytest.raises(LiDiTError, match="full with one picture, of 3 x 4 x 4 numbers; lower it"):
        InParts(too_much_above(0), "lower it")(batch)
    with pytest.raises(RuntimeError, match="another fault"):
        InParts(broken, "lower it")(batch)


def broken(batch: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("another fault")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked for it")
def test_what_a_closed_model_took_goes_back_to_the_machine(tmp_path):
    """Its weights lie below something that is held still, as caches and readers do."""
    spec = LLMSpec("tiny", 32, template=find_template("short"), token_budget=24)
    reader = CaptionReader(spec, tmp_path / "cache", llm=str(save_llm(tmp_path / "tiny")))
    reader.many = [torch.zeros(20_000) for _ in range(2000)]  # 160 MB in pieces that malloc keeps
    above = torch.zeros(20_000)
    before = resident()
    reader.many.clear()
    kept = before - resident()
    reader.unload()
    assert before - resident() > 100e6 > kept, above


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

"""Masks of pictures, from their files to the loss. Run: pytest tests/train/data/test_masks.py"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_pictures import data_of, plain, saved, turned, write, write_tar
from PIL import Image
from tiny_training import curve, fields, make_world, pictures, run

from lidit_core.errors import LiDiTError
from lidit_train.batch import Batch
from lidit_train.data.latent_cache import LatentCache, read_mask, read_picture
from lidit_train.data.schedule import StageBuckets
from lidit_train.data.sources.open import open_source
from lidit_train.recipe import ERRORS, WEIGHTINGS, Loss, Source
from lidit_train.recipe_file import read_recipe
from lidit_train.tasks.denoising import Denoised, denoise

SIZES = ((32, 32), (64, 32), (32, 64), (48, 32))


def halves(width: int = 90, height: int = 60, scale: float = 1.0) -> Image.Image:
    """Grey: white on the left two fifths, black on the right; a white bar on top."""
    mask = Image.new("L", (round(width * scale), round(height * scale)))
    mask.paste(255, (0, 0, round(mask.width * 0.4), mask.height))
    mask.paste(255, (0, 0, mask.width, round(mask.height * 0.2)))
    return mask


def shown(mask: Image.Image, alpha: bool) -> Image.Image:
    """A picture that shows its mask: white where it counts."""
    picture = Image.merge("RGB", [mask] * 3)
    if alpha:
        picture.putalpha(mask)
    return picture


def world(kind: str, path: Path, mask: str) -> Source:
    """Three pictures that look like their masks, which are in files of half or twice the size."""
    files, rows = {}, []
    for n, (width, height) in enumerate([(90, 60), (64, 64), (50, 120)]):
        name, white = f"{n}", halves(width, height)
        files[f"{name}.png"] = saved(shown(white, mask == "alpha"))
        files[f"{name}.txt"] = f"picture {n}"
        if mask != "alpha":
            beside = f"{name}{mask}" if mask[0] == "-" else f"{name}.mask.png"
            files[beside] = saved(halves(width, height, (0.5, 2, 1)[n]))
            rows.append({"file_name": f"{name}.png", "text": "x", "mask": beside})
        else:
            rows.append({"file_name": f"{name}.png", "text": "x"})
    if kind == "shards":
        return Source(kind, str(write_tar(path / "a.tar", files)), mask=mask)
    write(path, files | {"t.jsonl": "\n".join(map(json.dumps, rows))})
    return Source(kind, str(path if kind == "folder" else path / "t.jsonl"), mask=mask)


def opened(source: Source, path: Path):
    return open_source(source, data_of(source, smallest=8), path / "index")


WAYS = [
    ("folder", "alpha"),
    ("folder", "mask.png"),
    ("folder", "-masklabel.png"),
    ("table", "alpha"),
    ("table", "mask"),
    ("shards", "alpha"),
    ("shards", "mask.png"),
]


@pytest.mark.parametrize(("kind", "mask"), WAYS)
def test_a_mask_is_scaled_and_cut_as_its_picture_is(tmp_path, kind, mask):
    source = opened(world(kind, tmp_path / "in", mask), tmp_path)
    assert len(source.sizes) == 3 and not source.left_out.counts  # a mask is no picture itself
    for index in range(3):
        for size in SIZES:
            seen = read_picture(source, index, size)[0].float()
            counted = read_mask(source, index, size).float()
            assert counted.shape == (size[1], size[0]) and 20 < counted.mean() < 235
            if mask == "alpha":  # on white, a transparent picture is white everywhere
                seen = torch.tensor(np.asarray(halves(*source.sizes[index]))).float()
                seen = seen if seen.shape == counted.shape else None
            if seen is not None:  # but for edges, which are sharpened in a picture
                assert ((seen - counted).abs() < 60).float().mean() > 0.9


def test_a_picture_that_is_turned_upright_has_its_mask_upright(tmp_path):
    """The mask is of the upright picture: white where that is red, at its top."""
    upright = Image.new("L", (40, 64))
    upright.paste(255, (0, 0, 40, 32))
    write(tmp_path, {"a.jpg": turned(6), "a.txt": "a", "a.mask.png": saved(upright)})
    source = opened(Source("folder", str(tmp_path), mask="mask.png"), tmp_path)
    picture, mask = (read(source, 0, (32, 48)) for read in (read_picture, read_mask))
    red = picture[0].float() - picture[2].float() > 0
    assert ((mask > 127) == red).float().mean() > 0.95


@pytest.mark.parametrize("kind", ("folder", "shards", "table"))
def test_masks_that_are_not_there_or_do_not_fit_are_told(tmp_path, kind):
    files, rows = {}, []
    masks = {
        "good": saved(halves()),
        "none": None,
        "unlike": saved(Image.new("L", (60, 60))),
        "broken": b"no picture",
    }
    for name, mask in masks.items():
        files |= {f"{name}.png": plain(90, 60), f"{name}.txt": name}
        rows.append({"file_name": f"{name}.png", "text": name, "mask": f"{name}.mask.png"})
        if mask:
            files[f"{name}.mask.png"] = mask
    if kind == "shards":
        path = write_tar(tmp_path / "in" / "a.tar", files)
    else:
        path = write(tmp_path / "in", files | {"t.jsonl": "\n".join(map(json.dumps, rows))})
    path = path / "t.jsonl" if kind == "table" else path
    mask = "mask" if kind == "table" else "mask.png"
    source = opened(Source(kind, str(path), mask=mask), tmp_path)
    assert sorted(source.captions(i)[0][0] for i in range(len(source.sizes))) == ["good", "none"]
    assert source.left_out.counts == {
        "has a mask of another shape": 1,
        "has a mask that cannot be read": 1,
        "has no mask, so that the loss counts all of it": 1,
    }
    (told,) = [s for s in source.left_out.sentences() if "has no mask" in s]
    assert told.startswith("1 picture: has no mask") and "none" in told
    (without,) = [i for i in range(2) if source.captions(i)[0][0] == "none"]
    assert read_mask(source, without, (32, 32)).tolist() == [[255] * 32] * 32


@pytest.mark.parametrize("kind", ("folder", "shards"))
def test_a_picture_without_an_alpha_channel_is_told(tmp_path, kind):
    files = {"a.png": saved(shown(halves(), True)), "a.txt": "a", "b.png": plain(), "b.txt": "b"}
    path = tmp_path / "in"
    path = write(path, files) if kind == "folder" else write_tar(path / "a.tar", files)
    source = opened(Source(kind, str(path), mask="alpha"), tmp_path)
    assert source.left_out.counts == {"has no mask, so that the loss counts all of it": 1}
    assert read_mask(source, 1, (32, 32)).min() == 255 > read_mask(source, 0, (32, 32)).min()


class Encoder:
    """Means of parts of pictures; it counts what it is given."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        self.seen += len(given)
        return torch.nn.functional.avg_pool2d(given.float(), 8)


def filled(path: Path, folder: Path) -> tuple[int, torch.Tensor]:
    """How many pictures were encoded, and the masks that the cache gives, (N, h, w)."""
    source = opened(Source("folder", str(folder), mask="mask.png"), path)
    stage = StageBuckets(((32, 32),), ((np.arange(len(source.sizes)),),))
    cache, encoder = LatentCache(path / "cache", "vae", torch.float32), Encoder()
    cache.prepare([source], [stage], encoder)
    masks = [cache.read_mask(0, i, (32, 32)) for i in range(len(source.sizes))]
    return encoder.seen, torch.stack(masks)


def test_the_cache_knows_masks_by_their_bytes(tmp_path):
    folder = tmp_path / "in"
    world("folder", folder, "mask.png")
    count, masks = filled(tmp_path, folder)
    assert count == 3 and masks.shape == (3, 4, 4)
    assert filled(tmp_path, folder)[0] == 0
    copied = shutil.copytree(folder, tmp_path / "copied")
    for path in copied.iterdir():
        os.utime(path, (1, 1))
    assert filled(tmp_path, copied)[0] == 0
    Image.new("L", (64, 64), 255).save(folder / "1.mask.png")
    count, changed = filled(tmp_path, folder)
    assert count == 1 and changed[1].min() == 255
    assert changed[0].equal(masks[0]) and not masks[1].min() == 255


def masked_source(folder: Path, grey: int, **more) -> dict:
    """Every picture with a mask of one grey."""
    for file in (folder / "pictures").glob("??.png"):
        Image.new("L", (48, 48), grey).save(file.with_suffix(".mask.png"))
    return {"sources": [{"kind": "folder", "path": str(folder / "pictures"), **more}]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with an LLM, and a run without masks."""
    folder = tmp_path_factory.mktemp("masked")
    llms = make_world(folder)
    few = [{"images": 12, "batch": 4, "resolution": 32}]
    cache = {"folder": str(folder / "cache")}

    def weights(out: str, data: dict, **more) -> dict[str, torch.Tensor]:
        return run(folder, out, llms, data=data, stages=few, **{"cache": cache, **more})

    unmasked = {"sources": [{"kind": "folder", "path": str(folder / "pictures")}]}
    return folder, weights, weights("plain", unmasked)


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in curve(folder)]


def test_a_white_mask_changes_no_bit(trained):
    folder, weights, first = trained
    made = weights("white", masked_source(folder, 255, mask="mask.png"))
    assert all(made[name].equal(first[name]) for name in first)
    assert curve(folder / "white") == curve(folder / "plain")


def test_a_black_mask_teaches_nothing_but_what_outside_says(trained):
    folder, weights, first = trained
    black = masked_source(folder, 0, mask="mask.png")
    weights("black", black)
    assert losses(folder / "black") == [0, 0, 0]
    black["sources"][0]["outside"] = 1.0
    made = weights("outside", black)
    assert all(made[name].equal(first[name]) for name in first)


def test_a_grey_mask_is_a_weight_of_the_source(trained):
    """Half of white, of 255 steps; and both are the same with and without caches."""
    folder, weights, _ = trained
    grey = masked_source(folder, 51, mask="mask.png")
    weights("grey", grey)
    assert losses(folder / "grey")[0] == pytest.approx(0.2 * losses(folder / "plain")[0])
    weights("uncached", grey, cache={"latents": False})
    assert losses(folder / "uncached") == pytest.approx(losses(folder / "grey"), rel=1e-3)
    weights("weighted", masked_source(folder, 255, loss_weight=0.2, mask="mask.png"))
    assert losses(folder / "weighted") == pytest.approx(losses(folder / "grey"), rel=1e-4)


def test_pictures_for_regularisation_count_with_their_weight(trained):
    """A second source of weight 0 in the loss: the error of its pictures is none."""
    folder, weights, _ = trained
    pictures(folder / "class", 6)
    mine = {"kind": "folder", "path": str(folder / "pictures")}
    known = {"kind": "folder", "path": str(folder / "class"), "weight": 2.0}
    weights("equal", {"sources": [mine, known]})
    weights("half", {"sources": [mine, {**known, "loss_weight": 0.5}]})
    weights("none", {"sources": [mine, {**known, "loss_weight": 0.0}]})
    equal, half, none = (losses(folder / out)[0] for out in ("equal", "half", "none"))
    assert 0 < none < half < equal and half == pytest.approx((equal + none) / 2, rel=1e-4)


def test_only_what_is_counted_gives_an_error():
    x, counted = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4)
    counted[0, :2], counted[1] = 1, 0.5
    batch = Batch(x, x, torch.ones(2), {}, counted=counted)
    errors = torch.ones(2, 3, 4, 4)
    errors[0, :, 2:] = 100
    assert batch.mean(errors).tolist() == [0.5, 0.5]
    assert batch.part(slice(1, 2)).mean(errors[1:]).tolist() == [0.5]
    assert batch.mean_of_samples(torch.tensor([[2.0], [4.0]])).item() == 1.5


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("error", ERRORS)
def test_a_mask_counts_in_every_loss(error, weighting):
    g = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(2, 3, 4, 4, generator=g) for _ in range(2))
    counted = torch.zeros(2, 4, 4)
    counted[:, :2] = 0.5

    def made(other: float, counted: torch.Tensor | None) -> Denoised:
        """Of a model that is wrong by as much as is said where nothing counts."""
        batch = Batch(x, noise, torch.tensor([0.3, 0.7]), {}, counted=counted)
        wrong = torch.ones_like(x)
        wrong[:, :, 2:] = other
        return denoise("flow", batch, lambda z, t: noise - x + wrong, Loss(weighting, error=error))

    masked, whole = made(100, counted), made(0, None)
    torch.testing.assert_close(masked.losses, 0.5 * whole.losses)
    torch.testing.assert_close(masked.errors, 0.5 * whole.errors)
    assert (whole.losses > 0).all()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"outside": 0.5}, "outside=0.5 and no mask"),
        ({"mask": "m", "outside": 2}, "outside=2.0; expected 0 to 1"),
        ({"loss_weight": -1}, "loss_weight=-1.0; expected 0 or more"),
        ({"kind": "shards", "mask": "-m.png"}, "expected the extension of masks in shards"),
        ({"kind": "stickers", "path": "en", "mask": "alpha"}, "mask='alpha'.*leave it out"),
    ],
)
def test_masks_and_weights_that_mean_nothing_are_refused(tmp_path, more, told):
    source = {"kind": "folder", "path": "x", "count": 1, "distinct": 1, **more}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(fields(tmp_path, data={"sources": [source]})))
    with pytest.raises(LiDiTError, match=told):
        read_recipe(recipe)

"""Pictures in folders, and how any picture is read. Run: pytest tests/train/data/test_sources.py"""

from __future__ import annotations

import logging
import multiprocessing
import os
import warnings
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from odd_pictures import bomb, data_of, everything, noisy, plain, saved, turned, write, write_tar
from PIL import Image

from lidit_core.errors import LiDiTError
from lidit_train.data.sources.open import open_source
from lidit_train.data.sources.reading import climbs, printable, to_rgb
from lidit_train.data.sources.texts import Texts
from lidit_train.recipe import Buckets, Source

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

NO_CAPTION = "has no caption (looked for .txt, .caption, .cap and .text)"


def folder(path, captions=None, **fields):
    source = Source("folder", str(path), captions=captions or {"txt": 1.0})
    return open_source(source, data_of(source, **fields), path / "unused")


def test_a_folder_gives_pictures_sizes_and_weighted_captions_by_path(tmp_path):
    write(
        tmp_path,
        {
            "b.jpg": plain(50, 60, kind="JPEG"),
            "b.txt": " a red field\n",
            "b.long.txt": "a field, red all over",
            "a/deep/c.v1.webp": plain(70, 40, kind="WEBP"),
            "a/deep/c.v1.long.txt": "only long",
            "A.PNG": plain(33, 34),
            "A.txt": "\ufeffgrüße, 你好",
            ".hidden.png": plain(),
            ".hidden.txt": "not read",
            "notes.md": "no picture",
        },
    )
    source = folder(tmp_path, {"txt": 1.0, "long.txt": 0.5})
    assert [source.name(i) for i in range(3)] == ["A.PNG", "a/deep/c.v1.webp", "b.jpg"]
    assert source.sizes.tolist() == [[33, 34], [70, 40], [50, 60]]
    assert source.sizes.dtype == np.int32
    assert source.captions(0) == [("grüße, 你好", 1.0)]
    assert source.captions(1) == [("only long", 0.5)]
    assert source.captions(2) == [("a red field", 1.0), ("a field, red all over", 0.5)]
    for i in range(3):
        picture = source.picture(i, (0, 0))
        assert picture.mode == "RGB" and list(picture.size) == source.sizes[i].tolist()
        assert np.abs(np.asarray(picture)[5, 5] - np.array([200, 30, 60])).max() < 8
    assert source.left_out.counts == {} and source.content(0, 4, 4) is None


def test_keys_know_a_picture_again_where_the_folder_moved_but_not_after_a_change(tmp_path):
    files = {f"{n}.png": plain(40 + n, 40) for n in range(5)} | {f"{n}.txt": "x" for n in range(5)}
    one = write(tmp_path / "one", files)
    before = folder(one)
    assert everything(before) == everything(folder(one))
    keys = [before.key(i) for i in range(5)]
    assert len(set(keys)) == 5
    os.utime(one / "3.png", ns=(1, 1))
    (one / "2.txt").write_text("another caption")
    after = [folder(one).key(i) for i in range(5)]
    assert [a == b for a, b in zip(keys, after)] == [True, True, True, False, True]
    one.rename(tmp_path / "other")
    assert [folder(tmp_path / "other").key(i) for i in range(5)] == after


def test_a_spawned_worker_reads_the_same(tmp_path):
    pictures = {"a.png": plain(40, 50), "b.png": saved(noisy())}
    captions = {"a.txt": "one", "b.txt": "two"}
    write(tmp_path / "folder", {**pictures, **captions})
    lines = '{"file_name": "a.png", "txt": "one"}\n{"file_name": "b.png", "txt": "two"}\n'
    write(tmp_path / "table", {**pictures, "metadata.jsonl": lines})
    write_tar(tmp_path / "shards" / "0.tar", dict(sorted({**pictures, **captions}.items())))
    sources = [Source(kind, str(tmp_path / kind)) for kind in ("folder", "table", "shards")]
    opened = [open_source(source, data_of(source), tmp_path / "index") for source in sources]
    here = [everything(source) for source in opened]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(everything, opened)) == here
    for samples in here:
        assert [captions for _, captions, _, _ in samples] == [(("one", 1.0),), (("two", 1.0),)]
        assert samples[1][2] == (64, 64) and samples[1][3] == noisy().tobytes()


def test_what_cannot_be_used_is_left_out_by_reason_and_named(tmp_path, caplog):
    bad = {
        "bomb": bomb(50_000),  # Pillow refuses to open it
        "bomb_small": bomb(10_000),  # Pillow opens it with a warning
        "thin": plain(1, 10_000),
        "long": plain(40, 161),
        "no_picture": b"\x89PNG\r\n\x1a\n cut",
        "empty_file": b"",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n",
    }
    captions = {f"{name}.txt": "a caption" for name in bad}
    write(tmp_path, {f"{name}.png": content for name, content in bad.items()} | captions)
    write(tmp_path, {f"wordless{i}.png": plain() for i in range(4)})
    write(tmp_path, {"blank.png": plain(), "blank.txt": " \n\t", "good.png": plain(40, 160)})
    write(tmp_path, {"latin.png": plain(), "latin.txt": "grüße".encode("latin-1")})
    write(tmp_path, {"good.txt": "a caption"})
    with caplog.at_level(logging.WARNING):
        source = folder(tmp_path)
    assert [source.name(i) for i in range(len(source))] == ["good.png"]
    assert source.left_out.counts == {
        "cannot be read": 3,
        f"is larger than {Image.MAX_IMAGE_PIXELS} pixels": 2,
        "has a side shorter than 32 pixels": 1,
        "is longer than 4 times its shorter side": 1,
        "has a caption that is neither UTF-8 nor UTF-16": 1,
        "has an empty caption": 1,
        NO_CAPTION: 4,
    }
    expected = f"4 pictures left out: {NO_CAPTION} (wordless0.png, wordless1.png, wordless2.png, …)"
    assert f"{tmp_path}: {expected}" in caplog.messages and len(caplog.messages) == 7


def test_limits_are_the_recipes(tmp_path):
    write(tmp_path, {"a.png": plain(20, 90), "a.txt": "x", "b.png": plain(80, 80), "b.txt": "x"})
    assert folder(tmp_path, smallest=20, buckets=Buckets(limit=5)).sizes.tolist() == [
        [20, 90],
        [80, 80],
    ]
    assert folder(tmp_path, smallest=20).sizes.tolist() == [[80, 80]]
    assert folder(tmp_path, smallest=21, buckets=Buckets(limit=5)).sizes.tolist() == [[80, 80]]


def test_one_good_caption_is_enough(tmp_path):
    write(tmp_path, {"a.png": plain(), "a.txt": b"\xff\xfe", "a.alt": "", "a.long": "good"})
    source = folder(tmp_path, {"txt": 1.0, "alt": 2.0, "long": 3.0, "none": 4.0})
    assert source.captions(0) == [("good", 3.0)] and source.left_out.counts == {}


def test_a_caption_of_100_000_characters_is_a_caption(tmp_path):
    write(tmp_path, {"a.png": plain(), "a.txt": "ü" * 100_000})
    assert folder(tmp_path).captions(0) == [("ü" * 100_000, 1.0)]


@pytest.mark.parametrize("kind", ("PNG", "JPEG"))
def test_a_picture_cut_short_raises_when_it_is_read_and_does_not_end_the_source(tmp_path, kind):
    whole = saved(noisy(), kind)
    write(tmp_path, {"a.png": whole[: len(whole) // 2], "a.txt": "x", "b.png": whole, "b.txt": "x"})
    source = folder(tmp_path)
    assert source.sizes.tolist() == [[64, 64], [64, 64]]
    with pytest.raises(OSError, match="a.png cannot be decoded"):
        source.picture(0, (0, 0))
    assert source.picture(1, (0, 0)).size == (64, 64)


def test_a_picture_that_went_away_raises(tmp_path):
    write(tmp_path, {"a.png": plain(), "a.txt": "x"})
    source = folder(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(OSError, match="a.png"):
        source.picture(0, (0, 0))


@pytest.mark.parametrize("kind", ("JPEG", "PNG", "WEBP"))
@pytest.mark.parametrize(
    "orientation, size, red",  # where red is in the upright picture
    [
        (1, (64, 40), (10, 20)),
        (3, (64, 40), (54, 20)),
        (6, (40, 64), (20, 10)),
        (8, (40, 64), (20, 54)),
    ]
    + [
        (2, (64, 40), (54, 20)),
        (4, (64, 40), (10, 20)),
        (5, (40, 64), (20, 10)),
        (7, (40, 64), (20, 54)),
    ],
)
def test_exif_turns_both_the_size_and_the_picture(tmp_path, kind, orientation, size, red):
    write(tmp_path, {"a.jpg": turned(orientation, kind), "a.txt": "x"})
    source = folder(tmp_path)
    picture = source.picture(0, (0, 0))
    assert tuple(source.sizes[0]) == picture.size == size
    assert picture.getpixel(red)[0] > 200 and picture.getpixel(red)[2] < 60
    opposite = picture.getpixel((size[0] - 1 - red[0], size[1] - 1 - red[1]))
    assert opposite[2] > 200 and opposite[0] < 60


def test_a_broken_exif_block_is_as_none(tmp_path):
    content = saved(Image.new("RGB", (64, 40)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    write(tmp_path, {"a.jpg": content, "a.txt": "x"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = folder(tmp_path)
        assert source.sizes.tolist() == [[64, 40]] and source.picture(0, (0, 0)).size == (64, 40)


def test_the_header_alone_is_read_for_a_size(tmp_path):
    """A PNG without EXIF: Pillow's getexif would decode it, which fails for this one."""
    whole = saved(noisy(512, 512))
    write(tmp_path, {"a.png": whole[:200], "a.txt": "x"})
    assert folder(tmp_path).sizes.tolist() == [[512, 512]]


def palette_with_transparency() -> Image.Image:
    picture = Image.new("P", (40, 40), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.paste(1, (0, 0, 20, 40))
    return picture


@pytest.mark.parametrize(
    "content, left, right",
    [
        (saved(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG"), (255, 0, 0), (255, 0, 0)),
        (saved(palette_with_transparency(), transparency=0), (255, 0, 0), (255, 255, 255)),
        (saved(palette_with_transparency()), (255, 0, 0), (0, 0, 0)),
        (saved(palette_with_transparency(), "GIF", transparency=0), (255, 0, 0), (255,) * 3),
        (saved(Image.new("RGBA", (40, 40), (0, 0, 0, 0))), (255, 255, 255), (255, 255, 255)),
        (saved(Image.new("RGBA", (40, 40), (255, 0, 0, 128))), (255, 127, 127), (255, 127, 127)),
        (saved(Image.new("LA", (40, 40), (10, 255))), (10, 10, 10), (10, 10, 10)),
        (
            saved(Image.new("RGB", (40, 40), "red"), transparency=(255, 0, 0)),
            (255,) * 3,
            (255,) * 3,
        ),
        (saved(Image.fromarray(np.full((40, 40), 32896, np.uint16))), (128,) * 3, (128,) * 3),
        (saved(Image.new("1", (40, 40), 1)), (255, 255, 255), (255, 255, 255)),
        (saved(Image.new("L", (40, 40), 7), "BMP"), (7, 7, 7), (7, 7, 7)),
    ],
    ids="cmyk palette-transparent palette gif rgba half la rgb-key 16-bit 1-bit bmp".split(),
)
def test_every_mode_becomes_rgb_on_white(tmp_path, content, left, right):
    write(tmp_path, {"a.png": content, "a.txt": "x"})
    picture = folder(tmp_path).picture(0, (0, 0))
    assert picture.mode == "RGB" and picture.size == (40, 40)
    for place, expected in (((5, 20), left), ((35, 20), right)):
        assert np.abs(np.subtract(picture.getpixel(place), expected)).max() <= 2


def test_grey_of_32_bits_as_older_pillows_open_16():
    picture = Image.fromarray(np.array([[0, 257 * 50, 65535]], np.int32))
    assert picture.mode == "I"
    assert np.asarray(to_rgb(picture))[0, :, 0].tolist() == [0, 50, 255]


def test_of_a_moving_gif_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    write(tmp_path, {"a.gif": content, "a.txt": "x"})
    assert folder(tmp_path).picture(0, (0, 0)).getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize(
    "files, reason",
    [
        ({"readme.md": "nothing here"}, "none was found"),
        ({"a.png": plain(), "b.png": b""}, "has no caption.*a.png"),
        ({"a.png": plain(), "b.png": b""}, "1 picture left out: cannot be read"),
    ],
)
def test_a_folder_with_nothing_usable_is_one_sentence(tmp_path, files, reason):
    write(tmp_path, files)
    with pytest.raises(LiDiTError, match=reason) as error:
        folder(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_is_not_there_or_is_a_file_is_one_sentence(tmp_path):
    with pytest.raises(LiDiTError, match="gone is not there"):
        folder(tmp_path / "gone")
    write(tmp_path, {"file": "x"})
    with pytest.raises(LiDiTError, match="file is a file"):
        folder(tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_and_a_link_to_nowhere_are_not_waited_for(tmp_path):
    write(tmp_path, {"a.txt": "x", "b.txt": "x", "c.txt": "x", "c.png": plain()})
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    source = folder(tmp_path)
    assert source.left_out.counts == {"cannot be read": 1, "is not there": 1}


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_a_name_that_is_not_utf_8(tmp_path):
    try:
        write(tmp_path, {os.fsdecode(b"\xff\x1b.png"): plain(), os.fsdecode(b"\xff\x1b.txt"): "x"})
    except OSError:
        pytest.skip("this disk takes names in UTF-8 only")
    write(tmp_path, {os.fsdecode(b"\xfe.png"): plain()})
    source = folder(tmp_path)
    assert source.picture(0, (0, 0)).size == (48, 40) and len(source.key(0)) == 64
    assert source.left_out.names == {NO_CAPTION: ["\\udcfe.png"]}


def test_texts_hold_any_string():
    strings = ["", "plain", "你好", "\udcff", "", "x" * 100_000]
    texts = Texts.of(strings)
    assert list(texts) == strings and len(texts) == 6 and list(Texts.of([])) == []
    for wrong in (6, -1):
        with pytest.raises(IndexError):
            texts[wrong]


@pytest.mark.parametrize(
    "name", ("../x", "a/../../x", "/x", "\\x", "a\\..\\x", "C:\\x", "c:x", "", "a\0")
)
def test_names_that_climb(name):
    assert climbs(name)


@pytest.mark.parametrize("name", ("x", "a/b.png", "./a", "a..b/c..png", "...", "12:30.png"))
def test_names_that_do_not_climb(name):
    assert not climbs(name)


def test_names_are_safe_to_print():
    assert printable("a\x1b[31m\n.png") == "a\\x1b[31m\\n.png"
    assert len(printable("x" * 5000)) == 100

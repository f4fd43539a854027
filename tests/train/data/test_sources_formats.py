"""Which pictures and captions are read, and what is said of the rest.

Run: pytest tests/train/data/test_sources_formats.py
"""

from __future__ import annotations

import pytest
from odd_pictures import data_of, plain, saved, write, write_tar
from PIL import Image

from lidit_train.data.sources.formats import CAPTIONS, EXTENSIONS, NOT_READ
from lidit_train.data.sources.open import open_source
from lidit_train.recipe import Source

NO_CAPTION = "has no caption (looked for .txt, .caption, .cap and .text)"


def folder(path, captions=None):
    source = Source("folder", str(path), captions=captions or {"txt": 1.0})
    return open_source(source, data_of(source), path / "unused")


SAVED = set("GIF PNG JPEG WEBP BMP DIB TIFF AVIF JPEG2000 PPM TGA QOI".split())
KINDS = [
    (extension, kind)
    for extension, kind in Image.registered_extensions().items()
    if extension in EXTENSIONS and kind in SAVED and extension not in (".pfm", ".j2c", ".jpc")
]


@pytest.mark.parametrize(("extension", "kind"), KINDS)
def test_what_pillow_reads_is_read_in_folders_and_in_shards(tmp_path, extension, kind):
    picture = saved(Image.new("RGB", (48, 40), (200, 30, 30)), kind)
    files = {f"a{extension}": picture, f"b{extension.upper()}": picture, "a.txt": "x", "b.txt": "y"}
    write_tar(tmp_path / "a.tar", dict(sorted(files.items())))
    write(tmp_path / "files", files)
    for source in (
        folder(tmp_path / "files"),
        open_source(Source("shards", str(tmp_path)), data_of(), tmp_path / "index"),
    ):
        assert source.sizes.tolist() == [[48, 40]] * 2
        shown = source.picture(0, (0, 0)).getpixel((9, 9))
        assert max(abs(a - b) for a, b in zip(shown, (200, 30, 30))) < 9


@pytest.mark.parametrize("extension", NOT_READ)
def test_pictures_that_are_not_read_are_counted_and_named(tmp_path, extension):
    files = {f"a{extension}": b"x", f"b{extension.upper()}": b"y", "a.txt": "x", "b.txt": "y"}
    files |= {"c.png": plain(), "c.txt": "z"}
    write_tar(tmp_path / "a.tar", dict(sorted(files.items())))
    write(tmp_path / "files", files)
    for source in (
        folder(tmp_path / "files"),
        open_source(Source("shards", str(tmp_path)), data_of(), tmp_path / "index"),
    ):
        (reason,) = source.left_out.counts
        assert source.left_out.counts[reason] == 2 and f"is a {extension} file" in reason
        assert all(name in str(source.left_out.names) for name in ("a", "b"))


def test_a_linked_folder_is_named(tmp_path):
    write(tmp_path / "files", {"a.png": plain(), "a.txt": "x"})
    write(tmp_path / "elsewhere", {"b.png": plain(), "b.txt": "x"})
    (tmp_path / "files" / "more").symlink_to(tmp_path / "elsewhere")
    (told,) = folder(tmp_path / "files").left_out.sentences()
    assert told.startswith("1 linked folder left out: is not followed") and "(more)" in told


@pytest.mark.parametrize("extension", CAPTIONS)
def test_captions_are_found_under_the_extensions_that_people_use(tmp_path, extension):
    files = {"a.png": plain(), f"a.{extension}": "a cat", "b.png": plain()}
    files |= {"c.PNG": plain(), f"c.{extension.upper()}": "a cat"}
    write_tar(tmp_path / "a.tar", dict(sorted(files.items())))
    write(tmp_path / "files", files)
    for source in (
        folder(tmp_path / "files"),
        open_source(Source("shards", str(tmp_path)), data_of(), tmp_path / "index"),
    ):
        assert [source.captions(i) for i in range(len(source.sizes))] == [[("a cat", 1.0)]] * 2
        assert source.left_out.counts == {NO_CAPTION: 1}


def test_a_caption_that_lacks_says_what_was_looked_for(tmp_path):
    write(tmp_path, {"a.png": plain(), "a.txt": "x", "b.png": plain(), "b.long.txt": "y"})
    source = folder(tmp_path, captions={"long.txt": 1.0})
    assert source.left_out.counts == {"has no caption (looked for .long.txt)": 1}


CHINESE = [
    "一只猫在沙发上",
    "红色的猫。",
    "猫、狗",
]  # whose bytes look like those of the other order


@pytest.mark.parametrize("text", ["a cat", "一只 cat, und grüße", "кот", "ねこ。", *CHINESE])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_captions_in_the_encodings_that_editors_write(tmp_path, text, encoding):
    write(tmp_path, {"a.png": plain(), "a.txt": text.encode(encoding)})
    marked = b"\xfe\xff" + text.encode("utf-16-be")
    write(tmp_path, {"b.png": plain(), "b.txt": marked})
    source = folder(tmp_path)
    assert [source.captions(i) for i in range(2)] == [[(text, 1.0)]] * 2

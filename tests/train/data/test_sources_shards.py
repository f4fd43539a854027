"""Pictures in tar files of the WebDataset layout.

Run: pytest tests/train/data/test_sources_shards.py
"""

from __future__ import annotations

import io
import os
import tarfile

import numpy as np
import pytest
from odd_pictures import bomb, data_of, everything, noisy, plain, saved, turned, write_tar

from lidit_core.errors import LiDiTError
from lidit_train.data.sources.open import open_source, unused_indices
from lidit_train.data.sources.shards import ShardSource, expand, read_at, shard_files
from lidit_train.data.sources.tar_index import Shard, split
from lidit_train.recipe import Source

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

NO_CAPTION = "has no caption (looked for .txt, .caption, .cap and .text)"


def shards(path, index, captions=None, **fields):
    source = Source("shards", str(path), captions=captions or {"txt": 1.0})
    return open_source(source, data_of(source, **fields), index)


def texts(source):
    return [[text for text, _ in source.captions(i)] for i in range(len(source))]


def some(first, last):
    files = {}
    for n in range(first, last):
        files |= {f"{n:04}.png": plain(40 + n, 50), f"{n:04}.txt": f"number {n}"}
    return files


def blind(path):
    """Zeros in place of a shard's content, and the same size and times."""
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_samples_of_the_webdataset_layout(tmp_path):
    files = {
        "set/v1.0/cat.JPG": plain(50, 60, kind="JPEG"),
        "set/v1.0/cat.seg.png": plain(99, 99),  # another extension: no picture of the sample
        "set/v1.0/cat.txt": "a cat ",
        "set/v1.0/cat.long.txt": "a very long cat",
        "set/v1.0/cat.json": "{}",
        "set/v1.0/dog.long.txt": "only long",
        "set/v1.0/dog.webp": turned(6, "WEBP"),
        "./x.bmp": plain(33, 32, kind="BMP"),
        "./x.txt": "\ufeff你好",
    }
    write_tar(tmp_path / "a.tar", files)
    source = shards(tmp_path, tmp_path / "index", {"txt": 1.0, "long.txt": 0.5})
    assert source.sizes.tolist() == [[50, 60], [40, 64], [33, 32]]
    assert source.sizes.dtype == np.int32
    assert source.captions(0) == [("a cat", 1.0), ("a very long cat", 0.5)]
    assert source.captions(1) == [("only long", 0.5)] and source.captions(2) == [("你好", 1.0)]
    assert source.name(0) == "a.tar: set/v1.0/cat" and source.name(2) == "a.tar: ./x"
    for i in range(3):
        picture = source.picture(i, (0, 0))
        assert picture.mode == "RGB" and list(picture.size) == source.sizes[i].tolist()
    assert source.left_out.counts == {} and source.content(0, 2, 2) is None
    # other captions are another index
    assert texts(shards(tmp_path, tmp_path / "index")) == [["a cat"], ["你好"]]


@pytest.mark.parametrize(
    "name, parts",
    [
        ("cat.txt", ("cat", "txt")),
        ("a.b/c.d/cat.long.TXT", ("a.b/c.d/cat", "long.txt")),
        ("a/.hidden.png", ("", "")),
        ("a.b/README", ("", "")),
    ],
)
def test_key_and_extension(name, parts):
    assert split(name) == parts


def test_shards_are_in_the_order_of_their_names_and_reopen_equal(tmp_path):
    for n in (2, 0, 1):
        write_tar(tmp_path / "in" / f"{n:03}.tar", some(n * 4, n * 4 + 4))
    first = shards(tmp_path / "in", tmp_path / "index")
    assert texts(first) == [[f"number {n}"] for n in range(12)]
    assert len({first.key(i) for i in range(12)}) == 12
    assert everything(shards(tmp_path / "in", tmp_path / "index")) == everything(first)
    assert everything(shards(tmp_path / "in", tmp_path / "another")) == everything(first)


def test_processes_index_what_one_alone_does(tmp_path):
    for n in range(3):
        write_tar(tmp_path / "in" / f"{n}.tar", some(n * 2, n * 2 + 2))
    source = Source("shards", str(tmp_path / "in"))
    two = ShardSource(source, data_of(source), tmp_path / "two", processes=2)
    one = ShardSource(source, data_of(source), tmp_path / "one", processes=1)
    assert everything(two) == everything(one) and len(one) == 6
    names = [sorted(p.name for p in (tmp_path / n).iterdir()) for n in ("one", "two")]
    assert names[0] == names[1] and len(names[0]) == 3 + 2


def test_a_shard_that_is_indexed_is_not_read_again(tmp_path):
    """Proof: its headers are gone, and its samples are still known."""
    write_tar(tmp_path / "in" / "0.tar", some(0, 3))
    shards(tmp_path / "in", tmp_path / "index")
    blind(tmp_path / "in" / "0.tar")
    again = shards(tmp_path / "in", tmp_path / "index")
    assert again.sizes.tolist() == [[40, 50], [41, 50], [42, 50]]
    # a new shard beside it, and other limits: only the new one is read
    write_tar(tmp_path / "in" / "1.tar", some(3, 5))
    more = shards(tmp_path / "in", tmp_path / "index", smallest=41)
    assert more.sizes.tolist() == [[41, 50], [42, 50], [43, 50], [44, 50]]
    with pytest.raises(OSError, match="0.tar: 0001: it cannot be decoded"):
        more.picture(0, (0, 0))
    with pytest.raises(LiDiTError, match="none was found"):  # zeros are a tar of nothing
        shards(tmp_path / "in" / "0.tar", tmp_path / "new index")


def test_a_shard_that_changed_is_read_again_and_its_keys_are_new(tmp_path):
    path = write_tar(tmp_path / "0.tar", some(0, 2))
    before = shards(path, tmp_path / "index")
    os.utime(path, ns=(1, 1))
    with pytest.raises(OSError, match="0.tar has changed since it was indexed"):
        before.captions(0)  # opened for the first time, and no longer the one of the index
    touched = shards(path, tmp_path / "index")
    assert texts(touched) == [["number 0"], ["number 1"]]
    assert {before.key(i) for i in range(2)}.isdisjoint(touched.key(i) for i in range(2))
    write_tar(path, some(5, 8))
    assert len(shards(path, tmp_path / "index")) == 3


def test_a_broken_index_is_made_again(tmp_path):
    path = write_tar(tmp_path / "0.tar", some(0, 2))
    first = everything(shards(path, tmp_path / "index"))
    for file in (tmp_path / "index").iterdir():
        if file.suffix == ".npz":
            file.write_bytes(file.read_bytes()[:50])
        else:
            file.unlink()
    assert everything(shards(path, tmp_path / "index")) == first


def test_nothing_is_extracted_and_names_that_climb_are_left_out(tmp_path):
    evil = {
        "../../escaped.png": plain(),
        "../../escaped.txt": "x",
        str(tmp_path / "absolute.png"): plain(),
        "a\x1b[31m/../../b.png": plain(),
        **some(0, 1),
    }
    write_tar(tmp_path / "in" / "deep" / "0.tar", evil)
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    source = shards(tmp_path / "in" / "deep", tmp_path / "index")
    after = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert {p.parent for p in after - before} == {tmp_path / "index"}
    assert texts(source) == [["number 0"]]
    assert source.left_out.counts == {"has a path that leaves its folder": 4}
    assert source.left_out.names["has a path that leaves its folder"][0] == (
        "0.tar: ../../escaped.png"
    )


def test_members_that_are_no_files_are_skipped(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for kind, name in ((tarfile.DIRTYPE, "d.png"), (tarfile.SYMTYPE, "s.png")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/hostname"
            tar.addfile(member)
        for name, content in (("a.png", plain()), ("a.txt", b"x"), ("s.txt", b"y")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    source = shards(tmp_path / "0.tar", tmp_path / "index")
    assert texts(source) == [["x"]]
    assert source.left_out.names == {"has captions but no picture": ["0.tar: s"]}


def test_members_with_long_and_foreign_names_are_read_in_pax_and_gnu(tmp_path):
    name = "很长/" * 60 + "x"
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / f"{kind}.tar", "w", format=kind) as tar:
            for suffix, content in ((".png", plain()), (".txt", b"long")):
                member = tarfile.TarInfo(name + suffix)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    source = shards(tmp_path, tmp_path / "index")
    assert texts(source) == [["long"], ["long"]]
    assert [source.picture(i, (0, 0)).size for i in range(2)] == [(48, 40)] * 2


@pytest.mark.parametrize("where", ("data", "header", "between", "garbage"))
def test_of_a_tar_cut_short_the_samples_before_are_used(tmp_path, where):
    path = write_tar(tmp_path / "0.tar", some(0, 4))
    with tarfile.open(path) as tar:
        third = tar.getmembers()[4]  # the picture of sample 2
    end = {"data": third.offset_data + 20, "header": third.offset + 100}.get(where, third.offset)
    whole = path.read_bytes()
    path.write_bytes(whole[:end] + (b"\x07" * 5000 if where == "garbage" else b""))
    source = shards(path, tmp_path / "index")
    assert texts(source) == [["number 0"], ["number 1"]]
    assert source.picture(1, (0, 0)).size == (41, 50)
    assert source.left_out.counts == {"shard ends early": 1}
    assert source.left_out.names == {"shard ends early": ["0.tar"]}


def test_a_caption_lost_by_the_cut_is_no_caption(tmp_path):
    path = write_tar(tmp_path / "0.tar", some(0, 2))
    with tarfile.open(path) as tar:
        last = tar.getmembers()[3]
    path.write_bytes(path.read_bytes()[: last.offset_data + 3])
    source = shards(path, tmp_path / "index")
    assert texts(source) == [["number 0"]]
    assert source.left_out.counts == {"shard ends early": 1, NO_CAPTION: 1}


def test_what_cannot_be_used_is_left_out_by_reason_and_named(tmp_path):
    pictures = {
        "bomb": bomb(50_000),
        "bomb_small": bomb(10_000),
        "cut": b"\x89PNG\r\n",
        "thin": plain(1, 10_000),
        "long": plain(32, 300),
    }
    files = {}
    for name, content in pictures.items():
        files |= {f"{name}.png": content, f"{name}.txt": "x"}
    files |= {"none.png": plain(), "blank.png": plain(), "blank.txt": "\n"}
    files |= {"latin.png": plain(), "latin.txt": b"gr\xfc", "alone.txt": "no picture"}
    files |= {"half.png": saved(noisy())[:3000], "half.txt": "x" * 100_000}
    write_tar(tmp_path / "0.tar", files)
    source = shards(tmp_path / "0.tar", tmp_path / "index")
    assert texts(source) == [["x" * 100_000]]
    with pytest.raises(OSError, match="0.tar: half"):
        source.picture(0, (0, 0))
    assert sorted(source.left_out.counts.values()) == [1, 1, 1, 1, 1, 1, 1, 2]
    assert source.left_out.names["has captions but no picture"] == ["0.tar: alone"]
    assert source.left_out.names["has an empty caption"] == ["0.tar: blank"]
    assert shards(tmp_path / "0.tar", tmp_path / "index").left_out == source.left_out


def test_reasons_of_many_shards_are_counted_together(tmp_path):
    for n in range(3):
        files = some(n, n + 1) | {f"x{k}.txt": "alone" for k in range(5)}
        write_tar(tmp_path / f"{n}.tar", files)
    left_out = shards(tmp_path, tmp_path / "index").left_out
    assert left_out.counts == {"has captions but no picture": 15}
    assert left_out.names["has captions but no picture"] == [f"0.tar: x{k}" for k in range(3)]


def test_files_that_are_no_tar_do_not_end_the_others(tmp_path):
    write_tar(tmp_path / "0.tar", some(0, 1))
    (tmp_path / "1.tar").write_bytes(b"")
    (tmp_path / "2.tar").write_bytes(os.urandom(3000))
    with tarfile.open(tmp_path / "3.tar", "w:gz") as tar:
        tar.add(tmp_path / "0.tar", "0.png")
    source = shards(tmp_path, tmp_path / "index")
    assert texts(source) == [["number 0"]]
    assert source.left_out.counts == {"shard is no tar, or a compressed one": 3}


def test_a_path_may_be_a_folder_a_file_a_glob_or_have_braces(tmp_path):
    for n in (8, 9, 10):
        write_tar(tmp_path / f"s-{n:03}.tar", {})
    names = [f"s-{n:03}.tar" for n in (8, 9, 10)]

    def found(path):
        return [file.name for file in shard_files(str(tmp_path / path))]

    assert found("") == found("s-*.tar") == found("s-{008..010}.tar") == names
    assert found("s-{009,010}.tar") == found("s-0{09,1?}.tar") == names[1:]
    assert found("s-009.tar") == names[1:2]
    with pytest.raises(LiDiTError, match="2 of the 5 shards .* are not there, .*s-011.tar"):
        found("s-{008..012}.tar")
    for nothing in ("gone", "gone/*.tar", "gone.tar"):
        with pytest.raises(LiDiTError, match="has no shards"):
            found(nothing)
    assert expand("{1..2}{a,b}") == ["1a", "1b", "2a", "2b"]


def test_shards_without_a_picture_are_one_sentence(tmp_path):
    write_tar(tmp_path / "0.tar", {})
    with pytest.raises(LiDiTError, match="no picture that can be used: none was found"):
        shards(tmp_path, tmp_path / "index")


def test_few_shards_are_open_at_once(tmp_path):
    found = []
    for n in range(40):
        found.append(Shard.at(write_tar(tmp_path / f"{n:02}.tar", some(n, n + 1))))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    if before is None:
        pytest.skip("this system does not tell which files are open")
    assert all(len(read_at(shard, 0, 512)) == 512 for shard in found)
    assert len(os.listdir("/proc/self/fd")) - before <= 16


@pytest.mark.parametrize("prefix", ["", "ohwx,"])
def test_indices_that_no_shard_needs_any_more_are_named(tmp_path, prefix):
    index = tmp_path / "index"
    for name, first in (("a", 0), ("b", 3)):
        write_tar(tmp_path / f"{name}.tar", some(first, first + 3))

    def opened():
        source = Source("shards", str(tmp_path), prefix=prefix)
        return open_source(source, data_of(source), index)

    assert unused_indices([opened()], index) == []
    before = set(index.iterdir())
    write_tar(tmp_path / "b.tar", some(3, 5))
    gone = unused_indices([opened()], index)
    assert sorted(path.suffix for path in gone) == [".json", ".npy", ".npz"]
    assert set(gone) < before and next(index.glob("a-*.npz")) not in gone
    for path in gone:
        path.unlink()
    assert len(opened().sizes) == 5 and unused_indices([opened()], index) == []
    assert unused_indices([], index) == sorted(index.iterdir())

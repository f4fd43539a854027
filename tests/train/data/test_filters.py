"""What a source's filters leave out. Run: pytest tests/train/data/test_filters.py"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from odd_pictures import data_of, plain, write, write_tar

from lidit_core.errors import LiDiTError
from lidit_train.data.sources.filters import has_address, is_tag_list
from lidit_train.data.sources.open import open_source
from lidit_train.recipe import Source

FIELDS = {  # of a picture, by its name
    "good": {"aesthetic": 4.7, "watermark": 0.2},
    "dull": {"aesthetic": 4.69, "watermark": 0.1},
    "marked": {"aesthetic": 6, "watermark": 0.9},
    "text": {"aesthetic": "5.5", "watermark": 0.2},
    "blank": {"aesthetic": None, "watermark": 0.2},
    "broken": {"aesthetic": True, "watermark": 0.2},
}


def folder(path: Path) -> Path:
    for name, fields in FIELDS.items():
        write(
            path, {f"{name}.png": plain(), f"{name}.txt": name, f"{name}.json": json.dumps(fields)}
        )
    return path


def shards(path: Path) -> Path:
    members = {}
    for name, fields in FIELDS.items():
        members |= {f"{name}.png": plain(), f"{name}.txt": name, f"{name}.json": json.dumps(fields)}
    return write_tar(path / "a.tar", members)


def table(path: Path) -> Path:
    folder(path)
    rows = [{"file_name": f"{n}.png", "text": n, **fields} for n, fields in FIELDS.items()]
    write(path, {"t.jsonl": "\n".join(map(json.dumps, rows))})
    return path / "t.jsonl"


def comma_table(path: Path) -> Path:
    folder(path)
    text = io.StringIO()
    writer = csv.DictWriter(text, ["file_name", "text", "aesthetic", "watermark"])
    writer.writeheader()
    writer.writerows({"file_name": f"{n}.png", "text": n, **f} for n, f in FIELDS.items())
    write(path, {"t.csv": text.getvalue()})
    return path / "t.csv"


WORLDS = {"folder": folder, "shards": shards, "table": table, "csv": comma_table}


def opened(kind: str, path: Path, index: Path, **fields):
    source = Source("table" if kind == "csv" else kind, str(path), **fields)
    return open_source(source, data_of(source), index)


def captions(source) -> list[str]:
    return sorted(source.captions(i)[0][0] for i in range(len(source.sizes)))


@pytest.mark.parametrize("kind", WORLDS)
def test_numbers_beside_a_picture_leave_it_out_and_are_told(tmp_path, kind):
    path = WORLDS[kind](tmp_path / "in")
    source = opened(kind, path, tmp_path / "i", least={"aesthetic": 4.7}, most={"watermark": 0.5})
    assert captions(source) == ["good", "text"]
    assert source.left_out.counts == {
        "has less than 4.7 in aesthetic": 1,
        "has more than 0.5 in watermark": 1,
        "has no number in aesthetic": 2,
    }
    assert "dull" in source.left_out.names["has less than 4.7 in aesthetic"][0]
    again = opened(kind, path, tmp_path / "i", least={"aesthetic": 5})
    assert captions(again) == ["marked", "text"]
    assert captions(opened(kind, path, tmp_path / "i")) == sorted(FIELDS)


@pytest.mark.parametrize("kind", ("folder", "shards"))
def test_a_picture_without_its_json_is_told(tmp_path, kind):
    files = {"a.png": plain(), "a.txt": "a", "b.png": plain(), "b.txt": "b", "b.json": "[1]"}
    files |= {"c.png": plain(), "c.txt": "c", "c.json": '{"score": 3}'}
    path = tmp_path / "in"
    path = write(path, files) if kind == "folder" else write_tar(path / "a.tar", files)
    source = opened(kind, path, tmp_path / "i", least={"score": 1})
    assert captions(source) == ["c"]
    assert source.left_out.counts == {"has no .json file with score": 2}


def test_a_column_that_is_not_there_is_one_sentence(tmp_path):
    path = table(tmp_path / "in")
    with pytest.raises(LiDiTError, match="no column of numbers called beauty; .*aesthetic"):
        opened("table", path, tmp_path / "i", least={"beauty": 1})


WORDS = {
    "a": ("see https://example.org/cat", "a cat"),
    "b": ("cat, dog, red hat", "1girl, solo, long hair, smile"),
    "c": ("a cat", "a dog"),
}


def worded(kind: str, path: Path) -> Path:
    files = {}
    for name, (first, second) in WORDS.items():
        files |= {f"{name}.png": plain(), f"{name}.txt": first, f"{name}.long.txt": second}
    rows = [{"file_name": f"{n}.png", "txt": a, "long.txt": b} for n, (a, b) in WORDS.items()]
    if kind == "shards":
        return write_tar(path / "a.tar", files)
    write(path, files | {"t.jsonl": "\n".join(map(json.dumps, rows))})
    return path if kind == "folder" else path / "t.jsonl"


@pytest.mark.parametrize("kind", ("folder", "shards", "table"))
def test_unwanted_captions_are_not_read_and_told(tmp_path, kind):
    path, both = worded(kind, tmp_path / "in"), {"txt": 1.0, "long.txt": 2.0}
    source = opened(kind, path, tmp_path / "i", captions=both, without=("urls", "tags"))
    found = [source.captions(i) for i in range(len(source.sizes))]
    assert found == [[("a cat", 2.0)], [("a cat", 1.0), ("a dog", 2.0)]]
    assert source.left_out.counts == {
        "has a caption that is a bare list of tags": 1,
        "with an address of the web": 1,
    }
    (told,) = [s for s in source.left_out.sentences() if "address" in s]
    assert told.startswith("1 caption left out: with an address of the web (") and "a" in told
    source = opened(kind, path, tmp_path / "i", captions=both)
    assert len(source.sizes) == 3 and not source.left_out.counts


@pytest.mark.parametrize(
    ("text", "address", "tags"),
    [
        ("a cat on a mat", False, False),
        ("photo by www.example", True, False),
        ("HTTP://x.y/z", True, False),
        ("buy at shop.com today", True, False),
        ("version 2.0, e.g. this one", False, False),
        ("1girl, solo, long_hair, looking at viewer", False, True),
        ("#cat #dog", False, True),
        ("cat, dog", False, False),
        ("a red car, a blue bowl, a pink apple", False, False),
        ("Paris, France, 1925.", False, False),
        ("red car，blue bowl，pink apple", False, True),
    ],
)
def test_what_is_an_address_or_a_list_of_tags(text, address, tags):
    assert (has_address(text), is_tag_list(text)) == (address, tags)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"without": ("hashtags",)}, "without is 'hashtags'; expected one of urls, tags"),
        ({"kind": "stickers", "path": "en", "least": {"x": 1.0}}, "least=.*leave it out"),
    ],
)
def test_what_a_source_cannot_do_is_refused(fields, told):
    with pytest.raises(LiDiTError, match=told):
        Source(**{"kind": "folder", "path": "x", "count": 1, "distinct": 1, **fields})

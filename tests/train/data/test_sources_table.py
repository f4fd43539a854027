"""Pictures that a table names. Run: pytest tests/train/data/test_sources_table.py"""

from __future__ import annotations

import builtins
import csv
import io
import json

import pytest
from odd_pictures import data_of, everything, plain, write

from lidit_core.errors import LiDiTError
from lidit_train.data.sources.open import open_source
from lidit_train.recipe import Source

ROWS = [
    {"file_name": "b.png", "caption": "the second, of two\nlines", "alt": "b"},
    {"file_name": "sub/a.png", "caption": "一", "alt": None},
    {"file_name": "b.png", "caption": "", "alt": 'again "b"'},
]


def table(path, image="", captions=None):
    source = Source("table", str(path), captions=captions or {"txt": 1.0}, image=image)
    return open_source(source, data_of(source), path.parent / "unused")


def write_table(folder, name, rows):
    write(folder, {"b.png": plain(50, 60), "sub/a.png": plain(70, 80)})
    if name.endswith(".parquet"):
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(arrow.Table.from_pylist(rows), folder / name)
    elif name.endswith(".csv"):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write(folder, {name: text.getvalue()})
    else:
        write(folder, {name: "\n".join(json.dumps(row) for row in rows) + "\n\n"})
    return folder / name


@pytest.mark.parametrize("suffix", ("jsonl", "json", "csv", "parquet"))
def test_a_table_gives_rows_in_order_with_weighted_captions(tmp_path, suffix):
    path = write_table(tmp_path, f"metadata.{suffix}", ROWS)
    source = table(path, captions={"caption": 1.0, "alt": 0.25})
    assert [source.name(i) for i in range(3)] == ["b.png", "sub/a.png", "b.png"]
    assert source.sizes.tolist() == [[50, 60], [70, 80], [50, 60]]
    assert [source.captions(i) for i in range(3)] == [
        [("the second, of two\nlines", 1.0), ("b", 0.25)],
        [("一", 1.0)],
        [('again "b"', 0.25)],
    ]
    assert source.key(0) == source.key(2) != source.key(1)
    assert everything(table(path, captions={"caption": 1.0, "alt": 0.25})) == everything(source)
    assert source.picture(1, (0, 0)).size == (70, 80)
    # the folder alone is enough, and so is the recipe's default of captions
    assert [table(tmp_path).captions(i)[0][0] for i in range(2)] == [
        "the second, of two\nlines",
        "一",
    ]


@pytest.mark.parametrize(
    "columns, image, chosen",
    [
        (("path", "image", "txt", "caption", "text"), "", ("image", "txt")),
        (("path", "title", "prompt"), "", ("path", "prompt")),
        (("file_name", "mine", "title"), "mine", ("mine", "title")),
    ],
)
def test_columns_are_found_in_their_order(tmp_path, columns, image, chosen):
    row = {column: f"{column}.png" for column in columns}
    write(tmp_path, {name: plain() for name in row.values()})
    source = table(write_table(tmp_path, "t.jsonl", [row]), image)
    assert source.name(0) == f"{chosen[0]}.png"
    assert source.captions(0) == [(f"{chosen[1]}.png", 1.0)]


def test_what_a_stranger_may_write_in_a_row_is_left_out_by_line(tmp_path):
    write(tmp_path / "in", {"a.png": plain(), "b.png": plain(8, 8)})
    write(tmp_path, {"secret.png": plain()})
    lines = [
        '{"image": "a.png", "text": "good"}',
        '{"image": "a.png", "text": ',
        '["a.png", "text"]',
        "[" * 100_000,
        '{"image": "../secret.png", "text": "climbs"}',
        json.dumps({"image": str(tmp_path / "secret.png"), "text": "absolute"}),
        '{"image": "in\\\\..\\\\..\\\\secret.png", "text": "as on Windows"}',
        '{"text": "no path"}',
        '{"image": 7, "text": "a number"}',
        '{"image": "gone.png", "text": "x"}',
        '{"image": "\\ud800.png", "text": "x"}',
        '{"image": "a.png", "text": 7}',
        '{"image": "a.png", "text": "\\ud800"}',
        '{"image": "a.png", "text": " "}',
        '{"image": "b.png", "text": "small"}',
        '{"image": "https://example.org/a.png", "text": "an address"}',
        "",
        '{"image": "./a.png", "text": "good as well"}',
    ]
    write(tmp_path / "in", {"t.jsonl": b"\n".join([*(s.encode() for s in lines), b"\xff\xfe{}"])})
    source = table(tmp_path / "in" / "t.jsonl")
    assert [source.captions(i)[0][0] for i in range(len(source))] == ["good", "good as well"]
    assert source.left_out.counts == {
        "is on a line that is no JSON object": 4,
        "has a path that leaves its folder": 3,
        "has no path": 2,
        "is not there": 3,
        "has a side shorter than 32 pixels": 1,
        "has a caption that is neither UTF-8 nor UTF-16": 1,
        "has an empty caption": 1,
        "has no caption (looked for column text)": 1,
    }
    named = source.left_out.names
    assert named["is on a line that is no JSON object"] == ["line 2", "line 3", "line 4"]
    assert named["has a path that leaves its folder"][0] == "line 5: ../secret.png"
    assert named["is not there"][0] == "line 10: gone.png"


@pytest.mark.parametrize("suffix", ("jsonl", "csv", "parquet"))
@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"image": "picture"}, "no column of the pictures' paths called picture; .*caption, alt"),
        ({"captions": {"alt": 1.0, "long": 1.0}}, "no column of captions called long; .*file_name"),
    ],
)
def test_a_missing_column_names_those_that_there_are(tmp_path, suffix, options, sentence):
    with pytest.raises(LiDiTError, match=sentence):
        table(write_table(tmp_path, f"t.{suffix}", ROWS), **options)


def test_no_column_of_captions_names_those_that_are_looked_for(tmp_path):
    path = write_table(tmp_path, "t.jsonl", [{"path": "b.png", "words": "x"}])
    with pytest.raises(
        LiDiTError, match="called text or caption or prompt or title; .* path, words"
    ):
        table(path)


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("t.xml", "<a/>", "ends in '.xml'; expected one of .jsonl"),
        ("t.jsonl", "", "of which there are none"),
        ("t.csv", "", "of which there are none"),
        ("t.parquet", "PAR1 cut", "cannot be read"),
    ],
)
def test_no_table_is_one_sentence(tmp_path, name, content, sentence):
    if name == "t.parquet":
        pytest.importorskip("pyarrow")
    write(tmp_path, {name: content})
    with pytest.raises(LiDiTError, match=sentence) as error:
        table(tmp_path / name)
    assert "\n" not in str(error.value) and name in str(error.value)
    with pytest.raises(LiDiTError, match="gone.csv is not there"):
        table(tmp_path / "gone.csv")
    with pytest.raises(LiDiTError, match="has no metadata.jsonl"):
        table(tmp_path)


def test_without_pyarrow_a_parquet_file_says_how_to_get_it(tmp_path, monkeypatch):
    write(tmp_path, {"t.parquet": "PAR1"})
    found = builtins.__import__

    def without(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LiDiTError, match="pip install pyarrow"):
        table(tmp_path / "t.parquet")


def test_a_csv_with_a_long_caption_a_short_row_and_bytes_that_are_not_utf_8(tmp_path):
    write(tmp_path, {"a.png": plain()})
    text = "file_name,text\na.png," + "ü" * 200_000 + "\na.png\na.png,gr\xfc\na.png,last,more\n"
    write(tmp_path, {"t.csv": text.encode().replace("gr\xfc".encode(), b"gr\xfc")})
    source = table(tmp_path / "t.csv")
    assert [len(source.captions(i)[0][0]) for i in range(len(source))] == [200_000, 4]
    assert source.left_out.counts == {
        "has no caption (looked for column text)": 1,
        "has a caption that is neither UTF-8 nor UTF-16": 1,
    }
    assert source.left_out.names["has no caption (looked for column text)"] == ["line 3: a.png"]

"""A prefix, a caption for pictures that have none, and tags in several orders.

Run: pytest tests/train/data/test_wording.py
"""

from __future__ import annotations

import json

import pytest
from odd_pictures import data_of, plain, write, write_tar
from tiny_training import curve, make_world, recipe_of, run

from lidit_core.errors import LiDiTError
from lidit_train.data.sample_draws import draw_sample
from lidit_train.data.sources.open import open_source
from lidit_train.data.sources.wording import tag_orders
from lidit_train.recipe import Source

TAGS = "1girl, solo, red hat, smile, outdoors"


def opened(folder, **fields):
    write(folder, {"a.png": plain(), "a.txt": TAGS, "a.long.txt": "a girl"})
    source = Source("folder", str(folder), **fields)
    return open_source(source, data_of(source), folder / "index")


def test_a_prefix_stands_before_every_caption(tmp_path):
    both = {"txt": 1.0, "long.txt": 0.5}
    source = opened(tmp_path, prefix="ohwx,", captions=both)
    assert source.captions(0) == [(f"ohwx, {TAGS}", 1.0), ("ohwx, a girl", 0.5)]


@pytest.mark.parametrize("kind", ["folder", "shards", "table"])
def test_pictures_without_a_caption_read_the_default_one_and_are_told(tmp_path, kind):
    said = {"a": "a cat", "b": "", "c": None, "d": "see www.x.y"}
    files = {f"{name}.png": plain() for name in said}
    files |= {f"{name}.txt": text for name, text in said.items() if text is not None}
    rows = [{"file_name": f"{name}.png", "text": text} for name, text in said.items()]
    path = write_tar(tmp_path / "a.tar", dict(sorted(files.items())))
    if kind != "shards":
        write(tmp_path / "in", files | {"t.jsonl": "\n".join(map(json.dumps, rows))})
        path = tmp_path / "in" / ("t.jsonl" if kind == "table" else "")
    without = {"without": ("urls",), "prefix": "ohwx,"}

    def captions(**fields):
        source = open_source(Source(kind, str(path), **without, **fields), data_of(), tmp_path)
        return source, [source.captions(i) for i in range(len(source.sizes))]

    source, found = captions(default_caption="a dog")
    assert found == [[("ohwx, a cat", 1.0)], [("ohwx, a dog", 1.0)], [("ohwx, a dog", 1.0)]]
    told = "2 pictures: has no caption and reads the source's default_caption ("
    assert [s for s in source.left_out.sentences() if s.startswith(told)]
    assert sum(source.left_out.counts.values()) == 3  # and the one with an address is left out
    assert captions()[1] == found[:1]


def test_orders_are_different_and_keep_the_first_tags(tmp_path):
    source = opened(tmp_path, tag_orders=5, keep_tags=2, prefix="ohwx,")
    texts, weights = zip(*source.captions(0))
    assert texts[0] == f"ohwx, {TAGS}" and len(set(texts)) == len(texts) == 5
    assert sum(weights) == pytest.approx(1) and len(set(weights)) == 1
    for text in texts:
        assert text.startswith("ohwx, 1girl, solo, ")
        assert sorted(text.removeprefix("ohwx, ").split(", ")) == sorted(TAGS.split(", "))
    again = opened(tmp_path, tag_orders=5, keep_tags=2, prefix="ohwx,")
    assert again.captions(0) == source.captions(0)


@pytest.mark.parametrize(
    ("text", "count", "kept", "orders"),
    [
        (TAGS, 0, 0, 1),
        ("a girl", 9, 0, 1),
        ("a, b", 100, 0, 2),
        ("a, b, c", 100, 1, 2),
        ("a, b, c", 200, 0, 6),
        ("a, a, b, b, b, b, b", 50, 0, 21),
        (", ".join("abcdefgh"), 300, 0, 300),
        (TAGS, 4, 9, 1),
    ],
)
def test_there_are_no_more_orders_than_tags_allow(text, count, kept, orders):
    found = tag_orders(text, count, kept)
    assert found[0] == text and len(found) == orders


def test_which_order_is_read_is_decided_by_seed_step_and_row(tmp_path):
    source = opened(tmp_path, tag_orders=6)
    data = data_of(caption_dropout=0.0, text_zeroing=0.0)

    def read(*numbers: int) -> str:
        return draw_sample(*numbers, data, "flow", 1.0, (1, 1, 1)).choose(source.captions(0))

    everything = {read(0, step, row) for step in range(20) for row in range(4)}
    assert everything == {text for text, _ in source.captions(0)}
    assert [read(0, step, 1) for step in range(9)] == [read(0, step, 1) for step in range(9)]
    assert [read(0, step, 1) for step in range(9)] != [read(1, step, 1) for step in range(9)]


def test_orders_are_the_same_with_and_without_cached_states(tmp_path):
    """Of cached states every order is kept; without the cache the LLM reads it as it comes."""
    llms = make_world(tmp_path)
    for file in (tmp_path / "pictures").glob("*.txt"):
        file.write_text(f"{file.stem}, red, green, blue, round")
    sources = [{"kind": "folder", "path": str(tmp_path / "pictures"), "tag_orders": 4}]
    sources[0]["prefix"] = "ohwx,"
    few = [{"images": 12, "batch": 4, "resolution": 32}]
    run(tmp_path, "kept", llms, data={"sources": sources}, stages=few)
    uncached = {"states": False}
    run(tmp_path, "read", llms, data={"sources": sources}, cache=uncached, stages=few)
    for line, other in zip(curve(tmp_path / "kept"), curve(tmp_path / "read"), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)
    states = list((tmp_path / "kept" / "cache" / "states").glob("*/*.safetensors"))
    assert len(states) == 12 * 4 + 1  # and the empty prompt
    plain_run = [{"kind": "folder", "path": str(tmp_path / "pictures")}]
    run(tmp_path, "plain", llms, data={"sources": plain_run}, stages=few)
    assert curve(tmp_path / "plain") != curve(tmp_path / "kept")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"keep_tags": 2}, "keep_tags=2 and tag_orders=0; expected 2 orders or more"),
        ({"tag_orders": 1001}, "tag_orders=1001; expected 0 to 1000"),
        (
            {"kind": "stickers", "path": "en", "default_caption": "x"},
            "which is for pictures in files",
        ),
        ({"tag_orders": -1}, "tag_orders=-1; expected 0 to 1000"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(tmp_path, fields, told):
    with pytest.raises(LiDiTError, match=told):
        recipe_of(tmp_path, data={"sources": [{"kind": "folder", "path": "x", **fields}]})

"""Encoders whose rows follow on one another. Run: pytest tests/core/bridge/test_joined_rows.py"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from tiny_bridge import Following, randomised, spec, students

from lidit_core.bridge.config import BridgeConfig
from lidit_core.bridge.encode import OwnEntry, added, conditioning
from lidit_core.bridge.file import LoadedBridge, load_bridge, write_bridge
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.rows import TEXT
from lidit_core.bridge.teacher import read_teacher, write_teacher
from lidit_core.errors import LiDiTError
from lidit_core.text.emphasis import read_emphasis, token_weight

TEXTS = ("a red cat left of two dogs", "three apples and two dogs on a car " * 3)


def loaded_of(**changes) -> LoadedBridge:
    teacher = Following()
    sizes = {"width": 32, "heads": 4, "blocks": 1, "refiner_blocks": 1}
    bridge = randomised(Bridge(BridgeConfig((spec(),), teacher.teacher.spec, **sizes, **changes)))
    ((sequence, values),) = teacher("")
    return LoadedBridge(bridge, teacher.rows, (sequence, values))


def test_rows_constants_and_chunks_are_numbered_on():
    teacher = Following()
    first, second = teacher.rows.makers
    for text in (*TEXTS, ""):
        made, a, b = teacher.rows(text), first(text), second(text)
        n = len(a.ids)
        assert len(made.ids) == n + len(b.ids) == teacher(text)[0][0].shape[1]
        assert made.parts.tolist() == [0] * n + [1] * len(b.ids)
        assert torch.equal(made.ids[:n], a.ids) and torch.equal(made.ids[n:], b.ids)
        assert int(b.ids.min()) >= teacher.each[0].teacher.spec.vocabulary
        assert not set(made.chunks[:n].tolist()) & set(made.chunks[n:].tolist())
        constants = [
            set(part[part >= 0].tolist()) for part in made.constants.split([n, len(b.ids)])
        ]
        assert not constants[0] & constants[1]
        assert max(constants[1]) < teacher.teacher.spec.constants


def test_each_encoder_has_a_ridge_and_a_standard_of_its_own():
    loaded = loaded_of(residual="none")
    rows, given = loaded.rows(TEXTS[0]), students([TEXTS[0]])
    before = conditioning(loaded, TEXTS[0], [given])[0][0]
    base, second = loaded.bridge.base, rows.parts == 1
    assert tuple(base.text.shape) == (2, 20, 24) and tuple(base.mean.shape) == (2, 20)
    for name in ("text", "mean", "deviation", "special", "text_bias"):
        kept = getattr(base, name)[1].clone()
        getattr(base, name)[1].mul_(2)
        after = conditioning(loaded, TEXTS[0], [given])[0][0]
        assert torch.equal(after[~second], before[~second])
        assert not torch.allclose(after[second], before[second])
        getattr(base, name)[1].copy_(kept)


def test_words_have_their_weights_against_the_empty_row_of_their_own_encoder():
    loaded = loaded_of()
    read = read_emphasis("a red (cat left:1.5) of two dogs")
    given, rows = [students([read.text])], loaded.rows(read.text, read.pieces)
    unweighted = replace(read, weights=())
    plain, found = (conditioning(loaded, each, given)[0][0] for each in (unweighted, read))
    empty = loaded.empty[0][0]
    half, n = len(empty) // 2, int((rows.parts == 0).sum())
    against = torch.cat([empty[rows.places[:n].clamp(max=half - 1)],
                         empty[half + rows.places[n:].clamp(max=half - 1)]])  # fmt: skip
    text = zip(rows.spans.tolist(), (rows.kinds == TEXT).tolist())
    weights = torch.tensor([token_weight(read, *map(int, s)) if own else 1.0 for s, own in text])
    assert len(weights[:n].unique()) > 1 and len(weights[n:].unique()) > 1
    expected = (plain - against) * weights[:, None] + against
    assert torch.allclose(found, expected, atol=1e-4)


def test_an_untrained_one_that_adds_changes_no_bit():
    teacher, loaded = Following(), loaded_of(add=True)
    loaded.bridge.initialise()
    for text in TEXTS:
        (own,) = teacher(text)
        found = added(loaded, text, [students([text])], OwnEntry(own, own))
        assert torch.equal(found[0], own[0])
        assert torch.equal(found[1]["pooled_output"], own[1]["pooled_output"])


def test_files_keep_every_tokenizer(tmp_path):
    loaded = loaded_of()
    write_bridge(tmp_path / "b.safetensors", loaded)
    again = load_bridge(tmp_path / "b.safetensors")
    write_teacher(tmp_path, Following().teacher)
    teacher = read_teacher(tmp_path)
    for text in TEXTS:
        given = [students([text])]
        ours, theirs = (conditioning(each, text, given)[0] for each in (loaded, again))
        assert torch.equal(ours, theirs)
        for field in fields(loaded.rows(text)):
            made = [getattr(each.rows(text), field.name) for each in (loaded, teacher)]
            assert torch.equal(*made)


def test_a_file_without_a_tokenizer_is_told(tmp_path):
    from lidit_core.io.tensors import read_safetensors, write_safetensors

    path = tmp_path / "b.safetensors"
    write_bridge(path, loaded_of())
    tensors, metadata = read_safetensors(path)
    tensors.pop("tokenizer.1")
    write_safetensors(path, tensors, metadata)
    with pytest.raises(LiDiTError, match="lacks its tokenizer.1; fetch or write it again"):
        load_bridge(path)

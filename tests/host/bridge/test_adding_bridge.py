"""Bridges that add to the checkpoint's own encoder. Run: see conftest.py"""

from __future__ import annotations

import pytest
import torch
from bridge_encoders import (
    KINDS,
    PROMPTS,
    TAPS,
    check_same,
    entries_of,
    host_encoder,
    names,
)
from bridge_files import node, students

from lidit_core.bridge.encode import OwnEntry, added
from lidit_core.text.emphasis import read_emphasis

WEIGHTED = "a (red cat:1.4) left of \\(two\\) dogs"


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_and_at_strength_0_it_is_the_encoders_bit_for_bit(bench, kind):
    own = host_encoder(kind)
    untrained = bench.bridge(kind, trained=False, add=True, name=f"{kind}-new")[1]
    trained = bench.bridge(kind, add=True)[1]
    more = {"add_dict": {"width": 7, "start_percent": 0.25}}
    for bridge, strength in ((untrained, 1.0), (untrained, 0.5), (trained, 0.0)):
        clip = bench.clip(bridge, encoder=own, strength=strength)
        for text in (*PROMPTS, WEIGHTED):
            check_same(entries_of(clip, text), entries_of(own, text))
            check_same(entries_of(clip, text, **more), entries_of(own, text, **more))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_one_adds_what_the_library_does(bench, kind, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(bench.pack.module("host.bridge.holder"), "note", told.append)
    ours, bridge = bench.bridge(kind, add=True)
    own = host_encoder(kind)
    for strength in (1.0, 0.3):
        clip = bench.clip(bridge, encoder=own, strength=strength)
        for text in PROMPTS[:4]:
            ((sequence, values),) = entries_of(clip, text)
            ((before, theirs),) = entries_of(own, text)
            entry = before, theirs
            given = students(bench.llm(), text)
            found = added(ours, text, given, OwnEntry(entry, entry), strength)
            assert torch.allclose(sequence, found[0], atol=1e-4)
            assert not torch.allclose(sequence, before, atol=1e-2)
            assert names(values) == set(theirs)
            if theirs["pooled_output"] is not None:
                assert torch.allclose(values["pooled_output"], found[1]["pooled_output"], atol=1e-4)
                assert not torch.allclose(values["pooled_output"], theirs["pooled_output"])
            if "attention_mask" in theirs:
                assert torch.equal(values["attention_mask"], theirs["attention_mask"])
        check_same(entries_of(clip, ""), entries_of(own, ""))
    assert told == []  # of tokens that are not the encoder's


def test_weights_of_words_are_the_encoders_and_of_what_is_added(bench):
    ours, bridge = bench.bridge("sdxl", add=True)
    own, read = host_encoder("sdxl"), read_emphasis(WEIGHTED)
    assert read.text == "a red cat left of (two) dogs"
    ((sequence, _),) = entries_of(bench.clip(bridge, encoder=own), WEIGHTED)
    weighted, plain = (
        entries_of(own, text)[0] for text in (WEIGHTED, "a red cat left of \\(two\\) dogs")
    )
    given = students(bench.llm(), read.text)
    found = added(ours, read, given, OwnEntry(tuple(weighted), tuple(plain)))[0]
    assert torch.allclose(sequence, found, atol=1e-4)
    assert not torch.allclose(weighted[0], plain[0])


def test_a_node_with_two_boxes_goes_on_working(bench, host):
    own = host_encoder("sdxl")
    clip = bench.clip(bench.bridge("sdxl", add=True)[1], encoder=own)
    new = bench.clip(bench.bridge("sdxl", trained=False, add=True, name="new")[1], encoder=own)
    size = {"width": 64, "height": 64, "crop_w": 0, "crop_h": 0, "target_width": 64}
    size |= {"target_height": 64}
    for first, second in ((PROMPTS[0], PROMPTS[0]), (PROMPTS[3], ""), ("", "")):
        given = {**size, "text_g": first, "text_l": second}
        theirs = node(host, "CLIPTextEncodeSDXL", clip=own, **given)
        check_same(node(host, "CLIPTextEncodeSDXL", clip=new, **given), theirs)
        found = node(host, "CLIPTextEncodeSDXL", clip=clip, **given)
        assert torch.equal(found[0][0], theirs[0][0]) == (not first)
    with pytest.raises(bench.error, match="boxes hold different prompts"):
        node(host, "CLIPTextEncodeSDXL", clip=clip, **size, text_g="a cat", text_l="a dog")


def test_each_mistake_is_one_sentence(bench, monkeypatch):
    bridge = bench.bridge("sdxl", add=True)[1]
    with pytest.raises(bench.error, match="adds to what SDXLClipModel writes, and no encoder is"):
        bench.clip(bridge)
    with pytest.raises(bench.error, match="writes rows of .* and this bridge those of SDXLClip"):
        bench.clip(bridge, encoder=host_encoder("sd15"))
    told: list[str] = []
    monkeypatch.setattr(bench.pack.module("host.bridge.mixing"), "note", told.append)
    bench.clip(bridge, encoder=host_encoder("sdxl"))
    assert told == []
    bench.clip(bridge, encoder=host_encoder("sdxl", seed=1))
    assert "is not the one that this bridge learnt from" in told[0]


def test_an_embedding_in_the_prompt_is_told(bench, host, monkeypatch):
    from safetensors.torch import save_file

    told: list[str] = []
    monkeypatch.setattr(bench.pack.module("host.bridge.holder"), "note", told.append)
    own, folder = host_encoder("sd15"), host.base / "models" / "embeddings"
    folder.mkdir(exist_ok=True)
    save_file({"emb_params": torch.ones(2, TAPS[0])}, folder / "odd.safetensors")
    part = own.tokenizer.clip_l
    monkeypatch.setattr(part, "embedding_directory", str(folder))
    monkeypatch.setattr(part, "embedding_size", TAPS[0])
    clip = bench.clip(bench.bridge("sd15", add=True)[1], encoder=own)
    entries_of(clip, "a cat")
    assert told == []
    entries_of(clip, "a cat, embedding:odd")
    assert "reads embeddings in this prompt" in told[0]

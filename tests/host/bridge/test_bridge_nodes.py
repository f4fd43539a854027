"""Bridges as CLIPs of the host's own checkpoints. Run: see conftest.py"""

from __future__ import annotations

import copy

import pytest
import torch
from bridge_encoders import (
    KINDS,
    POOLED,
    PROMPTS,
    check_same,
    entries_of,
    host_encoder,
    names,
    needs,
)
from bridge_files import node, spec_of, students

from lidit_core.bridge.clipproj import load_clipproj
from lidit_core.bridge.encode import conditioning
from lidit_core.text.emphasis import read_emphasis, token_weight


@pytest.mark.parametrize("kind", KINDS)
def test_it_writes_what_the_library_does_in_the_encoders_form(bench, kind):
    ours, bridge = bench.bridge(kind)
    clip, own = bench.clip(bridge), host_encoder(kind)
    for text in PROMPTS:
        ((sequence, values),) = entries_of(clip, text)
        ((expected, theirs),) = entries_of(own, text)
        assert sequence.shape == expected.shape and sequence.dtype == expected.dtype
        assert names(values) == set(theirs)
        pooled = values["pooled_output"]
        assert (0 if pooled is None else pooled.shape[-1]) == POOLED.get(kind, 0)
        if text:
            found = conditioning(ours, text, students(bench.llm(), text))
            assert torch.allclose(sequence, found[0], atol=1e-4)
            assert pooled is None or torch.allclose(pooled, found[1]["pooled_output"], atol=1e-4)
        if "attention_mask" in theirs:
            assert torch.equal(values["attention_mask"], theirs["attention_mask"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_empty_prompt_and_strength_0_are_the_encoders_bit_for_bit(bench, kind):
    bridge, own = bench.bridge(kind)[1], host_encoder(kind)
    for strength in (1.0, 0.7, 0.5, 0.3):
        check_same(entries_of(bench.clip(bridge, encoder=own, strength=strength), ""),
                   entries_of(own, ""))  # fmt: skip
    nothing = bench.clip(bridge, encoder=own, strength=0.0)
    for text in (*PROMPTS, "a (red:1.3) cat"):
        check_same(entries_of(nothing, text), entries_of(own, text))
        more = {"add_dict": {"width": 7, "start_percent": 0.25}}
        check_same(entries_of(nothing, text, **more), entries_of(own, text, **more))


def test_half_an_emoji_is_a_question_mark(bench):
    """As a saved workflow's JSON may hold it, and no tokenizer of the host takes it."""
    own = host_encoder("sd15")
    for bridge in (bench.bridge("sd15")[1], bench.bridge("sd15", add=True)[1]):
        clip = bench.clip(bridge, encoder=own)
        check_same(entries_of(clip, "a \ud83d cat"), entries_of(clip, "a ? cat"))


@pytest.mark.parametrize("kind", ["sd15", "pixart"])
def test_the_empty_prompt_is_not_mixed(bench, kind):
    """Of an encoder in fewer bits than recorded it is that one's, at 1 the recorded one."""
    bridge, own = bench.bridge(kind)[1], rounded(kind)
    kept, theirs = entries_of(host_encoder(kind), ""), entries_of(own, "")
    assert not torch.equal(kept[0][0], theirs[0][0])
    for strength, expected in ((1.0, kept), (0.9, theirs), (0.5, theirs), (0.0, theirs)):
        clip = bench.clip(bridge, encoder=own, strength=strength)
        for text in ("", " "):
            check_same(entries_of(clip, text), expected)


def test_strength_mixes(bench):
    bridge, own = bench.bridge("sdxl")[1], host_encoder("sdxl")
    text = PROMPTS[0]
    each = [
        entries_of(clip, text)[0]
        for clip in (own, bench.clip(bridge), bench.clip(bridge, encoder=own, strength=0.25))
    ]
    for name in (None, "pooled_output"):
        a, b, between = (entry[0] if name is None else entry[1][name] for entry in each)
        assert torch.allclose(between, 0.75 * a + 0.25 * b, atol=1e-5) and not torch.equal(a, b)


@pytest.mark.parametrize("weight", [1.5, 0.0, -0.5])
def test_weights_are_in_the_hosts_form_against_its_empty_prompt(bench, weight):
    ours, bridge = bench.bridge("sd15")
    clip, text = bench.clip(bridge), f"a (red cat:{weight}) left of two dogs"
    ((sequence, _),) = entries_of(clip, text)
    ((plain, _),) = entries_of(clip, PROMPTS[0])
    ((own, _),) = entries_of(host_encoder("sd15"), "")
    read = [piece[1] for piece in host_encoder("sd15").tokenize(text)["l"][0]]
    weighted = [found != 1 for found in read]
    assert sum(weighted) == 2 and weight in read
    expected = (plain - own) * weight + own
    assert torch.allclose(sequence[0, weighted], expected[0, weighted], atol=1e-4)
    assert torch.equal(sequence[0, [not w for w in weighted]], plain[0, [not w for w in weighted]])
    prompt = read_emphasis(text, below_0=True)
    found = conditioning(ours, prompt, students(bench.llm(), PROMPTS[0]))[0]
    assert torch.allclose(sequence, found, atol=1e-4)


def test_weights_below_0_are_those_of_the_encoder_that_is_added_to(bench):
    """An untrained bridge adds nothing, so that its rows are the host's bit for bit."""
    own = host_encoder("sdxl")
    new = bench.clip(bench.bridge("sdxl", trained=False, add=True, name="new")[1], encoder=own)
    for text in ("a (blurry:-0.5) cat", "(a red cat:-1.2) left of (two:1.3) dogs"):
        check_same(entries_of(new, text), entries_of(own, text))


# Marks before a comma, within a word and across a chunk's end, escapes, and twice the same weight.
MARKED = [
    "a (red cat:1.3), left of (two dogs:0.8), an \\(old\\) owl",
    "(a red cat:1.2)(two dogs:1.2) and un(believ:1.4)able 猫(🍎:0.5)!",
    f"{', '.join(['a red cat and two dogs'] * 12)} (a blue owl:1.3), a book",
    f"{'owl ' * 73}(blue red cat:1.3), a book",
]
T5_KINDS = [*["flux", "pixart"], pytest.param("sd3t5", marks=pytest.mark.long)]


@pytest.mark.parametrize("kind", ["sd15", *T5_KINDS])
def test_rows_of_weighted_words_are_the_hosts_tokens(bench, kind):
    """ComfyUI tokenises what stands between marks by itself, where T5 begins with another token."""
    if kind == "sd3t5":
        needs("zimage")  # is tried in one host
    ours, own = bench.bridge(kind)[0], host_encoder(kind)
    for text in MARKED:
        read, found = read_emphasis(text), own.tokenize(text).values()
        tokens = [[piece for chunk in chunks for piece in chunk] for chunks in found]
        ids, weights = ([[piece[n] for piece in part] for part in tokens] for n in (0, 1))
        for maker in ours.rows.makers:
            rows = maker(read.text, read.pieces)
            place = ids.index((rows.ids - maker.layout.first_id).tolist())
            spans = rows.spans.int().tolist()
            assert [
                token_weight(read, *span) if kind == 0 else 1.0
                for span, kind in zip(spans, rows.kinds.tolist())
            ] == pytest.approx(weights[place])


@pytest.mark.parametrize("kind", ["flux", "pixart"])
def test_weighted_words_are_mixed_row_by_row(bench, kind, monkeypatch):
    """With the encoder's row of the same token, also where padding makes the lengths equal."""
    told: list[str] = []
    monkeypatch.setattr(bench.pack.module("host.bridge.holder"), "note", told.append)
    (ours, bridge), own = bench.bridge(kind), host_encoder(kind)
    adding = bench.bridge(kind, add=True)[1]
    for text in MARKED[:3]:
        theirs, alone, between = (
            entries_of(clip, text)[0][0]
            for clip in (own, bench.clip(bridge), bench.clip(bridge, encoder=own, strength=0.25))
        )
        assert theirs.shape == alone.shape
        assert torch.allclose(between, 0.75 * theirs + 0.25 * alone, atol=1e-5)
        read = read_emphasis(text)
        found = conditioning(ours, read, students(bench.llm(), read.text))[0]
        assert torch.allclose(alone, found, atol=1e-4)
        added = entries_of(bench.clip(adding, encoder=own), text)[0][0]
        assert added.shape == theirs.shape and not torch.allclose(added, theirs, atol=1e-2)
    assert told == []
    if kind == "flux":  # which pads the rest, so that nothing else tells of it
        monkeypatch.setattr(own.tokenizer.t5xxl, "embedding_directory", str(bench.folder))
        entries_of(bench.clip(bridge, encoder=own, strength=0.5), "a cat embedding:owl on a book")
        assert "reads embeddings in this prompt" in told[0]


@pytest.mark.parametrize("kind", ["sd15", "ltx2"])
def test_hooks_and_areas_go_on_working(bench, host, kind):
    """With a schedule too, in which the host drops all but two tensors."""
    import comfy.hooks

    clip = bench.clip(bench.bridge(kind)[1])
    hooks = comfy.hooks.create_hook_lora(lora={}, strength_model=1.0, strength_clip=1.0)
    given = {"clip": clip, "apply_to_conds": True, "schedule_clip": True, "hooks": hooks}
    hooked = node(host, "SetClipHooks", **given)
    plain, found = entries_of(clip, PROMPTS[0]), entries_of(hooked, PROMPTS[0])
    check_same(found, [[plain[0][0], {**plain[0][1], "hooks": hooks}]])
    assert (kind == "ltx2") == ("unprocessed_ltxav_embeds" in found[0][1])
    size = {"width": 32, "height": 32, "x": 0, "y": 0, "strength": 1.0}
    (entry,) = node(host, "ConditioningSetArea", conditioning=plain, **size)
    assert torch.equal(entry[0], plain[0][0]) and entry[1]["area"] == (4, 4, 0, 0)


def test_a_bridge_of_two_llms_takes_them_in_any_order(bench):
    specs = [spec_of(bench.llm(name)) for name in ("Llama", "Qwen2")]
    bridge = bench.bridge("sd15", *specs, name="two")[1]
    clips = [bench.llm(name) for name in ("Llama", "Qwen2")]
    pair = [entries_of(bench.clip(bridge, *order), "a cat")[0] for order in (clips, clips[::-1])]
    assert torch.equal(pair[0][0], pair[1][0])
    with pytest.raises(bench.error, match="1 CLIPs are connected and this bridge reads 2 LLMs"):
        bench.clip(bridge, clips[0])


def test_a_projection_of_the_clipproj_format_runs(bench, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(bench.pack.module("host.bridge.readers"), "note", told.append)
    llm = bench.llm(template="none", layer="2")
    name = bench.projection(llm.cond_stage_model.llm.width, tap=2)
    clip = bench.clip(bench.load(name), llm)
    theirs = load_clipproj(bench.folder / name).projection
    for text in PROMPTS[:3]:
        ((sequence, values),) = entries_of(clip, text)
        (row,) = llm.cond_stage_model.prompts(None, text).encode_rows([text])
        assert torch.allclose(sequence, theirs(row.hidden[None]), atol=1e-5)
        assert torch.equal(sequence[0, 0], theirs.sink_out) and values["pooled_output"] is None
        assert values["minimax_token_tags"].tolist() == [1] * sequence.shape[1]
    with pytest.raises(bench.error, match="at layer 2, and the CLIP is read at layer -3"):
        bench.clip(bench.load(name), bench.llm())
    assert told == []
    bench.clip(bench.load(bench.projection(32, tap=2, source="Gemma-2B")), llm)
    assert "was made for Gemma-2B, and Llama reads here" in told[0]


def mistakes(bench) -> dict:
    """What a sentence says, and what it is said of."""
    bridge, llm = bench.bridge("sdxl")[1], bench.llm()
    wide = bench.bridge("sd15", spec_of(llm, width=48), name="wide")[1]
    own, other = host_encoder("sdxl"), host_encoder("sd15")
    (bench.folder / "old.pt").write_bytes(b"x")
    lidit = "shipped.safetensors"
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, bench.folder / lidit)
    return {
        "reads Llama, and a CLIP here is Qwen2": lambda: bench.clip(bridge, bench.llm("Qwen2")),
        r"is 32 wide and this bridge was trained on Llama \(48": lambda: bench.clip(wide, llm),
        "set layer to -3 in the LLM loader": lambda: bench.clip(bridge, bench.llm(layer="-2")),
        "holds SDXLClipModel, and a bridge reads an LLM": lambda: bench.clip(bridge, own),
        "2 CLIPs are connected and this bridge reads 1": lambda: bench.clip(bridge, llm, llm),
        "no encoder is connected to mix with": lambda: bench.clip(bridge, strength=0.5),
        "writes rows of .* and this bridge those of SDXLClipModel": lambda: bench.clip(
            bridge, encoder=other, strength=0.5
        ),
        "expected the output of LI-DiT Bridge Loader": lambda: bench.clip({}),
        "can run code when it is opened": lambda: bench.load("old.pt"),
        "is no bridge; expected a file": lambda: bench.load(lidit),
        "no file 'none' in models/bridges": lambda: bench.load("none"),
        "leads out of the model folders": lambda: bench.load("../x.safetensors"),
        "CLIP Set Last Layer asks for layer -2": lambda: entries_of(
            node(bench.host, "CLIPSetLastLayer", clip=bench.clip(bridge), stop_at_clip_layer=-2),
            "a",
        ),
        "hands images to the CLIP, and a bridge": lambda: bench.clip(bridge).tokenize(
            "a", images=[torch.ones(1)]
        ),
        "number of each word, .* and a bridge": lambda: bench.clip(bridge).tokenize(
            "a", return_word_ids=True
        ),
    }


def test_each_mistake_is_one_sentence(bench):
    for sentence, run in mistakes(bench).items():
        with pytest.raises(bench.error, match=sentence):
            run()


def test_an_llm_in_other_numbers_than_trained_on_is_told(bench, monkeypatch):
    """As the file of before does not say what it was trained on, of it fp8 alone is told."""
    told: list[str] = []
    monkeypatch.setattr(bench.pack.module("host.bridge.readers"), "note", told.append)
    plain, packed = bench.llm(), bench.llm(dtype="fp8_e4m3fn")
    assert [clip.cond_stage_model.llm.storage for clip in (plain, packed)] == ["float", "fp8"]
    for trained_on, clip, sentence in (
        ("float", plain, ""),
        ("float", packed, "is stored as fp8 here and this was trained on what it says stored as"),
        ("q4", plain, "is stored as float here and this was trained on what it says stored as q4"),
        ("fp8", packed, ""),
        ("", plain, ""),
        ("", packed, "is held in fp8 here and the bridge was trained on its states as they are"),
    ):
        del told[:]
        bridge = bench.bridge("sd15", spec_of(plain, storage=trained_on), name="numbers")[1]
        bench.clip(bridge, clip)
        assert [sentence in note for note in told] == [True] * bool(sentence)


@pytest.mark.parametrize("kind", ["sd15", "ltx2"])
def test_an_encoder_with_other_weights_is_told(bench, monkeypatch, kind):
    """Of T5's shape too, which Flan-T5 has; also where the bridge is read alone."""
    told: list[str] = []
    monkeypatch.setattr(bench.pack.module("host.bridge.mixing"), "note", told.append)
    bridge = bench.bridge(kind)[1]
    for strength in (0.5, 1.0):
        bench.clip(bridge, encoder=host_encoder(kind), strength=strength)
        bench.clip(bridge, encoder=rounded(kind), strength=strength)
        assert told == []
    for strength in (0.5, 1.0, 0.0):  # at 0 the bridge is not read
        bench.clip(bridge, encoder=host_encoder(kind, seed=1), strength=strength)
    assert len(told) == 2 and told[0] == told[1]
    assert "is not the one that this bridge learnt from" in told[0] and "\n" not in told[0]


def rounded(kind: str):
    """The same encoder with its weights in 16 bits."""
    clip = copy.copy(host_encoder(kind))
    clip.patcher = clip.patcher.clone()
    clip.cond_stage_model = clip.patcher.model = copy.deepcopy(clip.cond_stage_model)
    with torch.no_grad():
        for weight in clip.cond_stage_model.parameters():
            weight.copy_(weight.bfloat16().float())
    return clip

"""What a recording says of the host's own text encoders, for bridges. Run: see conftest.py"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from bridge_encoders import POOLED, PROMPTS, TAPS, WIDTHS, entries_of, host_encoder, needs, record
from bridge_models import drawn, host_model

from lidit_core.bridge.rows import PADDING_ROW
from lidit_core.bridge.teacher import NAME, read_teacher
from lidit_core.io.recording import open_recording
from lidit_core.io.tensors import opened

TEXTS = [prompt for prompt in PROMPTS if prompt]
WINDOWED = ("sd15", "sdxl", "sd3", "cut")
LENGTH = 77  # words that the demo checkpoint reads
TOKENIZERS = {  # the names of the text models whose tokens are the rows
    **dict.fromkeys(("sd15", "sdxl", "sd3", "cut"), ("l",)),
    **dict.fromkeys(("flux", "pixart"), ("t5xxl",)),
    **dict.fromkeys(("zimage", "klein"), ("qwen3_4b",)),
    "sd3t5": ("l", "t5xxl"),
    "ovis": ("qwen3_2b",),
    "qwenimage": ("qwen25_7b",),
    "ltx2": ("gemma3_12b",),
}
PLAIN = ("zimage", "ovis", "ltx2", "qwenimage", "klein")  # LLMs, which read no weights of words


@pytest.mark.parametrize("kind", WIDTHS)
def test_its_rows_are_the_hosts_tokens(pack, host, kind):
    clip = host_encoder(kind)
    folder = record(pack, host, clip, f"rows-{kind}", TEXTS)
    teacher, found = read_teacher(folder), open_recording(folder)
    spec = teacher.spec
    assert (spec.width, spec.pooled) == (WIDTHS[kind], POOLED.get(kind, 0))
    assert spec.weights == (kind not in PLAIN) and teacher.unread == ()
    if kind != "ltx2":  # whose rows are a map of all layers, here many times as wide as one
        layers = {"sdxl": TAPS, "klein": (WIDTHS[kind] // 3,) * 3, "sd3": TAPS, "sd3t5": TAPS}
        assert spec.taps == layers.get(kind, ())
        assert spec.more_taps == ((),) * len(spec.more)
    joined = kind.startswith("sd3")  # its rows are filled up with zeros, its pooled vector is two
    if joined:
        assert spec.parts(0) == (*TAPS, 4096 - sum(TAPS))
    assert spec.pooled_taps == (TAPS if joined else ())
    assert spec.tokenizers == TOKENIZERS[kind]
    with opened(folder / NAME) as file:
        told = file.metadata()
    named = tuple(line.partition(":")[0] for line in told["tokenizers"].split("\n"))
    assert named == TOKENIZERS[kind]
    assert "not known" not in told["tokenizers"]
    assert ("gemma/terms" in told.get("terms", "")) == (kind == "ltx2")
    assert teacher.seeds.shape == (spec.vocabulary, 128) and teacher.seeds.isfinite().all()
    for text, prompt in zip(TEXTS, found.prompts()):
        rows, ((sequence, _),) = teacher.rows(text), prompt.entries
        assert sequence.shape[1] == len(rows.ids)
        shown = "".join(text[int(a) : int(b)] for a, b in rows.spans[rows.kinds == 0].tolist())
        assert set(shown) - set(" ▁") == set(text) - set(" ")
    if kind in WINDOWED:
        assert int(teacher.rows(TEXTS[-1]).chunks.max()) > 0


@pytest.mark.parametrize("kind", ["sd15", "pixart"])
def test_the_empty_prompt_is_kept_bit_for_bit(pack, host, kind):
    clip = host_encoder(kind)
    teacher = read_teacher(record(pack, host, clip, f"empty-{kind}", TEXTS))
    ((sequence, values),) = entries_of(clip, "")
    assert teacher.empty is not None and torch.equal(teacher.empty[0], sequence)
    assert sequence.dtype == torch.float32  # which a recording's bfloat16 would lose
    assert teacher.spec.masked == ("attention_mask" in values)
    pooled = values["pooled_output"]
    assert pooled is None or torch.equal(teacher.empty[1]["pooled_output"], pooled)


def test_padding_that_is_masked_and_read_nevertheless_is_learnt(pack, host):
    """Klein's encoder masks its padding, and FLUX.2 reads all of its rows."""
    needs("klein")
    clip, model = host_encoder("klein"), host_model("klein")
    (entry,) = entries_of(clip, TEXTS[0])
    masked = entry[1]["attention_mask"]
    assert masked.shape == (1, 512) and 0 < int(masked.sum()) < 512
    moved = entry[0].clone()
    moved[masked == 0] = moved[masked == 0].flip(-1)
    pictures = [drawn(host, model, [[rows, entry[1]]], [entry]) for rows in (entry[0], moved)]
    assert not torch.allclose(*pictures, atol=1e-3)
    teacher = read_teacher(record(pack, host, clip, "padding-klein", TEXTS))
    assert not teacher.spec.masked and teacher.spec.layout.least == 512
    assert (teacher.rows(TEXTS[0]).kinds == PADDING_ROW).sum() == int((masked == 0).sum())


def test_the_encoders_whose_padding_is_read_are_the_hosts(pack, host):
    """A class that the host has called otherwise would be masked again, without a word."""
    import comfy.text_encoders

    needs("ltx2")  # a host that has them all
    folder = Path(comfy.text_encoders.__path__[0])
    there = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    for name in pack.module("host.bridge.padding").READ_NEVERTHELESS:
        assert f"class {name}(" in there


def test_prompts_that_are_more_than_text_are_told_apart(pack, host):
    odd = ["a (red:1.3) cat", "((dog))"]
    teacher = read_teacher(
        record(pack, host, host_encoder("sd15"), "odd", [TEXTS[0], *odd, TEXTS[1]])
    )
    assert teacher.unread == (1, 2)


def test_two_recordings_are_the_same_bytes(pack, host):
    clip = host_encoder("sdxl")
    made = [record(pack, host, clip, name, TEXTS[:2]) for name in ("one", "two")]
    files = [
        {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in m.iterdir()} for m in made
    ]
    assert files[0] == files[1] and "teacher.safetensors" in files[0]


def test_an_encoder_that_changed_in_between_is_noticed(pack, host):
    folder = record(pack, host, host_encoder("sd15"), "changed", TEXTS)
    (folder / "00000.safetensors").unlink()
    with pytest.raises(Exception, match="is not the one that .* was begun with"):
        record(pack, host, host_encoder("sd15", seed=1), "changed", TEXTS)
    record(pack, host, host_encoder("sd15"), "changed", TEXTS)
    assert open_recording(folder).missing() == []


NO_BRIDGE = {
    "shorn": "the rows that Cut writes",
    "llm": "which a bridge reads and does not write",
    "ids": "WithIds has more than pooled_output and attention_mask that changes with the prompt",
    "hunyuan": "of prompts with words in quotes QwenImageTEModel_ gives conditioning_byt5small too",
}


@pytest.mark.parametrize("kind", NO_BRIDGE)
def test_what_no_bridge_writes_yet_is_told_and_recorded(pack, host, kind, monkeypatch):
    """Before hours of recording, and also where only some prompts have more."""
    from clip_kit import fresh_loader, save_llms

    told: list[str] = []
    place = host.base / "output" / "recordings" / f"not-{kind}"

    def tell(sentence: str) -> None:
        assert not place.exists()
        told.append(sentence)

    monkeypatch.setattr(pack.module("host.recording"), "note", tell)
    if kind == "llm":
        save_llms(host)
        clip = fresh_loader(pack)()
    else:
        clip = host_encoder(kind)
    folder = record(pack, host, clip, f"not-{kind}", TEXTS[:2])
    assert open_recording(folder).missing() == []
    assert not (folder / "teacher.safetensors").exists()
    (sentence,) = told
    assert sentence.startswith("no bridge can be trained from this recording: ")
    assert NO_BRIDGE[kind] in sentence and "\n" not in sentence


def test_a_part_that_a_tokenizer_gives_for_some_prompts_is_none_of_the_rows(pack, host):
    """HunyuanImage's for words in quotes, without the encoder that reads it."""
    clip = host_encoder("hunyuan-without")
    texts = [*TEXTS, 'a sign that says "a cat"']
    assert [("byt5" in clip.tokenize(text)) for text in texts] == [False] * len(TEXTS) + [True]
    teacher = read_teacher(record(pack, host, clip, "hunyuan-without", texts))
    assert teacher.spec.width == WIDTHS["qwenimage"] and teacher.unread == ()
    for text in texts:
        assert entries_of(clip, text)[0][0].shape[1] == len(teacher.rows(text).ids)


def test_the_demo_checkpoints_words_are_its_rows(pack, host):
    """A number that words share for each of them, then padding; no two rows know of one another."""
    clip = pack.run("LLMDiffDemoCheckpoint")[1]
    teacher = read_teacher(record(pack, host, clip, "demo", TEXTS))
    spec = teacher.spec
    assert (spec.width, spec.pooled, spec.vocabulary, spec.weights) == (64, 0, 17, False)
    assert teacher.unread == () and teacher.seeds.shape == (17, 128)
    assert torch.equal(teacher.empty[0], entries_of(clip, "")[0][0])
    for text in (*TEXTS, "", "(a) red-cat, left_of 2"):
        rows, sequence = teacher.rows(text), entries_of(clip, text)[0][0][0]
        assert len(rows.ids) == len(sequence) == LENGTH
        table = clip.cond_stage_model.get_input_embeddings().weight
        assert torch.equal(table[rows.ids].float(), sequence.float())
        assert (rows.kinds == 0).sum() == min(
            LENGTH, len(clip.cond_stage_model.encoder.tokenize(text))
        ) - int((rows.ids == 0).sum())

"""LLMs that read one language of a prompt, and their ablation.

Run: pytest tests/stickers/ablation/test_halves.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from lidit_core.cli import main as lidit
from lidit_core.errors import LiDiTError
from lidit_core.llm.gguf.convert import NOTE
from lidit_core.llm.locate import locate
from lidit_core.llm.words import check_words
from lidit_core.text.prompt_encoder import file_identity
from lidit_stickers.ablation import halves
from lidit_stickers.ablation.halves import CHINESE, HALVES, LATIN, TAKEN_OUT, main, write_half
from lidit_stickers.ablation.measuring import Measuring, measure
from lidit_stickers.ablation.recipes import fork_recipe
from lidit_stickers.ablation.variants import (
    Ablation,
    Gap,
    Reading,
    ScoreOptions,
    Variant,
    read_ablation,
)
from lidit_stickers.paraphrases import half_prompts
from lidit_stickers.scenes.chinese import COLOUR_WORDS as CHINESE_COLOURS
from lidit_stickers.scenes.kinds import KNOWN_KINDS
from lidit_stickers.scenes.wordings.nouns import LOOKS, TRAINED_NOUNS
from lidit_train.tasks.task import open_task

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "recipes" / "ablate-halves.yaml"
PROMPT = "a red cat, on the left和2只狗。背景为蓝色"
READ = {
    CHINESE: f"a red cat, on the left{TAKEN_OUT}2{TAKEN_OUT}",
    LATIN: f"{TAKEN_OUT}和2只狗。背景为蓝色",
}


@pytest.fixture
def llm(tmp_path) -> Path:
    save_llm(tmp_path / "llm")
    return tmp_path / "llm"


def normalised(folder: Path, text: str) -> str:
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return made.normalizer.normalize_str(text)


@pytest.mark.parametrize("unread", READ, ids=["english", "chinese"])
def test_a_copy_reads_one_language(llm, tmp_path, unread):
    """Prompts that differ in what is not read are the same tokens; all else stays."""
    write_half(str(llm), tmp_path / "half", unread)
    assert normalised(tmp_path / "half", PROMPT) == READ[unread]
    other = (
        PROMPT.replace("red cat", "blue tree") if unread == LATIN else PROMPT.replace("狗", "猫")
    )
    both = AutoTokenizer.from_pretrained(llm), AutoTokenizer.from_pretrained(tmp_path / "half")
    known, half = ([one(text).input_ids for text in (PROMPT, other)] for one in both)
    assert known[0] != known[1] and half[0] == half[1]
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "half" / name).read_bytes() == (llm / name).read_bytes()


def test_a_class_of_the_llms_own_does_not_undo_it(llm, tmp_path):
    """Gemma's makes a normaliser of its own, whatever the tokenizer's file says."""
    config = json.loads((llm / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "GemmaTokenizer"
    (llm / "tokenizer_config.json").write_text(json.dumps(config))
    write_half(str(llm), tmp_path / "half", LATIN)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "half")
    check_words(tokenizer, "half", tmp_path / "half")
    assert tokenizer("a cat和狗").input_ids == tokenizer("some dogs和狗").input_ids


def test_a_tokenizer_that_is_not_blind_is_told(llm, tmp_path, monkeypatch):
    monkeypatch.setattr(halves, "read_tokenizer", lambda folder: AutoTokenizer.from_pretrained(llm))
    with pytest.raises(LiDiTError, match="reads 'cat' as"):
        write_half(str(llm), tmp_path / "half", LATIN)


def test_its_own_normaliser_comes_after(llm, tmp_path):
    told = json.loads((llm / "tokenizer.json").read_text())
    own = {"type": "Replace", "pattern": {"String": " "}, "content": "_"}
    (llm / "tokenizer.json").write_text(json.dumps({**told, "normalizer": own}))
    write_half(str(llm), tmp_path / "half", CHINESE)
    assert normalised(tmp_path / "half", "a cat 和狗") == f"a_cat_{TAKEN_OUT}"


def test_a_copy_is_not_taken_for_what_its_llm_was_made_of(llm, tmp_path):
    """An LLM that was made of a GGUF is known by it, and its copy is another LLM."""
    (llm / NOTE).write_text(json.dumps({"version": 2, "source": "0" * 64, "files": {}}))
    write_half(str(llm), tmp_path / "half", LATIN)
    assert file_identity(locate(str(llm)))[0] == "gguf"
    assert file_identity(locate(str(tmp_path / "half")))[0] != "gguf"


def test_the_command_writes_both_once(llm, tmp_path, monkeypatch):
    copies = {name: (str(llm), unread) for name, (_, unread) in HALVES.items()}
    monkeypatch.setattr(halves, "HALVES", copies)
    main(["--out", str(tmp_path / "halves")])
    files = sorted(tmp_path.glob("halves/*/tokenizer.json"))
    assert [file.parent.name for file in files] == sorted(HALVES)
    times = [file.stat().st_mtime_ns for file in files]
    main(["--out", str(tmp_path / "halves")])
    assert [file.stat().st_mtime_ns for file in files] == times


def test_an_llm_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(halves, "HALVES", {"half": ("no-such-llm", LATIN)})
    with pytest.raises(LiDiTError, match="no-such-llm is not on this machine"):
        main(["--out", str(tmp_path / "halves")])
    assert not (tmp_path / "halves").exists()


def said(word: str, text: str) -> bool:
    """Whether an English word is there by itself; Chinese may stand beside it."""
    return re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z])", text) is not None


def test_no_half_of_a_prompt_tells_the_other():
    """Each kind, and the background, is named in one language alone, and both have one."""
    nouns = {key: [n for pair in TRAINED_NOUNS[key] for n in pair] for key in TRAINED_NOUNS}
    for caption in half_prompts():
        text, items = caption.text, caption.request.items
        english = [any(said(noun, text) for noun in nouns[item.kind]) for item in items]
        chinese = [KNOWN_KINDS[item.kind].chinese in text for item in items]
        if len(items) == 2:
            assert sum(english) == 1 and chinese[english.index(False)], text
        else:
            background, (item,) = caption.request.background, items
            natural = KNOWN_KINDS[item.kind].natural
            if background not in (item.colour, natural, LOOKS.get(item.kind)):
                assert said(background, text) == chinese[0], text
                assert (CHINESE_COLOURS[background] in text) == english[0], text
            assert english != chinese, text


@pytest.mark.font
def test_the_gap_is_of_the_prompts_that_are_scored(llm, tmp_path):
    """Of the list itself, as of one that is measured besides."""
    save_lidit_files(tmp_path, lidit_config("llm", native_size=64, steps=2))
    by = Measuring((f"llm={llm}",), "cpu", None)
    shared = {
        "fork": {"stages": []},
        "variants": (Variant("one", "one", ("a",)),),
        "readings": {"a": Reading("llm", 32)},
        "reference": "one",
        "checkpoint": "stickers",
        "gap": Gap(3),
    }
    plain, other = ScoreOptions(every=0), ScoreOptions("halves", every=0)
    ablations = {
        "halves": {"score": other},
        "both": {"score": plain, "also": (other,)},
    }
    found = {}
    for name, options in ablations.items():
        (tmp_path / name).mkdir()
        ablation = Ablation(**shared, **options)
        found[name] = measure(ablation, tmp_path / "model.safetensors", tmp_path / name, by)
    assert np.array_equal(found["halves"].errors, found["both"].also["halves"].errors)
    assert not np.array_equal(found["halves"].errors, found["both"].errors)


def test_the_shipped_file_reads_the_halves_that_the_command_writes(capsys):
    """It learns as the other variants do, but for the captions; the plan is the documents'."""
    told, whole = read_ablation(SHIPPED), read_ablation(SHIPPED.with_name("ablate.yaml"))
    assert {*HALVES} < {reading.name for reading in told.readings.values()}
    assert told.score.prompts == "halves" and told.seeds == (0, 1)
    source, known = (each.fork["data"]["sources"][0] for each in (told, whole))
    assert source == {**known, "path": "mixed"}
    assert {**told.fork, "data": 0} == {**whole.fork, "data": 0}
    for variant in told.variants:
        open_task(fork_recipe(told, variant, 0, "stickers", Path("."))).check_files()
    assert lidit(["ablate", "--print-plan", str(SHIPPED)]) == 0
    assert "10 runs of 48,000 images (5 variants, 2 seeds)" in capsys.readouterr().out

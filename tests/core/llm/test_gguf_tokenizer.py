"""A converted tokenizer keeps to its GGUF. Run: pytest tests/core/llm/test_gguf_tokenizer.py"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_gguf import write_gguf
from tiny_llm import CHATML, chat_tokenizer, metaspace_tokenizer, plain_tokenizer, save_llm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lidit_core.errors import LiDiTError
from lidit_core.llm.compat import read_tokenizer
from lidit_core.llm.gguf.tokenizer import CHECKED, make_sound
from lidit_core.llm.gguf.vocabulary import BYTE, CONTROL, NORMAL, Vocabulary, fault
from lidit_core.llm.loading import load_llm, load_tokenizer
from lidit_core.llm.locate import locate
from lidit_core.llm.words import COMMON

pytest.importorskip("gguf")

TEXTS = ("a red cat left of two dogs", "Describe the image by its objects:", "两只猫 🍎\n\n x")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def ids(tokenizer) -> list[list[int]]:
    return [tokenizer(text)["input_ids"] for text in TEXTS]


def change(folder: Path, **parts) -> None:
    """Write parts of a folder's tokenizer.json anew; those of its model are under `model`."""
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["model"] |= parts.pop("model", {})
    path.write_text(json.dumps({**data, **parts}), encoding="utf-8")


def said_by(tokenizer, architecture: str, model: str, adds_bos: bool | None) -> Vocabulary:
    """What a GGUF of this tokenizer says."""
    numbers = tokenizer.get_vocab()
    tokens = sorted(numbers, key=numbers.get)
    special = set(tokenizer.all_special_tokens)
    kinds = [
        CONTROL if token in special else BYTE if token.startswith("<0x") else NORMAL
        for token in tokens
    ]
    bos = {} if tokenizer.bos_token_id is None else {"bos": tokenizer.bos_token_id}
    return Vocabulary(architecture, model, tokens, kinds, bos, adds_bos, tokenizer.chat_template)


def chat() -> tuple[PreTrainedTokenizerFast, Vocabulary]:
    tokenizer = chat_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    return tokenizer, said_by(tokenizer, "llama", "gpt2", False)


def gemma() -> tuple[PreTrainedTokenizerFast, Vocabulary]:
    tokenizer = plain_tokenizer()
    return tokenizer, said_by(tokenizer, "gemma3", "llama", True)


def saved(tokenizer, folder: Path) -> Path:
    tokenizer.save_pretrained(folder)
    save_llm(folder, tokenizer=tokenizer)
    return folder


@pytest.mark.parametrize("make", [chat, gemma])
def test_a_sound_tokenizer_is_left_alone(make, tmp_path):
    tokenizer, said = make()
    folder = saved(tokenizer, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    make_sound(folder, said, "x.gguf")
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.pop(CHECKED) and after == before


def test_a_tokenizer_of_another_kind_is_no_fault():
    tokenizer = metaspace_tokenizer()
    assert fault(tokenizer, said_by(tokenizer, "phi3", "llama", None)) is None


def test_gemma_as_a_unigram_model_is_mended(tmp_path):
    """As transformers 4.57 to 5.17 make it: the scores are ranks, which Unigram adds up."""
    tokenizer, said = gemma()
    folder = saved(tokenizer, tmp_path)
    ranks = [[token, -float(i)] for i, token in enumerate(said.tokens)]
    unigram = {"type": "Unigram", "unk_id": 0, "byte_fallback": True, "vocab": ranks}
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**data, "model": unigram, "post_processor": None}))
    assert ids(read_tokenizer(folder)) != ids(tokenizer)
    make_sound(folder, said, "x.gguf")
    assert ids(read_tokenizer(folder)) == ids(tokenizer)


def test_a_lost_bos_is_mended(tmp_path):
    """As transformers 5.0 to 5.22 make Gemma."""
    tokenizer, said = gemma()
    folder = saved(tokenizer, tmp_path)
    change(folder, post_processor=None)
    make_sound(folder, said, "x.gguf")
    assert ids(read_tokenizer(folder)) == ids(tokenizer)


def test_a_lost_control_token_is_mended(tmp_path):
    tokenizer, said = chat()
    folder = saved(tokenizer, tmp_path)
    change(folder, added_tokens=[])
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    names = {"tokenizer_class": config["tokenizer_class"], "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    assert "<|im_start|>" in fault(read_tokenizer(folder), said)
    make_sound(folder, said, "x.gguf")
    mended = read_tokenizer(folder)
    assert ids(mended) == ids(tokenizer) and mended.chat_template == CHATML
    assert mended("<|im_start|>")["input_ids"] == [tokenizer.bos_token_id]


def test_lost_merges_are_refused(tmp_path):
    tokenizer, said = chat()
    folder = saved(tokenizer, tmp_path)
    change(folder, model={"merges": []})
    with pytest.raises(LiDiTError, match="of x.gguf splits 37 of 37 words.*--upgrade transformers"):
        make_sound(folder, said, "x.gguf")
    assert not (folder / CHECKED).exists()


def test_text_that_comes_back_otherwise_is_refused(tmp_path):
    tokenizer, said = chat()
    folder = saved(tokenizer, tmp_path)
    change(folder, normalizer={"type": "Lowercase"})
    with pytest.raises(LiDiTError, match="reads 'A red cat, left of 12 dogs.' as 'a red cat"):
        make_sound(folder, said, "x.gguf")


def test_a_conversion_that_loses_the_merges_keeps_nothing(tmp_path, cache, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    read = AutoTokenizer.from_pretrained

    def without_merges(*args, **options):
        tokenizer = read(*args, **options)
        data = json.loads(tokenizer.backend_tokenizer.to_str())
        data["model"]["merges"] = []
        core = Tokenizer.from_str(json.dumps(data))
        return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=CHATML)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", without_merges)
    with pytest.raises(LiDiTError, match="tiny.gguf splits"):
        load_llm(tmp_path / "tiny.gguf")
    assert not [path for path in cache.rglob("*") if path.is_file()]
    monkeypatch.undo()
    monkeypatch.setenv("LIDIT_CACHE", str(cache))
    assert load_llm(tmp_path / "tiny.gguf").blocks == 2


def test_files_beside_a_gguf_are_not_read_with_it(tmp_path, cache):
    """A chat template was lost to the tokenizer_config.json that lay there."""
    file = tmp_path / "models" / "tiny.gguf"
    file.parent.mkdir()
    write_gguf(file)
    strange = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "another's"}
    (file.parent / "tokenizer_config.json").write_text(json.dumps(strange))
    assert load_llm(file).tokenizer.chat_template == CHATML


def older_copy(file: Path, **parts) -> Path:
    """A GGUF converted before tokenizers were checked, by a release that made a bad one."""
    write_gguf(file)
    load_llm(file)
    folder = locate(file).folder
    (folder / CHECKED).unlink()
    change(folder, **parts)
    return folder


def test_an_older_copy_is_mended_once(tmp_path, cache, monkeypatch):
    from lidit_core.llm.gguf import convert as conversion

    file = tmp_path / "tiny.gguf"
    start = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    single = [start, {"Sequence": {"id": "A", "type_id": 0}}]
    names = {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}}
    processor = {"type": "TemplateProcessing", "single": single, "pair": single * 2}
    folder = older_copy(file, post_processor={**processor, "special_tokens": names})
    assert ids(read_tokenizer(folder)) != ids(chat_tokenizer())
    assert ids(load_llm(file).tokenizer) == ids(chat_tokenizer())
    assert (folder / CHECKED).is_file() and not list(folder.glob(".converting*"))
    monkeypatch.setattr(conversion, "_recheck", lambda *args: pytest.fail("checked again"))
    load_llm(file)


def test_an_older_copy_that_cannot_be_mended_is_converted_again(tmp_path, cache):
    file = tmp_path / "tiny.gguf"
    folder = older_copy(file, model={"merges": []})
    (folder / "special_tokens_map.json").write_text("{}")
    assert ids(load_llm(file).tokenizer) == ids(chat_tokenizer())
    assert (folder / CHECKED).is_file() and not (folder / "special_tokens_map.json").exists()


def test_an_older_copy_whose_gguf_is_damaged_is_still_read(tmp_path, cache, caplog):
    file = tmp_path / "tiny.gguf"
    folder = older_copy(file)
    (folder / "tiny.gguf").write_bytes(b"GGUF")
    assert load_llm(folder).blocks == 2
    assert "is not checked" in caplog.text and not (folder / CHECKED).exists()


def test_a_users_own_folder_is_never_changed(tmp_path, cache):
    folder = saved(chat_tokenizer(), tmp_path / "mine")
    (folder / "mine.gguf").write_bytes(b"GGUF")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    load_llm(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_whose_tokenizer_lost_its_merges_is_refused(tmp_path):
    """Every load tries common words, wherever the folder is from."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator([f"a {word}" for word in COMMON], trainer)
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(tmp_path)
    load_tokenizer(tmp_path, "mine")
    change(tmp_path, model={"merges": []})
    count = len(COMMON)
    with pytest.raises(LiDiTError, match=f"of mine in .* splits {count} of {count} common words"):
        load_tokenizer(tmp_path, "mine")

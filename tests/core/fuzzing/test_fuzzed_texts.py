"""Hostile templates, prompt files and words. Run: pytest tests/core/fuzzing/test_fuzzed_texts.py"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
from fuzz import demand, not_a_sentence, odd, spoilt, spoilt_text
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import chat_tokenizer, save_llm

from lidit_core.cli import main
from lidit_core.text.renderer import PromptRenderer
from lidit_core.text.templates import find_template, with_texts

PIECES = ("{prompt}", "{instruction}", "{", "}", "{{prompt}}", "{0}", "%s", "<|im_end|>", "<bos>",
          "\n", "\0", " ", "a cat", "猫", "\ud800", "{{ x }}", "{% for %}", "\x07",
          "é" * 30)  # fmt: skip


def text_of(rng: Random, most: int = 6) -> str:
    return "".join(rng.choices(PIECES, k=rng.randint(0, most)))


def test_templates(tmp_path):
    tokenizer = chat_tokenizer()

    def make(rng: Random) -> tuple[str, str, str]:
        how = rng.choice(("text", "json", "fields", "file", "name"))
        whole = json.dumps(asdict(find_template("paper")))
        fields = spoilt(rng, asdict(find_template("short")))
        fields |= {"layout": text_of(rng)} if rng.random() < 0.4 else {}
        made = {
            "text": "{prompt}" + text_of(rng),
            "json": spoilt_text(rng, whole),
            "fields": json.dumps(fields),
            "file": text_of(rng),
            "name": str(odd(rng)),
        }
        return how, made[how], text_of(rng)

    def use(made: tuple[str, str, str]) -> None:
        how, text, prompt = made
        source = text
        if how in ("json", "fields", "file"):
            source = str(tmp_path / ("a.txt" if how == "file" else "a.json"))
            Path(source).write_text(text, encoding="utf-8", errors="surrogatepass")
        template = with_texts(find_template(source), prompt[:9], prompt)
        PromptRenderer(tokenizer, template, 24, 512)(prompt)

    demand("template", make, use)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    save_llm(folder / "tiny-llm")
    save_lidit_files(folder, lidit_config("tiny-llm"))
    (folder / "damaged.safetensors").write_bytes(b"\x08" + bytes(20))
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    (folder / "empty").mkdir()
    (folder / "two.txt").write_text("a cat\na dog\n")
    return folder


VALUES = {
    "--seed": ("0", "-1", "1e3", "9" * 30, str((1 << 63) - 1), "x", ""),
    "--count": ("1", "2", "0", "-3", "9" * 5000, "nan"),
    "--steps": ("1", "0", "-1", "nan", "x"),
    "--cfg": ("1", "2.5", "nan", "inf", "-inf", "1e400", "-3", "1e38", "x", ""),
    "--size": ("32", "16x32", "33", "0", "0x0", "-1", "x", "x32", "32x", "9" * 40, "٣٢", "8x8x8"),
    "--lora": ("", ":", "damaged.safetensors", "x:nan", "damaged.safetensors:2", "C:/x", "a" * 400),
    "--llm": ("", "=", "tiny-llm", "tiny-llm=", "x=tiny-llm", "tiny-llm=tiny-llm", "\0", "hub:",
              "a" * 400, "empty", "damaged.gguf", "damaged.safetensors"),
    "--model": ("model.safetensors", "", ".", "empty", "damaged.safetensors", "a" * 400, "\0",
                "two.txt", "stickers\udcff", "~x/y.safetensors"),
    "--device": ("cpu", "", "cuda:99", "tpu", "meta", "\0", "cpu:7"),
    "--out": ("a.png", "a.jpg", "", ".", "empty", "two.txt/x.png", "\0", "b" * 400 + ".png"),
    "--prompts": ("two.txt", "spoilt.txt", "spoilt.txt", "empty", "absent", "\0", "damaged.png"),
    "--negative": ("", "a dog", "\udcff", "\0", "x" * 3000),
    "--cache": ("states", "two.txt", "\0"),
}  # fmt: skip
PROMPTS = ("a cat", "", "\udcff", "\0", "猫 🍎", "<|im_end|>", "x " * 3000, "-", "--", "\x1b[31m")
GENERATE = tuple(VALUES)
ENCODE = ("--model", "--llm", "--out", "--device", "--cache")
FILES = ("model.safetensors", "damaged.safetensors", "damaged.png", "empty", "", ".", "..", "\0",
         "stickers", "LI-DiT-1B", "a" * 400, "a.png" * 90, "two.txt", "absent.png",
         "\udcff.png")  # fmt: skip


def words_of(rng: Random) -> list[str]:
    """The words of a command, most of them good: the tiny model, and few steps."""
    verb = rng.choice(("generate", "generate", "encode", "info"))
    if verb == "info":
        return ["info", *rng.choices(FILES, k=rng.choice((1, 1, 1, 0, 2)))]
    own = GENERATE if verb == "generate" else ENCODE
    chosen = {"--model": "model.safetensors", "--llm": "tiny-llm", "--device": "cpu"}
    chosen |= {"--steps": "1"} if verb == "generate" else {}
    for name in rng.sample(own, rng.choice((0, 1, 1, 2, 3))):
        chosen[name] = rng.choice(VALUES[name])
    words = [verb, *(word for pair in chosen.items() for word in pair)]
    if "--prompts" not in chosen or rng.random() < 0.1:
        words.insert(1, rng.choice(PROMPTS))
    return words


def test_words(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)

    def make(rng: Random) -> tuple[list[str], bytes]:
        return words_of(rng), rng.choice((b"", b"\xff\xfe", b"\n\n", text_of(rng).encode(
            "utf-8", "surrogatepass"), rng.randbytes(50)))  # fmt: skip

    def use(made: tuple[list[str], bytes]) -> None:
        words, prompts = made
        Path("spoilt.txt").write_bytes(prompts)
        capsys.readouterr()
        status = None
        with contextlib.suppress(SystemExit):  # argparse: its usage, and one line
            status = main(words)
        told = capsys.readouterr()
        assert status in (0, 2, None), f"exit status {status}"
        if status == 2:
            *_, line = told.err.splitlines()
            assert line.startswith("lidit: ") and "; " in line, told.err
            assert not not_a_sentence(line), told.err

    demand("words", make, use)

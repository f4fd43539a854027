"""CLIP's tokenizer from the vocabulary that lies beside this file; see the licence there."""

from __future__ import annotations

import gzip
import json
import tempfile
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MERGES = Path(__file__).with_name("clip") / "merges.txt.gz"
TOKENS = 77  # of every text, the two special ones among them
START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"


def clip_tokenizer() -> CLIPTokenizer:
    """The tokenizer of both CLIPs, which fills a text up with its end token."""
    from transformers import CLIPTokenizer

    merges = gzip.decompress(MERGES.read_bytes()).decode().splitlines()
    symbols = _symbols()
    words = [*symbols, *(symbol + END_OF_WORD for symbol in symbols)]
    words += ["".join(merge.split()) for merge in merges] + [START, END]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = {word: number for number, word in enumerate(words)}
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        lines = "\n".join(["#version: 0.2", *merges, ""])
        (Path(folder) / "merges.txt").write_text(lines, encoding="utf-8")
        return CLIPTokenizer.from_pretrained(
            folder,
            model_max_length=TOKENS,
            bos_token=START,
            eos_token=END,
            unk_token=END,
            pad_token=END,
        )


def _symbols() -> list[str]:
    """A character for each byte, those that print as themselves first, as GPT-2 has them."""
    printed = list(chain(range(33, 127), range(161, 173), range(174, 256)))
    others = [byte for byte in range(256) if byte not in printed]
    return [*map(chr, printed), *(chr(256 + n) for n in range(len(others)))]

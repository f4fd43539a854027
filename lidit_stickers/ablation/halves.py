"""LLMs that read one language of a prompt that has two, for recipes/ablate-halves.yaml.

    python -m lidit_stickers.ablation.halves --out runs/halves

Copies of SmolLM2 and Gemma are written whose tokenizers take the other language out: the first
reads English alone, the second Chinese alone, with "\u2026" for each stretch of what was taken out.
Digits and points of ASCII are read by both. So neither knows what is asked for, and what a picture
shows of both halves is what fusing them has brought.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lidit_core.errors import check, exit_status
from lidit_core.llm.compat import read_tokenizer
from lidit_core.llm.locate import available
from lidit_core.llm.words import BEFORE

from ..llm_copies import write_copy

TAKEN_OUT = "\u2026"
ASKED = BEFORE + " "  # what follows is read: a tokenizer is asked by it whether it is whole
LATIN = rf"(?<![A-Za-z])(?<!{ASKED})[A-Za-z]+(?:[ ,.'-]+[A-Za-z]+)*"  # and what is between words
CHINESE = r"[\p{Han}\u3000-\u303f\uff00-\uffef]+"  # with its points
HALVES = {  # folder: (LLM, what it does not read)
    "smollm2-english": ("SmolLM2-135M-Instruct", CHINESE),
    "gemma-chinese": ("gemma-3-270m", LATIN),
}


def write_halves(out: Path) -> None:
    """Write both copies into a folder, where they are not yet there."""
    for name, (llm, unread) in HALVES.items():
        check(
            available(llm),
            f"{llm} is not on this machine, and is half of the comparison; get it with `lidit "
            "fetch`",
        )
        write_half(llm, out / name, unread)


def write_half(source: str, folder: Path, unread: str) -> None:
    """Write a copy of an LLM whose tokenizer takes out what a regular expression finds."""
    changes = {
        "tokenizer.json": functools.partial(_blind, unread=unread),
        "tokenizer_config.json": _as_the_file_says,
    }
    write_copy(source, folder, changes)
    tokenizer = read_tokenizer(folder)
    whole = [tokenizer.decode(tokenizer(text).input_ids) for text in ("cat", "\u732b")]
    blind = [TAKEN_OUT in text for text in whole]
    check(
        blind == [unread == LATIN, unread == CHINESE],
        f"the tokenizer in {folder} reads 'cat' as {whole[0]!r} and '\u732b' as {whole[1]!r}; "
        f"expected one of them to be {TAKEN_OUT}, so delete the folder and copy another LLM",
    )


def _blind(file: Path, beside: Path, unread: str) -> None:
    told = json.loads(file.read_text(encoding="utf-8"))
    first = {"type": "Replace", "pattern": {"Regex": unread}, "content": TAKEN_OUT}
    own = [told["normalizer"]] if told.get("normalizer") else []
    told["normalizer"] = {"type": "Sequence", "normalizers": [first, *own]}
    beside.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")


def _as_the_file_says(file: Path, beside: Path) -> None:
    """A class of an LLM's own makes its normaliser anew, whatever the tokenizer's file says."""
    told = json.loads(file.read_text(encoding="utf-8"))
    told["tokenizer_class"] = "PreTrainedTokenizerFast"
    beside.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lidit_stickers.ablation.halves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of both")
    write_halves(parser.parse_args(arguments).out)


if __name__ == "__main__":
    sys.exit(exit_status("ablation.halves", main))

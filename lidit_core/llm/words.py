"""Words that a tokenizer's vocabulary has whole, and whether the tokenizer reads them whole.

A tokenizer that lost its merges, or has them of another kind, still reads every text and gives it
back, but in letters or odd pieces, which its LLM never saw. Nothing else tells of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import LiDiTError
from .fetch import install_line

MARKS = "▁Ġ"  # how SentencePiece and byte-level vocabularies write the blank before a word
BEFORE = "~"  # a text's beginning, after which no word is a text's first
FEWEST = 8  # of fewer words nothing is concluded
COMMON = (
    "the and with from that this they have not are was for you what when which there their "
    "left right above below under behind between near over into two three four "
    "red blue green black white small large round cat dog tree house water light man woman"
).split()


def split_words(tokenizer, words: Mapping[str, int]) -> list[str]:
    """The words, given with their tokens' ids, that come as anything but this token."""
    texts = [f"{BEFORE} {word}" for word in words]
    read = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return [word for ids, (word, id_) in zip(read, words.items()) if ids[-1:] != [id_]]


def too_many(split: int, tested: int) -> bool:
    """Whether the tokenizer is broken: sound ones split none, broken ones nearly all."""
    return tested >= FEWEST and 4 * split > tested


def check_words(tokenizer, name: str, folder: Path) -> None:
    """Raise a LiDiTError if common words come in pieces though the vocabulary has them whole."""
    find = tokenizer.backend_tokenizer.token_to_id
    whole = {
        word: id_ for mark in MARKS for word in COMMON if (id_ := find(mark + word)) is not None
    }
    split = split_words(tokenizer, whole)
    if too_many(len(split), len(whole)):
        raise LiDiTError(
            f"the tokenizer of {name} in {folder} splits {len(split)} of {len(whole)} common "
            f"words that its vocabulary has whole, the first {split[0]!r}; expected each as one "
            f"token, so run: {install_line('transformers')} and, if the folder was made from a "
            "GGUF file, delete its config.json, so that it is made again"
        )

"""What a GGUF file says of its tokenizer, and whether the tokenizer made from it keeps to that."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..words import split_words, too_many
from .header import Header

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6  # kinds of tokens, as llama.cpp numbers them
BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"  # kinds of tokenizers, as llama.cpp names them
WORD = re.compile("[▁Ġ][a-z]{3,}")
WORDS = 400  # that are tried, spread over the whole vocabulary
TEXTS = ("A red cat, left of 12 dogs.", "Две красные кошки", "猫が二匹います 🍎", "قطة حمراء",
         "two  blanks\nand a line")  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """A GGUF's own words about its tokenizer: `tokenizer.ggml.*` of its metadata."""

    architecture: str
    model: str  # BYTE_LEVEL, SENTENCEPIECE, or another that is not checked as closely
    tokens: list[str]
    kinds: list[int]  # one per token
    special: dict[str, int] = field(default_factory=dict)  # ids of "bos", "eos", "unk" and "pad"
    adds_bos: bool | None = None  # None where it is not said
    chat_template: str | None = None

    def of_kind(self, *kinds: int) -> dict[str, int]:
        """The tokens of these kinds, with their ids."""
        return {t: i for i, (t, kind) in enumerate(zip(self.tokens, self.kinds)) if kind in kinds}


def vocabulary_of(header: Header) -> Vocabulary:
    """What a file's metadata say of its tokenizer."""
    said = header.fields
    tokens = said.get("tokenizer.ggml.tokens") or []
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    special = {role: said.get(f"tokenizer.ggml.{key}_token_id") for role, key in roles.items()}
    return Vocabulary(
        architecture=header.architecture,
        model=said.get("tokenizer.ggml.model") or "",
        tokens=tokens,
        kinds=said.get("tokenizer.ggml.token_type") or [1] * len(tokens),
        special={role: i for role, i in special.items() if i is not None and i < len(tokens)},
        adds_bos=said.get("tokenizer.ggml.add_bos_token"),
        chat_template=said.get("tokenizer.chat_template"),
    )


def fault(tokenizer, said: Vocabulary) -> str | None:
    """What a tokenizer does that it must not, by its GGUF; None if nothing is found."""
    return (
        _split_words(tokenizer, said)
        or _split_control(tokenizer, said)
        or _start(tokenizer, said)
        or _other_text(tokenizer, said)
    )


def _split_words(tokenizer, said: Vocabulary) -> str | None:
    words = [(t, i) for t, i in said.of_kind(NORMAL).items() if WORD.fullmatch(t)]
    tried = {token[1:]: i for token, i in words[:: len(words) // WORDS + 1]}
    split = split_words(tokenizer, tried)
    if not too_many(len(split), len(tried)):
        return None
    return (
        f"splits {len(split)} of {len(tried)} words that the vocabulary has whole, the first "
        f"{split[0]!r}"
    )


def _split_control(tokenizer, said: Vocabulary) -> str | None:
    """Say which control token of the chat template is not read as one; no others come from text."""
    for token, i in said.of_kind(CONTROL).items():
        if token in (said.chat_template or "") and _ids(tokenizer, token) != [i]:
            return f"does not read {token!r} of the chat template as one token"
    return None


def _start(tokenizer, said: Vocabulary) -> str | None:
    bos = said.special.get("bos")
    if bos is None or said.adds_bos is None or said.model not in (BYTE_LEVEL, SENTENCEPIECE):
        return None
    if (tokenizer("a")["input_ids"][:1] == [bos]) == said.adds_bos:
        return None
    return f"{'lacks' if said.adds_bos else 'puts'} {said.tokens[bos]!r} at a text's beginning"


def _other_text(tokenizer, said: Vocabulary) -> str | None:
    """Say which text the tokens do not spell, by the GGUF; only where bytes can all be written."""
    whole = said.model == SENTENCEPIECE and len(said.of_kind(BYTE)) == 256
    if not whole and said.model != BYTE_LEVEL:
        return None
    for text in TEXTS:
        ids = _ids(tokenizer, text)
        known = all(0 <= i < len(said.tokens) for i in ids)
        read = b"".join(_spelt(said, i) for i in ids).decode("utf-8", "replace") if known else ""
        if read.lstrip(" ") != text:
            return f"reads {text!r} as {read!r}"
    return None


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _spelt(said: Vocabulary, i: int) -> bytes:
    """The bytes that a token stands for."""
    token = said.tokens[i]
    if said.model == BYTE_LEVEL:
        return b"".join(_byte(letter) for letter in token)
    if said.kinds[i] == BYTE:
        return bytes([int(token.strip("<>"), 16)])
    return token.replace("▁", " ").encode()


def _byte(letter: str) -> bytes:
    """The byte that a letter stands for in byte-level vocabularies; others are themselves."""
    return bytes([BYTES[letter]]) if letter in BYTES else letter.encode()


def _letters() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes are their own letters, the others follow from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(256 + n): byte for n, byte in enumerate(others)},
    }


BYTES = _letters()

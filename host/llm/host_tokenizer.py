"""The tokenizer of a host's CLIP, as the library's renderer reads tokenizers: with offsets.

What the host runs without them is made anew from its tables for the library that transformers uses.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from ...lidit_core.errors import LiDiTError, first_line, listed
from ...lidit_core.llm.compat import tokenizer_around

ADDED = (2, 3, 4)  # types of SentencePiece's pieces: unknown, control, defined by a user
CHAT_TOKENS = ("<start_of_turn>", "<end_of_turn>")  # those that a template may write
BEGINNINGS = ("<|begin_of_text|>", "<bos>", "<s>")  # the token that begins a text


def readable_tokenizer(tokenizers: object, name: str, chat: str):
    """A tokenizer that gives offsets, from those of a CLIP.

    Args:
        tokenizers: the CLIP's, one for each of its text models.
        name: of the text model in the CLIP.
        chat: the chat template.

    Raises:
        LiDiTError: it has none for this text model, or one that cannot be read.
    """
    part = _part_for(tokenizers, name.rpartition(".")[2])
    try:
        return _converted(part, chat)
    except Exception as error:  # the host's classes change from release to release
        raise LiDiTError(
            f"the tokenizer of this CLIP, {type(part.tokenizer).__name__}, cannot be read "
            f"({first_line(error)}); load this LLM with the LI-DiT LLM loader"
        ) from error


def _part_for(tokenizers: object, name: str) -> Any:
    """What of a CLIP's tokenizers is for the text model of this name."""
    found = dict(text_parts(tokenizers))
    if name not in found and len(found) != 1:
        raise LiDiTError(
            f"this CLIP has tokenizers for {listed(found) or 'nothing'} and none for its LLM "
            f"{name}; load this LLM with the LI-DiT LLM loader"
        )
    return found.get(name) or next(iter(found.values()))


def text_parts(tokenizers: object) -> Iterator[tuple[str, Any]]:
    """The tokenizers of a CLIP by the name of their text model."""
    for name, part in vars(tokenizers).items():
        if callable(getattr(part, "tokenizer", None)):
            yield name, part


def _converted(part, chat: str):
    own = part.tokenizer
    if getattr(own, "is_fast", False):
        own = copy.copy(own)  # the host's keeps its own template
        own.chat_template = chat
        return own
    if hasattr(own, "serialize_model"):
        return _wrapped(*_sentence_pieces(own.tokenizer), chat)
    return _wrapped(_byte_pairs(own, getattr(part, "tekken_data", None)), BEGINNINGS, chat)


def _wrapped(core: Tokenizer, beginnings: tuple[str, ...], chat: str):
    """The tokenizer of transformers around one, with the token that begins a text."""
    bos = next(name for name in beginnings if core.token_to_id(name) is not None)
    core.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
    )
    return tokenizer_around(core, bos_token=bos, chat_template=chat)


def _byte_pairs(own, tekken: Any) -> Tokenizer:
    """Byte-level BPE, which the host runs in Python: Llama 3's and Mistral's."""
    merges = sorted(own._merges, key=own._merges.get)
    core = Tokenizer(models.BPE(dict(own._vocab), merges, ignore_merges=True))
    words = pre_tokenizers.Split(Regex(_word_pattern(tekken)), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    core.decoder = decoders.ByteLevel()
    specials = sorted(own._special_token_ids, key=own._special_token_ids.get)
    core.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    return core


def _word_pattern(tekken: Any) -> str:
    """What words are: as a Mistral's own file says, where the host splits as for Llama 3."""
    if tekken is None:
        from comfy.text_encoders import bpe_tokenizer

        return bpe_tokenizer._LLAMA_PATTERN
    data = tekken.numpy().tobytes() if hasattr(tekken, "numpy") else tekken
    return json.loads(data)["config"]["pattern"]


def _sentence_pieces(processor) -> tuple[Tokenizer, tuple[str, ...]]:
    """Gemma's BPE with byte fallback, and its token that begins a text.

    Its file lists no merges: a piece is made of any two others, earlier pieces first.
    """
    pieces = list(pieces_of(processor.serialized_model_proto()))
    vocabulary = {piece: number for number, (piece, _) in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in vocabulary
        for cut in range(len(piece) - 1, 0, -1)
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    unknown = processor.id_to_piece(processor.unk_id())
    core = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    for piece, kind in pieces:
        if kind in ADDED:
            special = kind != ADDED[-1] or piece in CHAT_TOKENS
            added = AddedToken(piece, special=special, normalized=False)
            (core.add_special_tokens if special else core.add_tokens)([added])
    return core, (processor.id_to_piece(processor.bos_id()),)


def pieces_of(model: bytes) -> Iterator[tuple[str, int]]:
    """Text and type of every piece in a SentencePiece model, which is a protocol buffer."""
    for number, value in _fields(model):
        if number == 1:
            piece = dict(_fields(value))
            yield piece[1].decode("utf-8"), piece.get(3, 1)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a protocol buffer's fields: whole numbers, or bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(message, place)
        else:
            length, place = (8, place) if kind == 1 else (4, place)
            if kind == 2:
                length, place = _varint(message, place)
            value, place = message[place : place + length], place + length
        yield number, value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place

"""A byte-level BPE tokenizer made from a GGUF's metadata, where transformers' reader has none.

How a text is split before it is merged is named by `tokenizer.ggml.pre`; what each name stands for
is in llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import check, shown
from .header import Header
from .vocabulary import BYTE_LEVEL, CONTROL, USER_DEFINED, Vocabulary

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
DIGITS = r"\p{N}"
SPLITS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama-bpe", "llama-v3", "llama3", "dbrx", "smaug-bpe", "chatglm-bpe", "glm4"),
                    (LLAMA3,)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), (QWEN2,)),
    **dict.fromkeys(("gpt-2", "olmo"), (GPT2,)),
    **dict.fromkeys(("smollm", "refact", "starcoder", "codeshell"), (DIGITS, GPT2)),
}  # fmt: skip
WHOLE_FIRST = ("llama-bpe", "llama-v3", "llama3")  # which take a word that the vocabulary has whole
COMPOSED = ("qwen2", "deepseek-r1-qwen")  # which read NFC


def write_byte_level(header: Header, said: Vocabulary, folder: Path, name: str) -> None:
    """Write the files of a tokenizer into a model folder.

    Raises:
        LiDiTError: it is of another kind, or splits texts in a way that is not known.
    """
    pre = str(header.fields.get("tokenizer.ggml.pre", ""))
    merges = header.fields.get("tokenizer.ggml.merges") or []
    check(
        said.model == BYTE_LEVEL and pre in SPLITS and bool(merges),
        f"the tokenizer of {name} is {shown(said.model)} with texts split as by {shown(pre)}, "
        f"which is not read for {header.architecture}; give the LLM as a model folder with its "
        "own tokenizer.json",
    )
    data = _tokenizer(said, pre, [merge.split(" ", 1) for merge in merges])
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    names = {f"{role}_token": said.tokens[i] for role, i in said.special.items()}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, **names}, indent=2) + "\n", encoding="utf-8"
    )
    if said.chat_template:
        (folder / "chat_template.jinja").write_text(said.chat_template, encoding="utf-8")


def _tokenizer(said: Vocabulary, pre: str, merges: list[list[str]]) -> dict:
    bos = said.special.get("bos")
    first = bos is not None and said.adds_bos
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in SPLITS[pre]
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(said),
        "normalizer": {"type": "NFC"} if pre in COMPOSED else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [*splits, {**byte_level, "use_regex": False}],
        },
        "post_processor": starting_with(said.tokens[bos], bos) if first and bos is not None else (
            {**byte_level, "use_regex": True}),
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "byte_fallback": False,
            "ignore_merges": pre in WHOLE_FIRST,
            "vocab": {token: i for i, token in enumerate(said.tokens)}, "merges": merges,
        },
    }  # fmt: skip


def _added(said: Vocabulary) -> list[dict]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    control = said.of_kind(CONTROL)
    return [
        {**plain, "id": i, "content": token, "special": token in control}
        for token, i in said.of_kind(CONTROL, USER_DEFINED).items()
    ]


def starting_with(token: str, i: int) -> dict:
    """The post-processor that puts one token before every text."""

    def part(kind: str, name: str, number: int) -> dict:
        return {kind: {"id": name, "type_id": number}}

    single = [part("SpecialToken", token, 0), part("Sequence", "A", 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, part("SpecialToken", token, 1), part("Sequence", "B", 1)],
        "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]}},
    }

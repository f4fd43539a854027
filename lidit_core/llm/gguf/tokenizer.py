"""A converted tokenizer made to keep to its GGUF file, whatever release of transformers made it.

Releases differ in what they make of one file. Of Gemma 3's, 4.57 to 5.17 make a Unigram model of
scores that are ranks, which 5 then reads without merges, in letters; up to 5.22 its BOS is lost.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from ...errors import LiDiTError, first_line
from ..compat import read_tokenizer, transformers_version
from ..fetch import install_line
from .byte_level import starting_with
from .vocabulary import CONTROL, SENTENCEPIECE, USER_DEFINED, Vocabulary, fault

log = logging.getLogger(__name__)
CHECKED = "tokenizer.checked"  # the file that notes in a model folder that it was


def make_sound(folder: Path, said: Vocabulary, name: str) -> None:
    """Check the tokenizer in a folder by its GGUF, mend it if need be, and note that it is sound.

    Raises:
        LiDiTError: it is not sound and cannot be mended.
    """
    what = _fault(folder, said)
    if what:
        log.info("%s: the tokenizer %s; it is made from the file's metadata instead", name, what)
        try:
            _mend(folder, said)
            what = _fault(folder, said)
        except (OSError, ValueError, LookupError, TypeError) as error:
            log.info("%s: the tokenizer is not mended: %s", name, first_line(error))
    if what:
        raise LiDiTError(
            f"the tokenizer that transformers {transformers_version()} makes of {name} {what}; "
            f"expected it to keep to the file, so run: {install_line('transformers')} or, if that "
            "does not help, give the LLM as a model folder with its own tokenizer.json"
        )
    (folder / CHECKED).write_text(f"transformers {transformers_version()}\n", encoding="utf-8")


def _fault(folder: Path, said: Vocabulary) -> str | None:
    """What is wrong with the tokenizer as a load reads it."""
    try:
        tokenizer = read_tokenizer(folder)
    except Exception as error:  # transformers raises about every kind here
        return f"cannot be read ({first_line(error)})"
    return fault(tokenizer, said)


def _mend(folder: Path, said: Vocabulary) -> None:
    """Write tokenizer.json anew where the GGUF says how, for a class that takes it as it is."""
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    if said.model == SENTENCEPIECE and said.architecture.startswith("gemma"):
        data |= _gemma(said)
    data["added_tokens"] = _added(data, said)
    bos = said.special.get("bos")
    if bos is not None and said.adds_bos is not None:
        data["post_processor"] = starting_with(said.tokens[bos], bos) if said.adds_bos else None
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    names = {f"{role}_token": said.tokens[i] for role, i in said.special.items()}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **names}, indent=2) + "\n")
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    (folder / "added_tokens.json").unlink(missing_ok=True)
    if said.chat_template:
        (folder / "chat_template.jinja").write_text(said.chat_template, encoding="utf-8")


def _gemma(said: Vocabulary) -> dict:
    """Gemma's BPE: what its tokens can be merged from, earlier tokens first.

    Its file lists no merges, and spells tokens of blanks with blanks.
    """
    tokens = ["▁" * len(t) if " " in t and not t.strip() else t for t in said.tokens]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [
        [token[:cut], token[cut:]]
        for token in vocabulary
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    unknown = said.special.get("unk")
    return {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if unknown is None else tokens[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _added(data: dict, said: Vocabulary) -> list[dict]:
    """Control and user-defined tokens as added ones, which are found whole in a text.

    Those that the model does not have under their number are spelled otherwise there, and left.
    """
    vocabulary = data["model"]["vocab"]
    if isinstance(vocabulary, list):  # of Unigram
        vocabulary = {token: i for i, (token, _) in enumerate(vocabulary)}
    before = {token["content"]: token for token in data.get("added_tokens") or ()}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    control = said.of_kind(CONTROL)
    return [
        {**plain, **before.get(token, {}), "id": i, "content": token, "special": token in control}
        for token, i in said.of_kind(CONTROL, USER_DEFINED).items()
        if vocabulary.get(token) == i
    ]

"""A single safetensors file as an LLM: what it is, its config.json, and its tokenizer."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch

from ...errors import LiDiTError, check
from ...io.atomic import replacing
from ...paths import files_like
from ..decoder.audit import most_blocks
from ..decoder.checkpoint import Checkpoint
from .released import Shapes, candidates, named

log = logging.getLogger(__name__)
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
BEYOND = 8  # tokens of a tokenizer that its LLM may lack
EMBEDDED = "tokenizer_json"  # how ComfyUI names a tokenizer.json among the tensors
TOKENIZER_FILES = (TOKENIZER, "tokenizer_config.json", "special_tokens_map.json",
                   "added_tokens.json", "chat_template.jinja", "chat_template.json",
                   "vocab.json", "merges.txt", "tokenizer.model")  # fmt: skip
FIRST = re.compile(r"^(.*?)embed_tokens\.weight$")


def companions(weights: Path) -> Path | None:
    """The folder that says more of a file: one of its name beside it, or its own.

    Its own, if no other weights lie there that the words could be about.
    """
    folder = weights.with_suffix("")
    if any((folder / name).is_file() for name in (CONFIG, TOKENIZER)):
        return folder
    alone = len(files_like(weights.parent, "*.safetensors")) == 1
    said = any((weights.parent / name).is_file() for name in (CONFIG, TOKENIZER))
    return weights.parent if alone and said else None


def digest(weights: Path, tokenizer: Path | None) -> str:
    """A hash that changes when the file, its configuration or its tokenizer does."""
    folders = {folder for folder in (companions(weights), tokenizer) if folder}
    files = [folder / name for folder in folders for name in (CONFIG, *TOKENIZER_FILES)]
    stats = [
        (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted({weights, *files})
        if file.is_file()
    ]
    return hashlib.sha256(json.dumps([stats, str(tokenizer)]).encode()).hexdigest()


def prepare(weights: Path, folder: Path, tokenizer: Path | None, name: str) -> None:
    """Write the config.json and the tokenizer of a file into a folder, config.json last.

    Args:
        tokenizer: the model folder that the user named for it.

    Raises:
        LiDiTError: what it is, or how it reads text, is not known.
    """
    checkpoint, beside = Checkpoint([weights]), companions(weights)
    own = beside is not None and (beside / CONFIG).is_file()
    config = None if own else _released_config(checkpoint, weights, name)
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(checkpoint, weights, folder, tokenizer or beside, name)
    with replacing(folder / CONFIG) as part:
        if own and beside is not None:
            shutil.copyfile(beside / CONFIG, part)
        else:
            part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def shapes_of(tensors: Mapping[str, Sequence[int]]) -> Shapes | None:
    """The sizes of the decoder among these tensors' shapes; None for no usual layout."""
    for name in sorted(tensors, key=len):
        found = FIRST.match(name)
        block = f"{found[1]}layers.0." if found else ""
        part = [f"{block}{key}.weight" for key in ("self_attn.q_proj", "self_attn.k_proj",
                                                   "mlp.gate_proj")]  # fmt: skip
        if not found or any(len(tensors.get(key, ())) != 2 for key in (name, *part)):
            continue
        vocabulary, width = tensors[name]
        query, key, feed = (tensors[key][0] for key in part)
        pictures = any("deepstack" in key for key in tensors)
        return Shapes(_kind(tensors, block), vocabulary, width, feed, query, key, pictures)
    return None


def _kind(names: Collection[str], block: str) -> str:
    sandwich = f"{block}post_feedforward_layernorm.weight" in names
    if f"{block}self_attn.q_norm.weight" in names:
        return "gemma3" if sandwich else "qwen3"
    if sandwich:
        return "gemma2"
    return "qwen2" if f"{block}self_attn.q_proj.bias" in names else "llama"


def _released_config(checkpoint: Checkpoint, weights: Path, name: str) -> dict:
    shapes = shapes_of({key: checkpoint.shape(key) for key in checkpoint.files})
    text = [key for key in checkpoint.files if "vis" not in key]
    found = candidates(shapes, most_blocks(text)) if shapes else []
    fitting = named(found, weights.stem)
    if len(fitting) != 1:
        could = (
            f"it has the shapes of {' and '.join(one.name for one in found)}"
            if found
            else ("its tensors have the names and shapes of no LLM that is known here")
        )
        raise LiDiTError(
            f"what LLM the file {weights} holds is not known, for {could}; put its config.json "
            f"into a folder {weights.with_suffix('')}"
            + (", or rename the file after the one that it is" if found else "")
        )
    (one,) = fitting
    log.info("%s is read as %s, by the shapes of its tensors", weights.name, one.name)
    return one.config(tied=not any(key.endswith("lm_head.weight") for key in checkpoint.files))


def _write_tokenizer(
    checkpoint: Checkpoint, weights: Path, folder: Path, given: Path | None, name: str
) -> None:
    if given is not None and (given / TOKENIZER).is_file():
        for file in (given / name for name in TOKENIZER_FILES):
            if file.is_file():
                shutil.copy2(file, folder)
        return
    check(
        EMBEDDED in checkpoint.files,
        f"the file {weights} holds no tokenizer that is read; put its tokenizer.json and "
        f"tokenizer_config.json into a folder {weights.with_suffix('')}, or name a model folder "
        f"that has them: {weights}@FOLDER",
    )
    data = checkpoint.files[EMBEDDED].get_tensor(EMBEDDED).to(torch.uint8).numpy().tobytes()
    (folder / TOKENIZER).write_bytes(data)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")


def check_vocabulary(tokenizer, rows: int, name: str) -> None:
    """Refuse a tokenizer of another LLM by the numbers of its tokens.

    Gemma 3's has one token more than the LLMs that read no pictures.
    """
    beyond = sum(number >= rows for number in tokenizer.get_vocab().values())
    check(
        beyond <= BEYOND,
        f"the tokenizer of {name} has {beyond} tokens beyond the {rows} that the LLM has; expected "
        "its own tokenizer, so give that",
    )

"""The files of the model folder that a GGUF becomes: weights, config.json, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from ...errors import LiDiTError, check, first_line
from ...progress import tell
from ..compat import transformers_version
from ..decoder.build import empty_model
from .architectures import ARCHITECTURES, Architecture
from .byte_level import write_byte_level
from .config import FACTORS, config_of
from .foreign import FOREIGN, UNPACKED, check_foreign, save_config, whole_model
from .header import Header, TensorInfo
from .shards import ShardWriter
from .tensors import in_rotated_halves, narrowed, unpacked
from .tokenizer import make_sound
from .vocabulary import BYTE_LEVEL, vocabulary_of

VALUES, TOKENS = 20e6, 10e3  # that one core of 2024 converts a second, with a third to spare
TOKENIZED_BY_TRANSFORMERS = {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", *FOREIGN}
ENCODERS = ("t5", "t5encoder", "bert", "modern-bert", "nomic-bert", "jina-bert-v2", "clip")


def serves(architecture: str | None) -> bool:
    """Whether an LLM of this architecture, as GGUF files name it, can be read."""
    return architecture in ARCHITECTURES or architecture in FOREIGN


def check_serves(header: Header, name: str) -> None:
    """Raise a LiDiTError unless the file is a decoder-only LLM of a kind that is read."""
    kind = header.architecture or "file that names no architecture"
    what = "an encoder" if kind in ENCODERS else "of a kind that is not read"
    check(
        serves(kind),
        f"GGUF file {name} cannot be converted (it is a {kind}, {what}); "
        f"expected one of {', '.join([*ARCHITECTURES, *FOREIGN])}, or give the LLM as "
        "safetensors",
    )


def write_folder(header: Header, gguf: Path, out: Path, name: str) -> None:
    """Write everything into `out`.

    Args:
        gguf: the file, alone in its folder; the first of its splits.
        name: how sentences call it.
    """
    check_serves(header, name)
    what = f"converting {name} to safetensors, once"
    tell(what, 0)
    weights, vocabulary = seconds(header)
    written = weights / (weights + vocabulary)  # the share that is done then
    if header.architecture in FOREIGN:
        _write_foreign(header, gguf, out, name, what, written)
    else:
        _write_own(header, out, name, what, written)
    tell(what, written)
    _write_tokenizer(header, gguf, out, name)


def seconds(header: Header) -> tuple[float, float]:
    """Estimate how long the weights and the tokenizer take to be converted.

    Measured: of SmolLM2 (135 million values, 49,152 tokens) 4.4 and 3.6 seconds of one core, of
    Gemma 3 270M (268 million, 262,144 tokens) 5.2 and 18.8.
    """
    values = sum(info.count for info in header.tensors.values())
    return values / VALUES, len(header.fields.get("tokenizer.ggml.tokens") or ()) / TOKENS


def _write_own(header: Header, out: Path, name: str, what: str, share: float) -> None:
    kind = ARCHITECTURES[header.architecture]
    factors = {k: unpacked(header.tensors[k]).tolist() for k in FACTORS if k in header.tensors}
    config = config_of(header, factors, name)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (out / "config.json").write_text(text, encoding="utf-8")
    wanted = _wanted(out, name)
    sources = _sources(wanted, kind, header, name)
    writer, done = ShardWriter(out), 0
    total = sum(info.count for info in sources.values())
    for key, info in sources.items():
        writer.add(key, _as_transformers_has_it(unpacked(info), info, kind, config))
        done += info.count
        tell(what, share * done / total)
    writer.close()


def _wanted(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of the whole LLM that a config.json makes, without their values."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a kind that this release does not know, or strange values
        raise LiDiTError(
            f"the LLM in {name} is not known to transformers {transformers_version()} "
            f"({first_line(error)}); update it, or get the LLM as safetensors"
        ) from error
    return dict(empty_model(config, name, AutoModelForCausalLM).state_dict())


def _sources(
    wanted: dict[str, Tensor], kind: Architecture, header: Header, name: str
) -> dict[str, TensorInfo]:
    """The file's tensors by their names in transformers; all are used and have the shape."""
    tied = "output.weight" not in header.tensors
    named = {key: kind.gguf_name(key) for key in wanted if not (tied and key == "lm_head.weight")}
    missing = [found or key for key, found in named.items() if found not in header.tensors]
    check(
        not missing,
        f"{name} lacks {len(missing)} tensors, the first {missing[0] if missing else ''}; "
        "expected a whole LLM, so get it again",
    )
    left = sorted(header.tensors.keys() - set(named.values()) - set(FACTORS))
    check(
        not left,
        f"{name} holds {len(left)} tensors that a {kind.model_type} does not have, the first "
        f"{left[0] if left else ''}; get the LLM as safetensors",
    )
    sources = {key: header.tensors[found] for key, found in named.items() if found}
    for key, info in sources.items():
        check(
            info.shape == tuple(wanted[key].shape),
            f"tensor {info.name} of {name} has shape {info.shape}; expected "
            f"{tuple(wanted[key].shape)} by its metadata, so get the file again",
        )
    return sources


def _as_transformers_has_it(
    tensor: Tensor, info: TensorInfo, kind: Architecture, config: dict
) -> Tensor:
    if kind.shifted and info.name.endswith("norm.weight"):
        return tensor - 1
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
    part = info.name.split(".")[-2]
    if kind.permuted and part in heads:
        return in_rotated_halves(tensor, config[heads[part]])
    return tensor


def _write_foreign(
    header: Header, gguf: Path, out: Path, name: str, what: str, share: float
) -> None:
    check_foreign(header, name)
    module = whole_model(gguf, header, what, share)
    save_config(module.config, out / "config.json")
    writer, state = ShardWriter(out), module.state_dict()
    tied = getattr(module.config, "tie_word_embeddings", False)
    for number, (key, tensor) in enumerate(state.items()):
        if not (tied and key == "lm_head.weight"):
            writer.add(key, narrowed(tensor))
        tell(what, share * (UNPACKED + (1 - UNPACKED) * (number + 1) / len(state)))
    writer.close()


def _write_tokenizer(header: Header, gguf: Path, out: Path, name: str) -> None:
    said = vocabulary_of(header)
    odd = said.model == BYTE_LEVEL and header.architecture.startswith("gemma")
    if header.architecture in TOKENIZED_BY_TRANSFORMERS and not odd:
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
    else:
        write_byte_level(header, said, out, name)
    make_sound(out, said, name)

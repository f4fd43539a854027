"""GGUF files of the architectures that transformers reads itself, held to the same rules."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...errors import LiDiTError, check, shown
from ...progress import tell
from ..compat import dtype_argument, transformers_version
from ..decoder.build import empty_model
from .config import HARMLESS, REMEDY, check_sizes
from .header import Header

FOREIGN = {  # decoders only, by their names in the files and in transformers' table
    "bloom": "bloom", "falcon": "falcon", "gpt2": "gpt2", "lfm2": "lfm2", "mamba": "mamba",
    "minimax-m2": "minimax_m2", "nemotron": "nemotron", "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe", "stablelm": "stablelm",
}  # fmt: skip
# Of gpt-oss, gemma4 and starcoder2 it drops what every file of theirs says of windows or rope.
CHANGES_NUMBERS = re.compile(r"rope|window|softcap|scal|causal|alibi|clamp|expert_weights")
UNPACKED = 0.6  # the share of the time for the weights until transformers has read the file
EPSILON_KEYS = ("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon")
EPSILONS = ("rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon")
LEFT_TO_THE_CLASS = {"rope.dimension_count", "attention.clamp_kqv"}


def check_foreign(header: Header, name: str) -> None:
    """Refuse metadata that change numbers and that transformers' reader drops."""
    known = _mapping(FOREIGN[header.architecture])
    own = header.own()
    check_sizes(own, header, name)
    for key, value in own.items():
        risky = CHANGES_NUMBERS.search(key) and key not in LEFT_TO_THE_CLASS
        harmless = known.get(key) is not None or HARMLESS.get(key) == value
        check(
            not risky or harmless,
            f"{name} says {key} = {shown(value)}, which changes numbers and which transformers "
            f"{transformers_version()} does not apply to {header.architecture}; {REMEDY}",
        )
    factors = [key for key in header.tensors if key.startswith(("rope_freqs", "rope_factors"))]
    check(
        not factors,
        f"{name} holds {factors[0] if factors else ''}, which transformers does not apply to "
        f"{header.architecture}; {REMEDY}",
    )


def _mapping(architecture: str) -> dict:
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    known = GGUF_CONFIG_MAPPING.get(architecture)
    if known is None:
        raise LiDiTError(
            f"transformers {transformers_version()} does not read GGUF files of {architecture}; "
            "update it, or give the LLM as a model folder"
        )
    return known


def whole_model(gguf: Path, header: Header, what: str, share: float) -> Any:
    """The whole LLM in float32, with its head, as transformers reads it; every tensor is there.

    Args:
        what: as which its progress is told.
        share: of it, that is done when the weights are written.
    """
    from transformers import AutoModelForCausalLM

    options: dict = {
        "gguf_file": gguf.name, dtype_argument(): torch.float32, "output_loading_info": True,
    }  # fmt: skip
    try:  # newer transformers would keep the weights packed where it has kernels for them
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    except ImportError:
        pass
    with _remembering(what, share * UNPACKED / len(header.tensors)):
        _check_counted(gguf, header)
        loaded: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, **options)
    module, report = loaded
    missing = sorted(map(str, report["missing_keys"]))
    check(
        not missing,
        f"{gguf.name} lacks {len(missing)} tensors, the first {missing[0] if missing else ''}; "
        "expected a whole LLM, so get it again",
    )
    _check_rotated(module.config, header, gguf.name)
    with contextlib.suppress(AttributeError):
        delattr(module.config, "quantization_config")
    return module


def _check_counted(gguf: Path, header: Header) -> None:
    """Refuse a file that has other numbers than its class, which would drop some, or draw them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tied = getattr(config, "tie_word_embeddings", False)
    wanted = dict(empty_model(config, gguf.name, AutoModelForCausalLM).state_dict())
    asked = sum(v.numel() for key, v in wanted.items() if not (tied and key == "lm_head.weight"))
    there = sum(
        info.count for key, info in header.tensors.items() if not (tied and key == "output.weight")
    )
    _check_epsilon(config, header.own(), gguf.name)
    check(
        asked == there,
        f"{gguf.name} holds {there} numbers and a {config.model_type} of its metadata has {asked}; "
        f"expected a whole LLM of this kind, so {REMEDY}",
    )


def _check_epsilon(config, own: dict, name: str) -> None:
    """Refuse a file whose norms divide by something else than its class does."""
    stated = [v for k in EPSILON_KEYS if (v := own.get(k)) is not None]
    used = [v for k in EPSILONS if (v := getattr(config, k, None)) is not None]
    check(
        all(math.isclose(one, v, rel_tol=1e-3) for one in stated for v in used),
        f"{name} has norms with an epsilon of {shown(stated)} and its class of {shown(used)}; "
        f"{REMEDY}",
    )


def _check_rotated(config, header: Header, name: str) -> None:
    own = header.own()
    rotated = own.get("rope.dimension_count")
    if rotated is None or "rotary_dim" in config.to_dict():
        return
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    share = getattr(config, "partial_rotary_factor", None)
    parameters = getattr(config, "rope_parameters", None) or {}
    share = share or parameters.get("partial_rotary_factor") or 1.0
    check(
        rotated == int(width * share) or header.architecture == "gemma4",
        f"{name} rotates {rotated} channels of a head and its class {int(width * share)}; {REMEDY}",
    )


def save_config(config, path: Path) -> None:
    """Write a config.json that older releases of transformers read too.

    They would silently take their defaults for the bases of the rotary embedding.
    """
    config.save_pretrained(path.parent)
    said = json.loads(path.read_text(encoding="utf-8"))
    rope = said.get("rope_parameters") or {}
    full, sliding = (rope.get(kind, {}) for kind in ("full_attention", "sliding_attention"))
    bases = {
        "rope_theta": rope.get("rope_theta", full.get("rope_theta")),
        "rope_local_base_freq": sliding.get("rope_theta"),
    }
    said = {**{key: base for key, base in bases.items() if base is not None}, **said}
    path.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _remembering(what: str, step: float) -> Iterator[None]:
    """Parse the file once where transformers would three times, and the names once a block.

    Memoises two pure functions of the gguf package; two thirds of the time go there otherwise. A
    step of `what` is told for each tensor that is unpacked.
    """
    import gguf as package

    gguf: Any = package  # it says nothing of the types of what it exports
    dequantize, unpacked = gguf.dequantize, itertools.count()

    def unpack(*args, **kwargs):
        tell(what, step * next(unpacked))
        return dequantize(*args, **kwargs)

    changes = {
        "GGUFReader": functools.lru_cache(gguf.GGUFReader),
        "get_tensor_name_map": functools.lru_cache(gguf.get_tensor_name_map),
        "dequantize": unpack,
    }
    originals = {name: getattr(gguf, name) for name in changes}
    try:
        for name, changed in changes.items():
            setattr(gguf, name, changed)
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)

"""How large a branch's LLM is, by its config.json or by a guess that says so; nothing is loaded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from lidit_core.errors import LiDiTError
from lidit_core.llm.blocks import kept_blocks
from lidit_core.llm.encoders import BERTS
from lidit_core.llm.locate import locate
from lidit_core.text.spec import LLMSpec

T5_NAMES = {"hidden_size": "d_model", "intermediate_size": "d_ff", "head_dim": "d_kv",
            "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}  # fmt: skip
UNGATED = (*BERTS, "t5")  # feed-forwards of two matrices
HEAD_BLOCK = 128  # guess: an LLM has a block for every so many channels of its width


@dataclass(frozen=True)
class LLMSize:
    """An LLM without the blocks after the one that is read, its final norm and its head."""

    name: str
    parameters: int  # embeddings included
    computing: int  # without embeddings: what each token is multiplied with, in every pass
    source: str  # how it is known: "its config.json", "its name", or "its width"

    def flops(self, tokens: int) -> int:
        """The operations of a forward pass over so many tokens, attention's scores aside."""
        return 2 * self.computing * tokens


def llm_size(spec: LLMSpec, folder: str | Path | None = None) -> LLMSize:
    """Count an LLM's parameters by its config.json, or guess them by its name or width.

    Args:
        folder: of the LLM; by default where its name is found on this machine.
    """
    config = _config(folder or spec.name)
    if config is not None:
        return _by_config(spec, config)
    named = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)\s*([BbMm])(?![A-Za-z])", spec.name)
    if named:
        size = round(float(named[1]) * {"b": 1e9, "m": 1e6}[named[2].lower()])
        return LLMSize(spec.name, size, _passes(spec) * size, "its name")
    size = 12 * spec.width**2 * max(1, spec.width // HEAD_BLOCK)
    return LLMSize(spec.name, size, _passes(spec) * size, "its width")


def _passes(spec: LLMSpec) -> int:
    """Differences are taken from a second pass, in which each token is alone."""
    return 2 if spec.block == "differences" else 1


def _config(source: str | Path) -> dict | None:
    try:
        folder = locate(source).folder
        if folder is None:
            return None
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        config = {**{ours: config[t5] for ours, t5 in T5_NAMES.items() if t5 in config}, **config}
        needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
        return config if all(isinstance(config.get(key), int) for key in needed) else None
    except (LiDiTError, OSError, ValueError, AttributeError):
        return None


def _by_config(spec: LLMSpec, config: dict) -> LLMSize:
    """The blocks of a LLaMA-like decoder: attention with grouped keys, a gated feed-forward.

    Encoders have other ones: of BERT's kind, and of T5's unless it says so, they are not gated.
    """
    width, heads = config["hidden_size"], config.get("num_attention_heads") or 1
    head = config.get("head_dim") or width // heads
    groups = config.get("num_key_value_heads") or heads
    attention = 2 * width * head * (heads + groups)
    gated = config.get("is_gated_act", config.get("feed_forward_proj", "").startswith("gated"))
    matrices = 2 if config.get("model_type") in UNGATED and not gated else 3
    block = attention + matrices * width * config["intermediate_size"]
    kept = kept_blocks(spec.block, config["num_hidden_layers"], spec.name)
    embeddings = width * config["vocab_size"]
    computing = _passes(spec) * kept * block
    return LLMSize(spec.name, kept * block + embeddings, computing, "its config.json")

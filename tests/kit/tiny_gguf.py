"""Tiny random GGUF files of real classes, with llama.cpp's names and orders of tensors.

The names are the gguf package's own, which the pack's table is thereby compared with.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from tiny_llm import chat_tokenizer, tiny_config
from transformers import AutoModelForCausalLM, set_seed

PERMUTED = ("llama", "smollm3", "granite", "mistral3")
SHIFTED = ("gemma2", "gemma3")


def tiny_model(family: str, **changes):
    """A random LLM of a class, its norms and biases unlike those that a class begins with."""
    set_seed(0)
    changes = copy.deepcopy(changes)  # configurations write into what they are given
    model = AutoModelForCausalLM.from_config(tiny_config(family, len(chat_tokenizer()), **changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                weight.add_(0.3 * torch.randn_like(weight))
    return model.eval()


def gguf_tensors(model, architecture: str) -> dict[str, np.ndarray]:
    """The LLM's tensors as llama.cpp's converter lays them down."""
    config = model.config
    kind = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    tensors = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if architecture in PERMUTED and (heads := _heads(name, config)):
            value = value.reshape(heads, 2, -1, *value.shape[1:]).transpose(1, 2).reshape_as(value)
        if architecture in SHIFTED and name.endswith("norm.weight"):
            value = value + 1
        layer, _, leaf = name.rpartition(".")
        tensors[f"{names.get_name(layer)}.{leaf}"] = value.numpy()
    return tensors


def _heads(name: str, config) -> int:
    kinds = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return kinds.get(name.split(".")[-2], 0)


def plain_metadata(config, head: int) -> dict:
    """What every file says of its sizes."""
    return {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
        "rope.freq_base": 50000.0,
        "vocab_size": config.vocab_size,
    }


def write_tiny_gguf(
    path: Path, architecture: str, tensors: Mapping[str, np.ndarray], metadata: Mapping,
    split: tuple[int, int] | None = None, pre: str = "qwen2",
) -> None:  # fmt: skip
    """Write a file: numbers as they are, lists of numbers as lists, None left out.

    Args:
        split: number and count, of the file as one of a split.
    """
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        _add(writer, f"{architecture}.{key}", value)
    if split:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
    if not split or split[0] == 0:
        add_tokenizer(writer, chat_tokenizer(), pre)
    for name, value in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer, key: str, value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def add_tokenizer(writer, tokenizer, pre: str = "default") -> None:
    """A byte-level tokenizer as a GGUF holds it."""
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    specials = set(tokenizer.all_special_tokens)
    pairs = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_add_bos_token(False)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in specials else 1 for token in tokens])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in pairs])
    writer.add_eos_token_id(vocabulary["<|im_end|>"])
    writer.add_bos_token_id(vocabulary["<|im_start|>"])
    writer.add_chat_template(tokenizer.chat_template)

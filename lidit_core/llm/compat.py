"""What differs between the releases of transformers that are supported, 4.50 and later."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import re
from pathlib import Path

from ..errors import LiDiTError
from .encoders import is_encoder
from .fetch import install_line

OLDEST = "4.50.3"  # as in pyproject.toml
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}  # of `layer_types`


@functools.cache
def transformers_version() -> str:
    """The installed release, found without importing it."""
    try:
        return importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError as error:
        raise LiDiTError(
            f"LLMs are read with transformers {OLDEST} or newer, which this Python lacks; run: "
            f"{install_line('transformers')}"
        ) from error


def check_transformers() -> None:
    """Raise a LiDiTError unless there is a release that can read LLMs."""
    if _release() < _numbers(OLDEST):
        raise LiDiTError(
            f"transformers is {transformers_version()}; expected {OLDEST} or newer, so run: "
            f"{install_line('transformers')}"
        )


def _release() -> tuple[int, ...]:
    return _numbers(transformers_version())


def _numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version; what follows, as rc1 or dev0, is left out."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def dtype_argument() -> str:
    """The name of `from_pretrained`'s argument for the weights' dtype."""
    return "dtype" if _release() >= (4, 56) else "torch_dtype"


def read_tokenizer(folder: Path):
    """A model folder's tokenizer; folders that transformers 5 wrote are read by 4 as well."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, AttributeError):
        if _release() >= (5, 0) or not (folder / "tokenizer.json").is_file():
            raise
        tokenizer = PreTrainedTokenizerFast.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            extra_special_tokens={},  # a list in 5, which 4 takes for a dict
        )
    chat_template = folder / "chat_template.jinja"
    if tokenizer.chat_template is None and chat_template.is_file():
        tokenizer.chat_template = chat_template.read_text(encoding="utf-8")
    return tokenizer


def tokenizer_around(core, **special: str):
    """A tokenizer of transformers around one of the `tokenizers` library.

    Args:
        special: its special tokens by their roles (bos_token and so on), and its chat_template.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def new_cache():
    """An empty cache that keeps every key, those outside of a sliding window too."""
    from transformers import DynamicCache

    return DynamicCache()


def cache_argument(module) -> str:
    """The name of a decoder's argument for the cache, which 5.24 has renamed."""
    names = inspect.signature(module.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def cached_layers(cache) -> list[tuple]:
    """Keys and values of every block, each (B, heads, L, head width)."""
    if hasattr(cache, "layers"):
        return [(layer.keys, layer.values) for layer in cache.layers]
    return list(zip(cache.key_cache, cache.value_cache, strict=True))


def only_attention(module) -> bool:
    """Whether no block is a state-space, linear-attention or convolution layer."""
    kinds = set(getattr(module.config, "layer_types", None) or ())
    return kinds <= ATTENTION and not getattr(module, "_is_stateful", False)


def can_reuse(module, length: int) -> bool:
    """Whether `length` tokens may be read on top of cached ones.

    Only attention keeps all that follows needs as keys and values; state-space, linear-attention
    and convolution layers do not, and an encoder's tokens see those after them too. Before 4.53
    sliding-window layers expect a cache that drops what left the window.
    """
    longest = getattr(module, "longest_reuse", None)  # of decoders that a host runs
    if longest is not None:
        return length <= longest
    window = getattr(module.config, "sliding_window", None)
    if not only_attention(module) or is_encoder(module.config):
        return False
    return _release() >= (4, 53) or not window or length < window

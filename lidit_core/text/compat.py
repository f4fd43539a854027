"""What differs between the releases of transformers that are supported, 4.50 and later."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.cache
def transformers_version() -> str:
    """The installed release, found without importing it."""
    return importlib.metadata.version("transformers")


def _release() -> tuple[int, int]:
    major, minor = transformers_version().split(".")[:2]
    return int(major), int(minor)


def dtype_argument() -> str:
    """The name of `from_pretrained`'s argument for the weights' dtype."""
    return "dtype" if _release() >= (4, 56) else "torch_dtype"


def new_cache():
    """An empty cache that keeps every key, those outside of a sliding window too."""
    from transformers import DynamicCache

    return DynamicCache()


def cached_layers(cache) -> list[tuple]:
    """Keys and values of every block, each (B, heads, L, head width)."""
    if hasattr(cache, "layers"):
        return [(layer.keys, layer.values) for layer in cache.layers]
    return list(zip(cache.key_cache, cache.value_cache, strict=True))


def can_reuse(config, length: int) -> bool:
    """Whether `length` tokens may be read on top of cached ones.

    Before 4.53 sliding-window layers expect a cache that drops what left the window.
    """
    window = getattr(config, "sliding_window", None)
    return _release() >= (4, 53) or not window or length < window

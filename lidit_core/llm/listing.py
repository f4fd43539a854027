"""Whether a file can serve as an LLM, by its header alone; asked of every file in a folder."""

from __future__ import annotations

import functools
import json
import struct
from pathlib import Path

from .decoder.audit import most_blocks
from .gguf.header import architecture, later_split
from .gguf.write import serves
from .single.file import CONFIG, EMBEDDED, TOKENIZER, companions, shapes_of
from .single.released import candidates, named

LARGEST_HEADER = 100 << 20  # bytes, as safetensors has it


def gguf_serves(path: Path) -> bool:
    """Whether a GGUF file is an LLM of a kind that is read, and if split its first file."""
    try:
        return not later_split(path) and serves(architecture(path))
    except OSError:
        return False


def file_serves(path: Path) -> bool:
    """Whether a safetensors file is an LLM that is known, with a tokenizer to be found."""
    try:
        stat, beside = path.stat(), companions(path)
        blocks, known, tokenizer = _header_says(path, stat.st_size, stat.st_mtime_ns)
    except (OSError, ValueError, struct.error, AttributeError, TypeError, KeyError):
        return False
    said = blocks > 0 and beside is not None and (beside / CONFIG).is_file()
    reads = beside is not None and (beside / TOKENIZER).is_file()
    return (known or said) and (tokenizer or reads)


@functools.lru_cache(maxsize=1024)
def _header_says(path: Path, size: int, mtime_ns: int) -> tuple[int, bool, bool]:
    """Blocks, whether they are one released LLM's, and whether a tokenizer is embedded."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(LARGEST_HEADER, size):
            return 0, False, False
        header = json.loads(file.read(length))
    tensors = {name: said["shape"] for name, said in header.items() if name != "__metadata__"}
    blocks = most_blocks(key for key in tensors if "vis" not in key)
    shapes = shapes_of(tensors)
    found = candidates(shapes, blocks) if shapes else []
    return blocks, len(named(found, path.stem)) == 1, EMBEDDED in tensors

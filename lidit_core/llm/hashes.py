"""What tells one LLM from every other: hashes of its tensors, its tokenizer and its configuration.

A fingerprint (`fingerprint.py`) knows an LLM again however it is stored; these hashes tell apart
whatever gives other states, as a copy whose tokenizer alone is another one.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from ..errors import LiDiTError
from ..io.hashes import BLOCK
from .decoder.checkpoint import checkpoint_files
from .hub import model_folder
from .loading import default_dtype
from .locate import locate
from .single.file import CONFIG, TOKENIZER_FILES

Versions = tuple[tuple[Path, int, int], ...]  # path, size and time of each file
LLMHashes = Mapping[str, str]  # SHA-256 by part; {} = not known
PARTS = "weights", "tokenizer", "config"
NUMBERS = "numbers"  # beside them in a record: the dtype in which an LLM was read
READ = ", read in "
# What releases of transformers write otherwise of the same LLM, and what no state depends on.
FREE = ("transformers_version", "_name_or_path", "name_or_path", "torch_dtype", "dtype")


def llm_hashes(source: str | Path) -> LLMHashes:
    """The hashes of an LLM as it is loaded: a GGUF is converted first, once.

    Weights are read whole, once in a process; how they are shared out to files does not count.

    Raises:
        LiDiTError: it is not there, or cannot be read.
    """
    found = locate(source)
    folder = model_folder(found)
    files = [found.weights] if found.weights else checkpoint_files(folder)
    reads = [folder / name for name in sorted(TOKENIZER_FILES)]
    found_in = _weights(_versions(files)), _contents(_versions(reads))
    return dict(zip(PARTS, (*found_in, _contents(_versions([folder / CONFIG])))))


def read_hashes(source: str | Path, device: str) -> LLMHashes:
    """The hashes of an LLM, and the dtype in which it is read on a device where none is named.

    Raises:
        LiDiTError: as `llm_hashes`.
    """
    numbers = str(default_dtype(torch.device(device))).removeprefix("torch.")
    return {**llm_hashes(source), NUMBERS: numbers}


def shown_hashes(hashes: LLMHashes) -> str:
    """The hashes as reports name them, by their first digits."""
    if not hashes:
        return "not known"
    named = (f"{part} {hashes[part][:12]}" for part in PARTS[1:] if part in hashes)
    read = f"{READ}{hashes[NUMBERS]}" if NUMBERS in hashes else ""
    return f"{hashes.get(PARTS[0], '')[:12]} ({', '.join(named)}){read}"


def other_part(one: LLMHashes, other: LLMHashes) -> str:
    """The first part in which two LLMs differ; "" where either is not known, or they are alike."""
    both = (part for part in (*PARTS, NUMBERS) if part in one and part in other)
    parts = (part for part in both if one[part] != other[part])
    return next(parts, "")


def _versions(files: Iterable[Path]) -> Versions:
    stats = [(file, file.stat()) for file in files if file.is_file()]
    return tuple((file.absolute(), stat.st_size, stat.st_mtime_ns) for file, stat in stats)


@functools.lru_cache(maxsize=64)
def _weights(versions: Versions) -> str:
    """The hash of all tensors, each by name, kind, shape and numbers, in the order of names."""
    tensors = [each for path, *_ in versions for each in _tensors(path)]
    digest = hashlib.sha256()
    for name, told, path, first, last in sorted(tensors):
        digest.update(f"{name} {told} ".encode())
        with open(path, "rb") as file:
            file.seek(first)
            while first < last and (block := file.read(min(BLOCK, last - first))):
                digest.update(block)
                first += len(block)
    return digest.hexdigest()


def _tensors(path: Path) -> Iterator[tuple[str, str, Path, int, int]]:
    """Each tensor of a safetensors file: name, kind and shape, and where its numbers lie."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for name, about in header.items():
            if name != "__metadata__":
                first, last = (8 + length + offset for offset in about["data_offsets"])
                yield name, f"{about['dtype']} {about['shape']}", path, first, last
    except (OSError, ValueError, LookupError, TypeError, AttributeError, MemoryError) as error:
        raise LiDiTError(
            f"{path} is not a whole safetensors file ({error}); download it again"
        ) from error


@functools.lru_cache(maxsize=64)
def _contents(versions: Versions) -> str:
    """The hash of files by their names and contents; of small JSON what it says counts."""
    digest = hashlib.sha256()
    for path, size, _ in versions:
        content = path.read_bytes()
        content = _said(content) if size < BLOCK else content  # a tokenizer of 30 MB takes seconds
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _said(content: bytes) -> bytes:
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return content
    if isinstance(said, dict):
        said = {key: value for key, value in said.items() if key not in FREE}
    return json.dumps(said, sort_keys=True).encode()

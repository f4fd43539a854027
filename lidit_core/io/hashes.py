"""The hashes by which a file is known, whatever its name."""

from __future__ import annotations

import hashlib
from pathlib import Path

BLOCK = 1 << 20  # bytes
SAMPLES, SAMPLE = 1024, 4096  # blocks spread over a file, and bytes of each


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def weights_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, or of all .safetensors in a folder, in their names' order."""
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.safetensors")):
        with open(file, "rb") as opened:
            while block := opened.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def sampled_sha256(path: Path) -> str:
    """The SHA-256 of a file's size, its first MiB, and 1,024 blocks of 4 KiB spread over it.

    It tells weights that were trained or merged from those of before, whose numbers all differ, in
    a moment; a change of a few bytes may pass it.
    """
    size, digest = path.stat().st_size, hashlib.sha256()
    digest.update(f"{size} ".encode())
    with open(path, "rb") as file:
        digest.update(file.read(BLOCK))
        for number in range(SAMPLES):
            file.seek(size * number // SAMPLES)
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()

"""Many strings in one run of bytes, so that tens of millions cost no Python object each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


class Texts:
    """A sequence of strings that never changes; half a surrogate pair (a file's name) is kept."""

    def __init__(self, data: np.ndarray, ends: np.ndarray):
        self.data = data  # (bytes,) uint8, UTF-8
        self.ends = ends  # (N,) int64, where each string ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Texts":
        data, ends = bytearray(), []
        for text in strings:
            data += text.encode("utf-8", "surrogatepass")
            ends.append(len(data))
        return cls(np.frombuffer(bytes(data), np.uint8), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self.ends):
            raise IndexError(f"string {index} of {len(self.ends)}")
        first = self.ends[index - 1] if index else 0
        return self.data[first : self.ends[index]].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

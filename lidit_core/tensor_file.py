"""Safetensors files: read with one sentence where they are damaged, written beside and renamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import LiDiTError
from .files import replacing


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file; one sentence where it is missing or cut short."""
    with opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}


@contextmanager
def opened(path: str | Path) -> Iterator:
    """The file as `safe_open` gives it, to read only some of it."""
    if not Path(path).is_file():
        raise LiDiTError(f"no file {path}; give the path of a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise LiDiTError(
            f"{path} is no whole safetensors file ({error}); fetch or copy it again"
        ) from error


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write beside, then rename: the old file stays whole until the new one is."""
    try:
        with replacing(path) as beside:
            save_file({k: v.contiguous() for k, v in tensors.items()}, beside, dict(metadata))
    except (SafetensorError, OSError) as error:
        raise LiDiTError(
            f"{path} cannot be written ({error}); make room on its disk, or write somewhere else"
        ) from error

"""Safetensors files: read with one sentence where they are damaged, written beside and renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import LiDiTError, listed
from .atomic import replacing

Filled = TypeVar("Filled", bound=nn.Module)


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file; one sentence where it is missing or cut short."""
    with opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}


@contextmanager
def opened(path: str | Path) -> Iterator:
    """The file as `safe_open` gives it, to read only some of it."""
    if not os.path.isfile(path):  # False for a name that no system takes
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
    """Write beside, then rename: the old file stays whole until the new one is.

    The same tensors and metadata give the same bytes.
    """
    try:
        with replacing(path) as beside:
            save_file({k: v.contiguous() for k, v in tensors.items()}, beside, dict(metadata))
            if len(metadata) > 1:
                _sort_metadata(beside)
    except (SafetensorError, OSError) as error:
        raise LiDiTError(
            f"{path} cannot be written ({error}); make room on its disk, or write somewhere else"
        ) from error


def _sort_metadata(path: Path) -> None:
    """Write the metadata's keys in order in place: safetensors leaves them to chance."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__")
        ordered = {"__metadata__": dict(sorted(metadata.items())), **header}
        text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # the same characters, so always, but for odd ones' escapes
            file.seek(8)
            file.write(text.ljust(length))


def write_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Give a file other metadata; its tensors stay the same bytes in the same places."""
    try:
        with replacing(path) as beside, open(path, "rb") as old, open(beside, "wb") as new:
            header = json.loads(old.read(int.from_bytes(old.read(8), "little")))
            header = {"__metadata__": dict(sorted(metadata.items())), **_without_metadata(header)}
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            text = text.ljust(-(-len(text) // 8) * 8)  # the tensors begin at a multiple of 8
            new.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(old, new, 1 << 22)
    except OSError as error:
        raise LiDiTError(
            f"{path} cannot be written ({error}); make room on its disk, or copy it elsewhere"
        ) from error


def _without_metadata(header: dict) -> dict:
    return {name: said for name, said in header.items() if name != "__metadata__"}


def check_finite(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse to write weights that are not finite: whoever reads them gets a black picture."""
    bad = [k for k, v in tensors.items() if v.is_floating_point() and not _is_finite(v)]
    if bad:
        raise LiDiTError(
            f"{path} is not written, for {len(bad)} of its tensors, {bad[0]} first, hold numbers "
            "that are not finite; expected finite ones: begin anew with a lower learning rate, or "
            "go on from a checkpoint before they came"
        )


def _is_finite(tensor: Tensor) -> bool:
    tensor = tensor.float() if tensor.itemsize < 2 else tensor  # float8 cannot be asked
    return bool(tensor.isfinite().all())


HOST_PREFIX = "model.diffusion_model."  # what a host's "save checkpoint" puts before every key


Shape = Sequence[int]


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The tensors' shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def shapes_in(file) -> dict[str, Shape]:
    """The shapes by name in a file that `opened` gave; no weight is read."""
    return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def check_sizes(
    found: Mapping[str, Shape], lists: Mapping[str, int], some: Mapping[str, Shape], what: str
) -> None:
    """Compare the sizes that a configuration asks for with a file, before a model is built of them.

    A configuration that asks for ten million blocks is thereby refused in a moment.

    Args:
        lists: how many modules each list of modules has, by the beginning of their names.
        some: the shapes of some tensors in which every width occurs.
    """
    for place, count in lists.items():
        there = _members(found, place)
        if there != count:
            raise LiDiTError(
                f"{what} does not fit its configuration, which asks for {count} of {place}N, and "
                f"the file holds {there}; fetch the file again, or use the one made for this model"
            )
    _check_shapes({k: v for k, v in found.items() if k in some}, some, what)


def _members(names: Iterable[str], place: str) -> int:
    """How many modules are in the list whose members' names begin so."""
    return len({n[len(place) :].split(".", 1)[0] for n in names if n.startswith(place)})


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Compare key sets and shapes; the first five of each kind of fault are named."""
    _check_shapes(shapes_of(found), shapes_of(expected), what)


def _check_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape], what: str) -> None:
    faults = {
        "missing": [k for k in expected if k not in found],
        "unexpected": [k for k in found if k not in expected],
        "misshapen": [
            f"{k} {found[k]} instead of {expected[k]}"
            for k in expected
            if k in found and found[k] != expected[k]
        ],
    }
    told = [_name_faults(kind, names) for kind, names in faults.items() if names]
    if told:
        raise LiDiTError(
            f"{what} does not fit its configuration: {'; '.join(told)}; "
            "fetch the file again, or use the one made for this model"
        )


def _name_faults(kind: str, names: list[str]) -> str:
    return f"{len(names)} {kind} ({listed(names, 5)})"


def fill(module: Filled, tensors: Mapping[str, Tensor], what: str, dtype=None) -> Filled:
    """Put checked tensors into a module built on the meta device."""
    check_tensors(tensors, module.state_dict(), what)
    module.load_state_dict({k: v.to(dtype) for k, v in tensors.items()}, assign=True)
    return module.eval()

"""Encoded prompts as files: entries of CONDITIONING, whatever encoder they come from.

A file is safetensors. Each prompt has one entry or more, each entry a sequence (B, L, C), or
(B, K, L, C) where K layers of an encoder are kept, and values beside it: tensors, numbers and
text in dicts and lists, such as a pooled vector, a mask, or another LLM's states. The tensors lie
in the file under plain names, and the metadata says where each belongs:

    format    "lidit-conditioning"
    version   "1"
    prompts   JSON: for each prompt its text, "" = not known
    entries   JSON: for each prompt a list of entries, {"sequence": NAME, "values": {...}},
              in which {"tensor": NAME} stands for a tensor
    about     JSON: what the encoder was, in its writer's words

Nothing in a file is executed, and no size in it is believed before the tensors are seen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import LiDiTError, check
from .tensors import opened, read_safetensors, write_safetensors

FORMAT, VERSION = "lidit-conditioning", "1"
TENSOR = "tensor"  # the key of what stands for a tensor
DEEPEST = 16  # dicts and lists within one another
FAINT = 0.1  # of the median row's length; a shorter row's distance is measured by that

DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # what reading raises

Entry = tuple[Tensor, Mapping[str, Any]]


class NotStorable(LiDiTError):
    """A value that no file holds."""


@dataclass(frozen=True)
class EncodedPrompt:
    """One prompt as an encoder gives it."""

    entries: Sequence[Entry]
    text: str = ""


@dataclass(frozen=True)
class EncodedPrompts:
    """What a file holds."""

    prompts: Sequence[EncodedPrompt]
    about: Mapping[str, Any] = field(default_factory=dict)


def distance(one: Entry, other: Entry) -> float:
    """The largest relative distance of two entries' tensors; inf where shapes differ.

    It is inf too where either holds a number that is not finite. Of a tensor it is that of the
    whole or the root mean square of its rows', whichever is more: in many LLMs the first row is an
    attention sink (Xiao et al. 2023, arXiv 2309.17453), so long that beside it no change of the
    others is seen in the whole. Pooled vectors count by themselves: they may be another text
    encoder's than the sequence.
    """
    pairs = [(one[0], other[0])]
    for name in sorted(set(one[1]) & set(other[1])):
        pair = one[1][name], other[1][name]
        if all(isinstance(x, Tensor) and x.is_floating_point() for x in pair):
            pairs.append(pair)
    return max(_distance(a.float().cpu(), b.float().cpu()) for a, b in pairs)


def _distance(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    apart, sizes = (x.norm(dim=-1).flatten() for x in (one - other, one))
    there = (sizes != 0) | (apart != 0)  # an encoder may fill up with zeros
    apart, sizes = apart[there], sizes[there]
    if not len(sizes):
        return 0.0
    least = (FAINT * sizes.median()).clamp(min=1e-12)
    rows = (apart / sizes.clamp(min=float(least))).square().mean().sqrt()
    largest = float(torch.maximum(apart.norm() / sizes.norm().clamp(min=1e-12), rows))
    return largest if math.isfinite(largest) else float("inf")


def strange_numbers(entry: Entry) -> int:
    """How many numbers of an entry's tensors are not finite."""
    return _strange(entry[0]) + _strange(entry[1])


def _strange(value: Any) -> int:
    if isinstance(value, Tensor):
        return int((~value.float().isfinite()).sum())  # float8 cannot be asked
    if isinstance(value, Mapping):
        return sum(map(_strange, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_strange, value))
    return 0


def write_encoded(path: str | Path, encoded: EncodedPrompts) -> None:
    """Write a file, beside and then renamed.

    Raises:
        NotStorable: a value is no tensor, number, text, dict or list.
        LiDiTError: the file cannot be written.
    """
    kept = _Kept()
    entries = [
        [_entry(entry, f"{p}.{e}", kept) for e, entry in enumerate(prompt.entries)]
        for p, prompt in enumerate(encoded.prompts)
    ]
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "prompts": json.dumps([prompt.text for prompt in encoded.prompts]),
        "entries": json.dumps(entries),
        "about": json.dumps(dict(encoded.about)),
    }
    write_safetensors(path, kept.tensors, metadata)


def pack_entry(entry: Entry, name: str) -> tuple[dict[str, Tensor], str]:
    """An entry for a file of another kind: its tensors, all below ``name``, and JSON.

    Raises:
        NotStorable: a value is no tensor, number, text, dict or list.
    """
    kept = _Kept()
    text = json.dumps(_entry(entry, name, kept))
    return kept.tensors, text


def unpack_entry(text: str, tensors: Mapping[str, Tensor], path: str | Path) -> Entry:
    """The entry that `pack_entry` was given.

    Raises:
        LiDiTError: the file does not hold it whole.
    """
    try:
        return _read(json.loads(text), tensors)
    except DAMAGED as error:
        raise LiDiTError(_told(path, error)) from error


class _Kept:
    """The tensors of a file; one that an entry holds twice lies in it once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[tuple, str] = {}

    def add(self, tensor: Tensor, name: str) -> str:
        """Keep a copy of a tensor, under this name or the one that it has already."""
        place = tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype
        known = self.names.setdefault((*place, tensor.device), name)
        if known == name:
            self.tensors[name] = tensor.detach().cpu().clone()
        return known


def _entry(entry: Entry, name: str, kept: _Kept) -> dict[str, Any]:
    sequence, values = entry
    return {"sequence": kept.add(sequence, name), "values": _stored(values, name, kept, DEEPEST)}


def _stored(value: Any, name: str, kept: _Kept, depth: int) -> Any:
    """What stands for a value in JSON; its tensors are kept."""
    if isinstance(value, Tensor):
        return {TENSOR: kept.add(value, name)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {k: _stored(v, f"{name}.{k}", kept, depth - 1) for k, v in value.items()}
    if depth and isinstance(value, (list, tuple)):
        return [_stored(v, f"{name}.{i}", kept, depth - 1) for i, v in enumerate(value)]
    raise NotStorable(
        f"{name.partition('.')[2] or name} is {type(value).__name__}, which no file holds; "
        "expected tensors, numbers and text in dicts and lists"
    )


def read_encoded(path: str | Path) -> EncodedPrompts:
    """Read a file.

    Raises:
        LiDiTError: it is not there, damaged, of another kind or of a newer version.
    """
    tensors, metadata = read_safetensors(path)
    check(
        metadata.get("format") == FORMAT,
        f"{path} holds no encoded prompts; expected a file of Save Conditioning or of `lidit "
        "encode --out`",
    )
    check(
        metadata.get("version") == VERSION,
        f"{path} is of version {str(metadata.get('version'))[:20]!r} of its format, and this reads "
        f"{VERSION}; update the pack",
    )
    try:
        texts, entries = json.loads(metadata["prompts"]), json.loads(metadata["entries"])
        prompts = [
            EncodedPrompt([_read(entry, tensors) for entry in several], _text(text))
            for text, several in zip(texts, entries, strict=True)
        ]
        about = json.loads(metadata["about"])
        return EncodedPrompts(prompts, dict(about))
    except DAMAGED as error:
        raise LiDiTError(_told(path, error)) from error


def read_texts(path: str | Path) -> list[str]:
    """The texts of a file's prompts; no tensor is read."""
    with opened(path) as file:
        return [_text(text) for text in _listed(file, path, "prompts")]


def read_encoded_prompt(path: str | Path, place: int) -> EncodedPrompt:
    """One prompt of a file; of its tensors only those are read that it has."""
    with opened(path) as file:
        text, entries = (_listed(file, path, name)[place] for name in ("prompts", "entries"))
        try:
            kept = {name: file.get_tensor(name) for name in _names(entries)}
            return EncodedPrompt([_read(entry, kept) for entry in entries], _text(text))
        except (SafetensorError, *DAMAGED) as error:
            raise LiDiTError(_told(path, error)) from error


def _listed(file, path: str | Path, name: str) -> list:
    """A list of the metadata, an item for each prompt."""
    try:
        return list(json.loads((file.metadata() or {})[name]))
    except DAMAGED as error:
        raise LiDiTError(_told(path, error)) from error


def _names(value: Any) -> Iterator[str]:
    """The names of the tensors in what stands for a prompt's entries."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in (TENSOR, "sequence") and isinstance(inner, str):
                yield inner
            else:
                yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)


def _told(path: str | Path, error: BaseException) -> str:
    return f"{path} is damaged ({type(error).__name__}: {str(error)[:100]}); write it again"


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError("a prompt is no text")
    return text


def _read(entry: Any, tensors: Mapping[str, Tensor]) -> Entry:
    sequence = tensors[entry["sequence"]]
    if sequence.ndim not in (3, 4) or not sequence.is_floating_point():
        raise ValueError(f"a sequence has shape {tuple(sequence.shape)}")
    values = _restored(entry["values"], tensors)
    if not isinstance(values, dict):
        raise TypeError("values are no dict")
    return sequence, values


def _restored(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {TENSOR} and isinstance(value[TENSOR], str):
            return tensors[value[TENSOR]]
        return {key: _restored(inner, tensors) for key, inner in value.items()}
    if isinstance(value, list):
        return [_restored(inner, tensors) for inner in value]
    return value

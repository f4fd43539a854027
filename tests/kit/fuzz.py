"""Hostile inputs, each made from its kind and its number, and what every one must end in.

`LIDIT_FUZZ_INPUTS` says how many there are of a kind, and `LIDIT_FUZZ_ONLY=17` repeats number 17.
"""

from __future__ import annotations

import copy
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import read_safetensors, write_safetensors

COUNT = int(os.environ.get("LIDIT_FUZZ_INPUTS", "60"))
ONLY = os.environ.get("LIDIT_FUZZ_ONLY")
SECONDS = 10  # that an input may take
BYTES = 8 << 30  # that an input may ask for, beside what the process has
LONGEST = 2500  # characters of a sentence; it may name a file, and a value in short
ODD = (
    None, True, False, 0, 1, -1, 3, 33, 10_000_000, 1 << 40, 1 << 63, -(1 << 70), 10**400,
    0.0, -0.5, 1.5, 1e300, float("nan"), float("inf"), float("-inf"),
    "", " ", "a", "3", "nan", "\0", "\ud800", "猫", "../..", "x" * 5000, "of " * 2000, "{prompt}",
    "{", [], {}, [[]], [None], {"": None}, {"a": {"b": 1}}, ["a", 1, None], [1.0] * 16, list("abc"),
)  # fmt: skip


class TooLong(BaseException):
    """An input took longer than it may; no `except Exception` takes it for its own."""


def numbers() -> range:
    """The numbers of the inputs of a kind."""
    return range(int(ONLY), int(ONLY) + 1) if ONLY else range(COUNT)


def demand(kind: str, make: Callable[[random.Random], Any], use: Callable[[Any], object]) -> None:
    """Each input ends in a result or in one sentence, in time; those that do not are listed."""
    faults = []
    for number in numbers():
        made = make(random.Random(f"{kind} {number}"))
        fault = _fault(made, use)
        if fault:
            faults.append(f"{kind} {number}: {fault}\n    from {_short(repr(made), 600)}")
    assert not faults, f"{len(faults)} of {len(numbers())} fail\n" + "\n".join(faults[:12])


def _fault(made: Any, use: Callable[[Any], object]) -> str:
    """What is wrong with how an input ends; "" where nothing is."""
    try:
        with limited():
            use(made)
    except LiDiTError as error:
        return not_a_sentence(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        where = error.__traceback__
        while where and where.tb_next:
            where = where.tb_next
        place = where and f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}"
        return f"{type(error).__name__} at {place}: {_short(str(error), 200)}"
    return ""


def not_a_sentence(text: str) -> str:
    """Why a text is not one sentence; "" where it is one."""
    if not text.strip() or "\n" in text.strip():
        return f"not one line: {_short(repr(text), 400)}"
    if len(text) > LONGEST:
        return f"a sentence of {len(text)} characters: {_short(text, 200)}"
    return ""


def _short(text: str, most: int) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


@contextmanager
def limited() -> Iterator[None]:
    """Stops what takes too long, and refuses memory to what asks for too much."""
    resource = pytest.importorskip("resource", reason="this system has no limits for a process")

    def stop(*_: object) -> None:
        raise TooLong(f"it took more than {SECONDS} seconds")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def odd(rng: random.Random) -> Any:
    """A value that nobody meant."""
    value = copy.deepcopy(rng.choice(ODD))
    return [value] * rng.choice((1, 3, 16)) if rng.random() < 0.1 else value


def spoilt(rng: random.Random, data: Any) -> Any:
    """Plain data with one to three of its fields replaced, missing or added, at any depth."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holder = rng.choice(list(_holders(data)))
        if isinstance(holder, dict) and rng.random() < 0.2:
            holder[rng.choice(("", "extra", "name", "depth", "\ud800"))] = odd(rng)
            continue
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            continue
        key = rng.choice(keys)
        if rng.random() < 0.15:
            del holder[key]
        else:
            holder[key] = odd(rng)
    return data


def _holders(data: Any) -> Iterator[Any]:
    """Every object and list within plain data."""
    if isinstance(data, (dict, list)):
        yield data
        for value in data.values() if isinstance(data, dict) else data:
            yield from _holders(value)


def spoilt_text(rng: random.Random, text: str, alphabet: str = '{}[]",:0e-\\ \n\tuNa') -> str:
    """A text with some characters cut, doubled or replaced, or none of it left."""
    if rng.random() < 0.1:
        return rng.choice(("", "null", "[" * 100_000, "9" * 6000, '{"a":' * 50_000, "\ufeff{}"))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        end = at + rng.choice((0, 1, 1, 5, 40))
        text = text[:at] + "".join(rng.choices(alphabet, k=rng.randint(0, 3))) + text[end:]
    return text


@dataclass(frozen=True)
class Spoilt:
    """A file, how it was spoilt, and what it says of itself."""

    path: Path
    how: str
    description: str


def spoilt_file(rng: random.Random, good: Path, key: str, folder: Path) -> Spoilt:
    """A copy of a safetensors file with its description, its tensors or its bytes spoilt."""
    path = folder / "spoilt.safetensors"
    how = rng.choice(("fields", "fields", "fields", "text", "tensors", "both", "bytes", "cut"))
    tensors, metadata = read_safetensors(good)
    if how in ("fields", "both"):
        metadata = {**metadata, key: json.dumps(spoilt(rng, json.loads(metadata[key])))}
    if how == "text":
        metadata = {**metadata, key: spoilt_text(rng, metadata[key])}
    if how in ("tensors", "both"):
        _spoil_tensors(rng, tensors)
    write_safetensors(path, tensors, metadata)
    if how in ("bytes", "cut"):
        path.write_bytes(_spoilt_bytes(rng, path.read_bytes(), how))
    return Spoilt(path, how, metadata[key])


def _spoil_tensors(rng: random.Random, tensors: dict) -> None:
    import torch

    for name in rng.sample(sorted(tensors), min(len(tensors), rng.choice((1, 1, 3, 50)))):
        shape = rng.choice(((), (0,), (1,), (3, 3), (0, 1 << 40), tensors[name].shape[::-1]))
        how = rng.choice(("gone", "shape", "type", "name"))
        if how == "shape":
            tensors[name] = torch.zeros(shape)
        elif how == "type":
            tensors[name] = tensors[name].to(rng.choice((torch.int64, torch.float16, torch.bool)))
        else:
            tensor = tensors.pop(name)
            if how == "name":
                tensors[name.replace("0", rng.choice(("9", "x", "99999999999999999999")))] = tensor


def _spoilt_bytes(rng: random.Random, data: bytes, how: str) -> bytes:
    if how == "cut":
        return data[: int(len(data) * rng.random())]
    header = min(len(data), rng.choice((8, 64, 4096)))  # its length, or what lists the tensors
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 30))):
        changed[rng.randrange(header)] = rng.randrange(256)
    return bytes(changed)

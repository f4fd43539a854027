"""What a text encoder makes of many prompts, in a folder of shards: to learn or to sample from.

A shard is a file of `conditioning.py`; `recording.json` says how many prompts there are and which.
Shards are written beside and renamed, so that a recording that was stopped goes on after the last
whole one, and two recordings of the same encoder are the same bytes. An encoder that changed in
between, another quantisation of it too, is noticed by what it makes of a few probes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import LiDiTError, check, shown
from .atomic import replacing
from .conditioning import (
    EncodedPrompt,
    EncodedPrompts,
    Entry,
    distance,
    read_encoded,
    read_encoded_prompt,
    read_texts,
    strange_numbers,
    write_encoded,
)

NAME, PROBES = "recording.json", "probes.safetensors"
FORMAT, VERSION = "lidit-recording", 1
SHARD = 64  # prompts
FINITE = (
    "record with the text encoder in another dtype, such as bfloat16 or float32 (in ComfyUI by "
    "--bf16-text-enc or --fp32-text-enc)"
)
PROBED = ("", "a cat", "two red cars to the left of a small blue bird, on a green background")
ALIKE = 1e-2  # `distance` of probes that bfloat16 and another device's sums may make. SmolLM2 at
# block -3: other threads 0.000, float16 for float32 0.003, bfloat16 for it 0.013, int8 0.022, fp8
# 0.047, q and v moved by 5 % 0.09; without its first row's sink int8 would be 0.006 and the last
# 0.007

Encode = Callable[[str], Sequence[Entry]]


@dataclass(frozen=True)
class Recording:
    """A folder of encoded prompts.

    Args:
        count: prompts that it has when it is whole.
        prompts_hash: SHA-256 of those, a line each.
    """

    folder: Path
    count: int
    prompts_hash: str
    shard: int = SHARD

    @property
    def shards(self) -> int:
        return -(-self.count // self.shard)

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        return [number for number in range(self.shards) if not self.path(number).is_file()]

    def prompts(self) -> Iterator[EncodedPrompt]:
        """Every prompt, in order.

        Raises:
            LiDiTError: a shard is missing or damaged.
        """
        for number in range(self.shards):
            yield from read_encoded(self._there(number)).prompts

    def prompt(self, number: int) -> EncodedPrompt:
        """One prompt by its number; no other is read.

        Raises:
            LiDiTError: its shard is missing or damaged, or numbers of it are not finite.
        """
        shard, place = divmod(number, self.shard)
        found = read_encoded_prompt(self._there(shard), place)
        strange = sum(map(strange_numbers, found.entries))
        check(
            not strange,
            f"the recording {self.folder} holds {strange} numbers of prompt {shown(found.text)} "
            f"that are not finite, which nothing can learn; {FINITE}, into another folder",
        )
        return found

    def texts(self) -> list[str]:
        """The texts of all prompts, in order."""
        return [text for n in range(self.shards) for text in read_texts(self._there(n))]

    def check_whole(self) -> None:
        """Refuse a recording that has not ended.

        Raises:
            LiDiTError: a shard is missing.
        """
        missing = self.missing()
        check(
            not missing,
            f"{self.folder} lacks {len(missing)} of its {self.shards} files; record the same "
            "prompts once more under its name, which goes on where it stopped",
        )

    def _there(self, number: int) -> Path:
        """A shard's file."""
        if not self.path(number).is_file():
            self.check_whole()
        return self.path(number)

    def probes(self) -> EncodedPrompts:
        """What the encoder made of the probes, the empty prompt first."""
        return read_encoded(self.folder / PROBES)


def open_recording(folder: str | Path) -> Recording:
    """Open a recording's folder.

    Raises:
        LiDiTError: it holds none, or one of a newer version.
    """
    path = Path(folder) / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        check(
            (found["format"], found["version"]) == (FORMAT, VERSION),
            f"{path} is of version {str(found['version'])[:20]} of its format, and this reads "
            f"{VERSION}; update the pack",
        )
        count, shard = int(found["count"]), int(found["shard"])
        if count < 1 or shard < 1:
            raise ValueError(f"{count} prompts in shards of {shard}")
        return Recording(Path(folder), count, str(found["prompts_sha256"]), shard)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LiDiTError(
            f"{folder} holds no recording ({type(error).__name__}: {str(error)[:100]}); expected a "
            "folder that Record Conditioning wrote"
        ) from error


def record(
    encode: Encode,
    prompts: Sequence[str],
    folder: str | Path,
    about: Mapping[str, Any] | None = None,
    on_prompt: Callable[[int], Any] = lambda prompts: None,
) -> Recording:
    """Record what an encoder makes of prompts, or go on with a recording that was stopped.

    Args:
        encode: gives the CONDITIONING entries of a prompt; floats are kept as bfloat16.
        about: what the encoder is, for people.
        on_prompt: is told of how many more prompts are recorded.
    Raises:
        LiDiTError: the folder holds other prompts, the encoder has changed since, or it gives
            numbers that are not finite.
    """
    check(bool(prompts), "there is no prompt to record; expected one a line")
    kept = Recording(Path(folder), len(prompts), _hash(prompts))
    probes = EncodedPrompts([_encoded(encode, text) for text in PROBED], about or {})
    if (kept.folder / NAME).exists():
        _check_goes_on(open_recording(folder), kept, probes)
    else:
        write_encoded(kept.folder / PROBES, probes)
        _write_index(kept)
    for number in range(kept.shards):
        part = prompts[number * kept.shard : (number + 1) * kept.shard]
        if kept.path(number).is_file():
            on_prompt(len(part))
            continue
        encoded = []
        for text in part:
            encoded.append(_encoded(encode, text))
            on_prompt(1)
        write_encoded(kept.path(number), EncodedPrompts(encoded))
    return kept


def _hash(prompts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(prompts).encode("utf-8", "surrogatepass")).hexdigest()


def _encoded(encode: Encode, text: str) -> EncodedPrompt:
    encoded = EncodedPrompt([(_half(c), _halved(v)) for c, v in encode(text)], text)
    strange = sum(map(strange_numbers, encoded.entries))
    check(
        not strange,
        f"the text encoder gives {strange} numbers of prompt {shown(text)} that are not finite; "
        f"expected finite ones: {FINITE}",
    )
    return encoded


def _half(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor


def _halved(value: Any) -> Any:
    """The value with its floating-point tensors as bfloat16."""
    if isinstance(value, Tensor):
        return _half(value)
    if isinstance(value, Mapping):
        return {key: _halved(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_halved(inner) for inner in value]
    return value


def _write_index(kept: Recording) -> None:
    index = {"format": FORMAT, "version": VERSION, "count": kept.count, "shard": kept.shard}
    index["prompts_sha256"] = kept.prompts_hash
    with replacing(kept.folder / NAME) as beside:
        beside.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _check_goes_on(there: Recording, kept: Recording, probes: EncodedPrompts) -> None:
    check(
        (there.count, there.prompts_hash, there.shard) == (kept.count, kept.prompts_hash, SHARD),
        f"{kept.folder} holds a recording of {there.count} prompts, and these {kept.count} are "
        "others; name another folder",
    )
    far = difference(there.probes(), probes)
    check(
        far <= ALIKE,
        f"the text encoder is not the one that {kept.folder} was begun with: what it makes of "
        f"'a cat' differs by {far:.2g} (at most {ALIKE:g} by rounding); load that one, in the "
        "same quantisation, or name another folder",
    )


def difference(one: EncodedPrompts, other: EncodedPrompts) -> float:
    """The largest relative distance of the same prompts' entries; inf where shapes differ."""
    largest = 0.0
    for ours, theirs in zip(one.prompts, other.prompts, strict=True):
        if len(ours.entries) != len(theirs.entries):
            return float("inf")
        pairs = zip(ours.entries, theirs.entries, strict=True)
        largest = max([largest, *(distance(a, b) for a, b in pairs)])
    return largest

"""What a run is of, by which it is known again, for its state and its file.

All that decides the result is in it. What is too large to be written down is there as a hash, which
is the same after a restart, as the host's own mark on patches is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import singledispatch
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor, nn

from ....lidit_core.bridge.file import LoadedBridge
from ....lidit_core.bridge.teacher import NAME as TEACHER
from ....lidit_core.io.hashes import sampled_sha256
from ....lidit_core.io.recording import PROBES, Recording
from ...llm.reader import HostCLIP, reader_of
from ..readers import NO_LLM
from .known_again import COLLECTION, DRAWN, LATENT
from .learning import Options
from .model_anew import name_of
from .prompts import Prompts

PLAIN = (bool, int, float, str)  # settings


@dataclass(frozen=True, eq=False)
class Latents:
    """The latent of a run (1, C, h, w) or (1, C, frames, h, w)."""

    given: Tensor
    drawn: Tensor  # as a sampler of the host draws it, see `sampled_latent`


def about_run(
    model: Any, latents: Latents, loaded: LoadedBridge, prompts: Prompts, options: Options
) -> dict[str, Any]:
    """What a run is of, as it is read again from a file.

    Args:
        loaded: the bridge that it begins with.
    """
    recorded = prompts.recorded
    own = [recorded.own.recording] if recorded.own is not None else []
    about = {
        "from": recorded.recording.folder.name,
        COLLECTION: recorded.recording.prompts_hash[:16],
        "bridge": _weights(loaded.bridge),
        "through": name_of(model),
        LATENT: list(latents.given.shape),
        DRAWN: _sides(latents),
        **asdict(options),
        "weights": _weights_in_files(model),
        "patches": hashed([_patched(model), _loading_options(model)]),
        "llms": [_llm(clip) for clip in prompts.clips],
        "recorded": _recorded([recorded.recording, *own]),
        "latent's numbers": hashed(latents.given),
    }
    if own:
        about["adds to"] = own[0].folder.name
    return json.loads(json.dumps(about))


def _sides(latents: Latents) -> list[int]:
    """The sides of what is drawn; the host makes one frame of a picture for models of video."""
    sides = list(latents.drawn.shape[2:])
    return sides[1:] if len(sides) > latents.given.ndim - 2 and sides[0] == 1 else sides


def _weights(bridge: nn.Module) -> str:
    """A hash of a bridge's weights, as older versions wrote it too."""
    digest = hashlib.sha256()
    for name, tensor in sorted(bridge.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def hashed(value: Any) -> str:
    """16 digits that are the same for equal values, in every process."""
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(part)
    return digest.hexdigest()[:16]


def _patched(patcher: Any) -> list[Any]:
    """What nodes have set on the weights of a MODEL or CLIP, and on its machinery."""
    return [patcher.patches, patcher.object_patches, patcher.model_options]


def _loading_options(model: Any) -> list[Any]:
    """The options that a MODEL was loaded with, such as its weights' dtype."""
    _, args, *_ = model.cached_patcher_init
    return [each for each in args if isinstance(each, Mapping)]


def _weights_in_files(model: Any) -> str:
    """A hash of the files that a MODEL was loaded from; in memory LoRAs may lie on its weights."""
    _, args, *_ = model.cached_patcher_init
    files = [Path(each) for each in args if isinstance(each, str | Path)]
    return hashed([sampled_sha256(file) for file in files if file.is_file()])


def _llm(clip: HostCLIP) -> str:
    """The weights that read for an LLM: which, stored as what, and what is set on them."""
    llm = reader_of(clip, NO_LLM).llm
    return f"{llm.fingerprint} {llm.storage} {hashed(_patched(clip.patcher))}"


def _recorded(recordings: Sequence[Recording]) -> str:
    """A hash of what encoders made of the probes, and of what is said of their rows."""
    return hashed(
        [(each.folder / n).read_bytes() for each in recordings for n in (PROBES, TEACHER)]
    )


@singledispatch
def _parts(value: Any) -> Iterator[bytes]:
    """Bytes by which a value is told from others; of what cannot be looked into, its kind."""
    told = getattr(value, "__qualname__", "")  # of functions and classes
    yield f"<{type(value).__qualname__} {told}>".encode()


@_parts.register(type(None))
@_parts.register(bool)
@_parts.register(int)
@_parts.register(float)
@_parts.register(str)
@_parts.register(bytes)
@_parts.register(torch.dtype)
def _(value: Any) -> Iterator[bytes]:
    yield f"<{value!r}>".encode()


@_parts.register(Mapping)
def _(value: Mapping) -> Iterator[bytes]:
    for key, inner in sorted(value.items(), key=lambda pair: str(pair[0])):
        yield from _parts([key, inner])


@_parts.register(list)
@_parts.register(tuple)
def _(value: Sequence) -> Iterator[bytes]:
    yield f"[{len(value)}]".encode()
    for inner in value:
        yield from _parts(inner)


@_parts.register(FunctionType)
def _(value: FunctionType) -> Iterator[bytes]:
    """A function's name, and the settings that it closes over, as a node's patch does."""
    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    yield from _parts([value.__qualname__, [each for each in cells if isinstance(each, PLAIN)]])


@_parts.register
def _(value: Tensor) -> Iterator[bytes]:
    yield f"<{value.dtype} {tuple(value.shape)}>".encode()
    yield _bytes(value)


@_parts.register
def _(value: WeightAdapterBase) -> Iterator[bytes]:
    yield from _parts([value.name, value.weights])


@_parts.register
def _(value: nn.Module) -> Iterator[bytes]:
    """A module's tensors, and the settings beside them, such as a schedule's shift."""
    beside = {k: v for k, v in vars(value).items() if isinstance(v, PLAIN)}
    yield from _parts([type(value).__qualname__, beside, dict(value.state_dict())])

"""Warm start: the transformer of a LI-DiT from that of a PixArt of the same sizes.

Both are the same cross-attention transformer. Taken over are the timestep embedder and, in every
block, self-attention, FFN and their modulation; the rest of a LI-DiT has no counterpart. A model
that predicts eps sees PixArt's timesteps as they were; under flow the same t is another noise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lidit_core.errors import LiDiTError
from lidit_core.model.config import LiDiTConfig
from lidit_core.model.dit import LiDiT
from lidit_core.model.layers import timestep_frequencies

from .pixart_file import PixArtFile, read_pixart

SIZE = 1024.0  # pixels of the picture whose size embedding, where there is one, is kept
TIMES = torch.linspace(0, 999, 16)  # at which queries and keys are measured
TINY = 1e-12


@dataclass(frozen=True)
class WarmStart:
    """What a warm start did; `copied` and `fresh` are all tensors of the LI-DiT between them."""

    path: Path
    averaged: bool  # the moving average of PixArt's weights was taken
    copied: tuple[str, ...]  # from the file or, the gains of query and key, computed from it
    fresh: tuple[str, ...]  # as they were, but for pooled_text, which is zero
    unused: tuple[str, ...]  # of the file, by its own names

    def sentences(self) -> tuple[str, ...]:
        """Lines for a log: one each for what was copied, is fresh, and was not used."""
        which = "averaged weights" if self.averaged else "weights"
        return (
            f"from the {which} of {self.path.name}: {_grouped(self.copied)}",
            f"fresh: {_grouped(self.fresh)}",
            f"not used of {self.path.name}: {_grouped(self.unused)}",
        )


def _grouped(names: tuple[str, ...]) -> str:
    """Layers of all blocks together, the text side as one, each with the number of its tensors."""
    layers = (re.sub(r"^text_side\..*", "text_side", name) for name in names)
    layers = (re.sub(r"\.\d+\.", ".*.", layer, count=1) for layer in layers)
    counts = Counter(re.sub(r"\.(weight|bias)$", "", layer) for layer in layers)
    return ", ".join(f"{layer} ({count})" for layer, count in counts.items()) or "nothing"


@torch.no_grad()
def warm_start(model: LiDiT, path: str | Path) -> WarmStart:
    """Put PixArt's transformer into an initialised LI-DiT of the same depth, width and heads.

    Cross-attention's gates and the pooled text begin at zero, so that a block computes at first
    what PixArt's does without its text, but for QK-RMSNorm.

    Raises:
        LiDiTError: the file is no PixArt, or one of other sizes.
    """
    file = read_pixart(path)
    check_sizes(file, model.config)
    state = model.state_dict()
    copied = [_put(state, *found, file) for found in _embedder(file)]
    for index, block in enumerate(model.blocks):
        copied += [_put(state, *found, file) for found in _block(file, index)]
        norm = {"query": block.self_attn.norm.query_norm, "key": block.self_attn.norm.key_norm}
        for (name, layer), gain in zip(norm.items(), _gains(model, index)):
            layer.weight.copy_(gain)
            copied.append(f"blocks.{index}.self_attn.norm.{name}_norm.weight")
    nn.init.zeros_(model.pooled_text.weight)
    nn.init.zeros_(model.pooled_text.bias)
    fresh = tuple(name for name in state if name not in set(copied))
    return WarmStart(file.path, file.averaged, tuple(copied), fresh, file.unused)


def check_sizes(file: PixArtFile, config: LiDiTConfig) -> None:
    """Refuse a PixArt of another depth, width or number of heads than a LI-DiT's."""
    for what in ("depth", "width", "heads"):
        theirs, ours = getattr(file, what), getattr(config, what)
        if theirs not in (ours, None):
            raise LiDiTError(
                f"the PixArt {file.path} has {what} {theirs} and this LI-DiT {ours}; expected "
                "equal ones, as LI-DiT-1B's and PixArt-XL's are"
            )


def _put(state: dict[str, Tensor], name: str, tensor: Tensor, file: PixArtFile) -> str:
    if state[name].shape != tensor.shape:
        raise LiDiTError(
            f"the PixArt {file.path} gives {name} as {tuple(tensor.shape)} and this LI-DiT has "
            f"{tuple(state[name].shape)}; give a released PixArt"
        )
    state[name].copy_(tensor)
    return name


NamedTensors = Iterator[tuple[str, Tensor]]  # names of LI-DiT and their tensors


def _named(layer: str, weight: Tensor, bias: Tensor) -> NamedTensors:
    yield f"{layer}.weight", weight
    yield f"{layer}.bias", bias


def _embedder(file: PixArtFile) -> NamedTensors:
    """The same sinusoids and maps; a size embedding is a constant, added to the last bias."""
    yield from _named("t_embedder.in_layer", *file.linear("t_embedder.mlp.0"))
    weight, bias = file.linear("t_embedder.mlp.2")
    if "csize_embedder.mlp.0.weight" in file:
        bias = bias + torch.cat([_size(file, "csize", SIZE, SIZE), _size(file, "ar", 1.0)])
    yield from _named("t_embedder.out_layer", weight, bias)


def _size(file: PixArtFile, name: str, *values: float) -> Tensor:
    """PixArt-alpha's embedding of a picture's height and width, or of their ratio."""
    x = timestep_frequencies(torch.tensor(values))  # (values, 256)
    x = F.silu(F.linear(x, *file.linear(f"{name}_embedder.mlp.0")))
    return F.linear(x, *file.linear(f"{name}_embedder.mlp.2")).flatten()


def _block(file: PixArtFile, index: int) -> NamedTensors:
    block = f"blocks.{index}"
    for layer, source in {
        "self_attn.qkv": "attn.qkv",
        "self_attn.proj": "attn.proj",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
    }.items():
        yield from _named(f"{block}.{layer}", *file.linear(f"{block}.{source}"))
    weight, bias = file.linear("t_block.1")  # shared by all blocks
    bias = bias + file.take(f"{block}.scale_shift_table").flatten()
    yield from _named(f"{block}.modulation.linear", *map(_with_cross, (weight, bias)))


def _with_cross(rows: Tensor) -> Tensor:
    """PixArt's six vectors, self-attention's and FFN's, with three of zeros between them."""
    of_self, of_mlp = rows.chunk(2)
    return torch.cat([of_self, torch.zeros_like(of_self), of_mlp])


def _gains(model: LiDiT, index: int) -> list[Tensor]:
    """QK-RMSNorm's gains of one block, of query and key: (head width,) each.

    PixArt normalises neither; a gain gives each coordinate, in the mean square over heads, the size
    that the weights give it for white inputs of the LayerNorm, modulated as at `TIMES`. The size of
    a single head or token beside the mean is lost: an RMSNorm takes it away.
    """
    block, heads = model.blocks[index], model.config.heads
    c = model.t_embedder(TIMES.to(model.pooled_text.weight.device), model.dtype)
    shift, scale, *_ = (v[:, 0].float() for v in block.modulation(c))  # (times, D) each
    weight, bias = block.self_attn.qkv.weight.float(), block.self_attn.qkv.bias.float()
    spread = weight.square() @ (1 + scale).square().mean(dim=0)
    square = spread + F.linear(shift, weight, bias).square().mean(dim=0)  # (3 D,) of q, k, v
    return [_gain(part.unflatten(0, (heads, -1))) for part in square.chunk(3)[:2]]


def _gain(square: Tensor) -> Tensor:
    """Expected squares (heads, head width) without a norm -> the gains behind one."""
    normed = square / square.mean(dim=1, keepdim=True).clamp(min=TINY)
    return (square.sum(dim=0) / normed.sum(dim=0).clamp(min=TINY)).sqrt()

"""PixArt-alpha and PixArt-Sigma checkpoints, by the original's names whichever layout they have.

LI-DiT-1B shares PixArt's depth, width and heads; `pixart.py` takes over what of it fits.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lidit_core.errors import LiDiTError, first_line
from lidit_core.io.tensors import HOST_PREFIX, read_safetensors

log = logging.getLogger(__name__)

DIFFUSERS = {  # parts of the original's names -> of diffusers'
    "blocks.": "transformer_blocks.",
    ".attn.qkv.": ".attn1.to_qkv.",  # which are three tensors there
    ".attn.proj.": ".attn1.to_out.0.",
    ".attn.q_norm.": ".attn1.norm_q.",
    ".mlp.fc1.": ".ff.net.0.proj.",
    ".mlp.fc2.": ".ff.net.2.",
    "t_block.1.": "adaln_single.linear.",
    "t_embedder.mlp.0.": "adaln_single.emb.timestep_embedder.linear_1.",
    "t_embedder.mlp.2.": "adaln_single.emb.timestep_embedder.linear_2.",
    "csize_embedder.mlp.0.": "adaln_single.emb.resolution_embedder.linear_1.",
    "csize_embedder.mlp.2.": "adaln_single.emb.resolution_embedder.linear_2.",
    "ar_embedder.mlp.0.": "adaln_single.emb.aspect_ratio_embedder.linear_1.",
    "ar_embedder.mlp.2.": "adaln_single.emb.aspect_ratio_embedder.linear_2.",
    "x_embedder.": "pos_embed.",
}
MARKS = ("t_block.1.weight", "x_embedder.proj.weight", "blocks.0.scale_shift_table")
QK_NORM = "blocks.0.attn.q_norm.weight"
HEADS = {1152: 16}  # by width, of the released models; the weights do not tell


def diffusers_names(name: str) -> tuple[str, ...]:
    """What diffusers calls a tensor of the original, in the order in which it is concatenated."""
    for ours, theirs in DIFFUSERS.items():
        name = name.replace(ours, theirs)
    return tuple(name.replace("to_qkv", f"to_{x}") for x in "qkv") if "to_qkv" in name else (name,)


@dataclass(eq=False)
class PixArtFile:
    """The tensors of a checkpoint, and which of them were taken."""

    path: Path
    tensors: dict[str, Tensor]
    averaged: bool  # they are the moving average of the weights
    taken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.is_diffusers = diffusers_names(MARKS[0])[0] in self.tensors
        if not all(name in self for name in MARKS):
            raise LiDiTError(
                f"{self.path} is no PixArt: it lacks {', '.join(MARKS)}; give the transformer of "
                "PixArt-alpha or PixArt-Sigma, a .safetensors or .pth file"
            )
        if QK_NORM in self:
            raise LiDiTError(
                f"the PixArt {self.path} normalises queries and keys ({self.names(QK_NORM)[0]}), "
                "which the released ones do not and LI-DiT does otherwise; give a released one"
            )

    def names(self, name: str) -> tuple[str, ...]:
        """The file's own names of a tensor of the original."""
        return diffusers_names(name) if self.is_diffusers else (name,)

    def __contains__(self, name: str) -> bool:
        return all(name in self.tensors for name in self.names(name))

    def take(self, name: str) -> Tensor:
        """A tensor by the original's name, in float32."""
        names = self.names(name)
        if name not in self:
            raise LiDiTError(
                f"the PixArt {self.path} lacks {', '.join(names)}; fetch the file again"
            )
        self.taken.update(names)
        return torch.cat([self.tensors[name].float() for name in names])

    def linear(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a layer."""
        return self.take(f"{name}.weight"), self.take(f"{name}.bias")

    @property
    def unused(self) -> tuple[str, ...]:
        return tuple(name for name in self.tensors if name not in self.taken)

    @property
    def depth(self) -> int:
        depth = 0
        while f"blocks.{depth}.scale_shift_table" in self:
            depth += 1
        return depth

    @property
    def width(self) -> int:
        return self.tensors[self.names("t_block.1.weight")[0]].shape[-1]

    @property
    def heads(self) -> int | None:
        """The number of heads by the config.json beside the file, or by the release, or None."""
        try:
            beside = json.loads(self.path.with_name("config.json").read_text(encoding="utf-8"))
            return int(beside["num_attention_heads"])
        except (OSError, ValueError, KeyError, TypeError):
            return HEADS.get(self.width)


def read_pixart(path: str | Path) -> PixArtFile:
    """A checkpoint; of a .pth that holds the averaged weights too, those.

    Raises:
        LiDiTError: it is damaged, no PixArt, or holds more than tensors; nothing of it is run.
    """
    path, averaged = Path(path), False
    if path.suffix == ".safetensors":
        tensors, _ = read_safetensors(path)
    else:
        tensors, averaged = _read_pickle(path)
    log.info("PixArt %s: %s weights", path.name, "averaged" if averaged else "plain")
    return PixArtFile(path, {k.removeprefix(HOST_PREFIX): v for k, v in tensors.items()}, averaged)


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], bool]:
    if not path.is_file():
        raise LiDiTError(f"no file {path}; give the path of a PixArt's .safetensors or .pth file")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise LiDiTError(
            f"{path} holds more than tensors or is damaged ({first_line(error)}), and was not "
            "run; get the model as .safetensors"
        ) from error
    data = data if isinstance(data, dict) else {}
    averaged = bool(data.get("state_dict_ema"))
    weights = data["state_dict_ema"] if averaged else data.get("state_dict", data)
    weights = weights if isinstance(weights, dict) else {}
    return {k: v for k, v in weights.items() if isinstance(v, Tensor)}, averaged

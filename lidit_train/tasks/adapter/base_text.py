"""The text encoders that a U-Net was made with, for training an adapter beside them (mode add)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lidit_core.demo.checkpoint import read_demo_config, read_text_encoder
from lidit_core.errors import LiDiTError
from lidit_core.paths import at_home

from .clip_file import Encoder, encoders_in, read_encoders
from .target import AdapterTarget


class BaseText(nn.Module):
    """The text encoders of a base."""

    @abstractmethod
    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """The U-Net's context (B, K, width), and its pooled text (B, width) where it wants one."""


class DemoText(BaseText):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.encoder = read_text_encoder(path)

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        return self.encoder.read(list(texts)), None


class CLIPText(BaseText):
    """One CLIP of SD1.5, or both of SDXL."""

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        super().__init__()
        self.ids = [encoder.ids for encoder in encoders]
        self.encoders = nn.ModuleList(encoder.model for encoder in encoders)

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        if len(self.encoders) == 1:
            return self._run(0, texts).last_hidden_state, None
        outputs = [self._run(i, texts) for i in range(2)]
        context = torch.cat([out.hidden_states[-2] for out in outputs], dim=-1)
        return context, outputs[1].text_embeds

    def _run(self, number: int, texts: Sequence[str]):
        encoder, ids = self.encoders[number], self.ids[number](texts)
        return encoder(ids.to(encoder.device), output_hidden_states=True)


def _of_folder(folder: Path, both: bool) -> list[Encoder]:
    """The text encoders of a diffusers folder."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    found = []
    for part, kind in (("", CLIPTextModel), ("_2", CLIPTextModelWithProjection))[: 1 + both]:
        tokenizer = CLIPTokenizer.from_pretrained(
            folder / f"tokenizer{part}", local_files_only=True
        )
        model = kind.from_pretrained(folder / f"text_encoder{part}", local_files_only=True)
        found.append(Encoder(tokenizer, model))
    return found


def find_base_text(target: AdapterTarget, folder: str) -> Path:
    """The demo checkpoint, or the checkpoint or diffusers folder with the base's text encoders.

    Raises:
        LiDiTError: they are not where the recipe says.
    """
    if target.base.is_file() and not folder and read_demo_config(target.base):
        return target.base
    path = at_home(folder or target.base)
    if path.is_file() and encoders_in(path, bool(target.shape.adm)):
        return path
    parts = ("text_encoder", "text_encoder_2")[: 1 + bool(target.shape.adm)]
    lacking = [part for part in parts if not (path / part / "config.json").is_file()]
    if lacking:
        raise LiDiTError(
            f"mode 'add' trains beside the checkpoint's own text encoders, and {path} holds no "
            f"{_lacking(path, lacking[0])}; give a checkpoint or a diffusers folder that has them "
            "as adapter.text_encoders, or train mode replace alone with adapter.modes=[replace]"
        )
    return path


def _lacking(path: Path, folder: str) -> str:
    return "CLIP, only other parts" if path.is_file() else f"{folder} folder"


def base_text(target: AdapterTarget, folder: str) -> BaseText:
    """The text encoders of a base."""
    path, both = find_base_text(target, folder), bool(target.shape.adm)
    if path.is_dir():
        return CLIPText(_of_folder(path, both))
    return CLIPText(read_encoders(path, both)) if encoders_in(path, both) else DemoText(path)

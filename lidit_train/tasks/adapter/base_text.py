"""The text encoders that a U-Net was made with, for training an adapter beside them (mode add)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lidit_core.demo.checkpoint import TEXT_PREFIX, read_standin
from lidit_core.errors import LiDiTError
from lidit_core.paths import at_home

from .target import AdapterTarget


class BaseText(nn.Module):
    """The text encoders of a base."""

    @abstractmethod
    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """The U-Net's context (B, K, width), and its pooled text (B, width) where it wants one."""


class StandInText(BaseText):
    def __init__(self, path: Path) -> None:
        super().__init__()
        config, tensors = read_standin(path)
        self.encoder = config.text_encoder()
        own = {k.removeprefix(TEXT_PREFIX): v.float() for k, v in tensors.items()
               if k.startswith(TEXT_PREFIX)}  # fmt: skip
        self.encoder.load_state_dict(own)

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        return self.encoder.read(list(texts)), None


class CLIPText(BaseText):
    """One CLIP of SD1.5, or both of SDXL, from a diffusers folder."""

    def __init__(self, folder: Path, both: bool) -> None:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        super().__init__()
        tokenizer, encoder = folder / "tokenizer", folder / "text_encoder"
        self.tokenizers = [CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)]
        encoders: list[nn.Module] = [CLIPTextModel.from_pretrained(encoder, local_files_only=True)]
        if both:
            tokenizer, encoder = folder / "tokenizer_2", folder / "text_encoder_2"
            self.tokenizers.append(CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True))
            encoders.append(
                CLIPTextModelWithProjection.from_pretrained(encoder, local_files_only=True)
            )
        self.encoders = nn.ModuleList(encoders)

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        if len(self.encoders) == 1:
            return self._run(0, texts).last_hidden_state, None
        outputs = [self._run(i, texts) for i in range(2)]
        context = torch.cat([out.hidden_states[-2] for out in outputs], dim=-1)
        return context, outputs[1].text_embeds

    def _run(self, number: int, texts: Sequence[str]):
        tokenizer, encoder = self.tokenizers[number], self.encoders[number]
        length = tokenizer.model_max_length
        ids = tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True,
            return_tensors="pt",
        ).input_ids  # fmt: skip
        return encoder(ids.to(encoder.device), output_hidden_states=True)


def find_base_text(target: AdapterTarget, folder: str) -> Path:
    """The stand-in's file, or the diffusers folder that has the base's text encoders.

    Raises:
        LiDiTError: they are not where the recipe says.
    """
    if target.shape.family == "small" and target.base.is_file() and not folder:
        return target.base
    path = at_home(folder or target.base)
    parts = ("text_encoder", "text_encoder_2")[: 1 + bool(target.shape.adm)]
    lacking = [part for part in parts if not (path / part / "config.json").is_file()]
    if lacking:
        raise LiDiTError(
            f"mode 'add' trains beside the checkpoint's own text encoders, and {path} holds no "
            f"{lacking[0]} folder; give a diffusers folder as adapter.text_encoders, or train mode "
            "replace alone with adapter.modes=[replace]"
        )
    return path


def base_text(target: AdapterTarget, folder: str) -> BaseText:
    """The text encoders of a base."""
    path = find_base_text(target, folder)
    return CLIPText(path, both=bool(target.shape.adm)) if path.is_dir() else StandInText(path)

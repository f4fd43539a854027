"""The text encoders that a U-Net was made with, for training an adapter or a bridge beside them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lidit_core.bridge.encode import POOLED
from lidit_core.bridge.rows import PADDING_ROW, TeacherRows
from lidit_core.demo.checkpoint import read_demo_config, read_text_encoder
from lidit_core.errors import LiDiTError, check
from lidit_core.io.conditioning import Entry
from lidit_core.paths import at_home

from .clip_file import Encoder, encoders_in, read_encoders
from .target import AdapterTarget, UNetTarget


class BaseText(nn.Module):
    """The text encoders of a base."""

    @abstractmethod
    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """The U-Net's context (B, K, width), and its pooled text (B, width) where it wants one."""

    @abstractmethod
    def read_rows(self, text: str, rows: TeacherRows) -> tuple[Tensor, Tensor | None]:
        """The rows of one text as hosts have them, a prompt of any length in chunks.

        Args:
            rows: what each row of the text stands for, (R,) each.
        Returns:
            The rows (1, R, width), and the pooled vector (1, width) where the encoders have one.
        Raises:
            LiDiTError: they do not read such rows.
        """


class DemoText(BaseText):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.encoder = read_text_encoder(path)

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        return self.encoder.read(list(texts)), None

    def read_rows(self, text: str, rows: TeacherRows) -> tuple[Tensor, Tensor | None]:
        return self.encoder.read([text]), None


class CLIPText(BaseText):
    """One CLIP of SD1.5, or both of SDXL."""

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        super().__init__()
        self.ids = [encoder.ids for encoder in encoders]
        self.paddings = [encoder.filled_with for encoder in encoders]
        self.encoders = nn.ModuleList(encoder.model for encoder in encoders)
        read: Any = encoders[0].model.config
        self.window, self.known = read.max_position_embeddings, read.vocab_size

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        ids = [of_text(texts) for of_text in self.ids]
        context, pooled = self._read_ids(ids)
        return context, None if len(ids) == 1 else pooled

    def read_rows(self, text: str, rows: TeacherRows) -> tuple[Tensor, Tensor | None]:
        window, known = self.window, self.known
        check(
            len(rows.ids) % window == 0 and int(rows.ids.max()) < known,
            f"the base's CLIP reads chunks of {window} of {known} tokens, and a text has "
            f"{len(rows.ids)} rows of others; expected a recording of that CLIP",
        )
        padding = (rows.kinds == PADDING_ROW).view(-1, window)
        chunks = rows.ids.view(-1, window)
        context, pooled = self._read_ids([chunks.masked_fill(padding, n) for n in self.paddings])
        return context.flatten(0, 1)[None], pooled[:1]  # the pooled vector is the first chunk's

    def _read_ids(self, ids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What the encoders make of token ids (B, 77) each: (B, 77, width), (B, width)."""
        outputs = [self._run(*each) for each in enumerate(ids)]
        if len(outputs) == 1:
            return outputs[0].last_hidden_state, outputs[0].pooler_output
        context = torch.cat([out.hidden_states[-2] for out in outputs], dim=-1)
        return context, outputs[1].text_embeds

    def _run(self, number: int, ids: Tensor):
        encoder: Any = self.encoders[number]
        return encoder(ids.to(encoder.device), output_hidden_states=True)


def entry_of(encoder: BaseText, text: str, rows: TeacherRows) -> Entry:
    """What the text encoders write of one text, as hosts hand it on.

    Args:
        rows: what each row of the text stands for, (R,) each.
    Raises:
        LiDiTError: they do not read such rows.
    """
    sequence, pooled = encoder.read_rows(text, rows)
    return sequence, {} if pooled is None else {POOLED: pooled}


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
    path = at_home(folder or target.base)
    if lacking := lacking_text(target, path):
        raise LiDiTError(
            f"mode 'add' trains beside the checkpoint's own text encoders, and {path} holds no "
            f"{lacking}; give a checkpoint or a diffusers folder that has them "
            "as adapter.text_encoders, or train mode replace alone with adapter.modes=[replace]"
        )
    return path


def lacking_text(target: AdapterTarget | UNetTarget, path: Path) -> str:
    """What a checkpoint or a diffusers folder lacks of a base's text encoders, "" = nothing."""
    if path == target.base and path.is_file() and read_demo_config(path):
        return ""
    both = bool(target.shape.adm)
    if path.is_file():
        return "" if encoders_in(path, both) else "CLIP, only other parts"
    parts = ("text_encoder", "text_encoder_2")[: 1 + both]
    lacking = [part for part in parts if not (path / part / "config.json").is_file()]
    return f"{lacking[0]} folder" if lacking else ""


def base_text(target: AdapterTarget, folder: str) -> BaseText:
    """The text encoders of a base."""
    return read_base_text(find_base_text(target, folder), bool(target.shape.adm))


def read_base_text(path: Path, both: bool) -> BaseText:
    """The text encoders that lie there; ``both``: SDXL's two."""
    if path.is_dir():
        return CLIPText(_of_folder(path, both))
    return CLIPText(read_encoders(path, both)) if encoders_in(path, both) else DemoText(path)

"""The demo checkpoint: small, of SD1.5's layout; it misunderstands prompts, to be repaired.

Its file holds the U-Net as hosts name it, its own weak text encoder, and a description of both in
the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from ..errors import LiDiTError
from ..io.records import read_record
from ..io.tensors import opened, read_safetensors
from ..model.config import LatentFormat
from .bag_of_words import LENGTH, BagOfWords

DEMO_KEY = "standin"  # of the metadata
SHIPPED = "stickers-sd.safetensors"
TEXT_PREFIX = "cond_stage_model."  # before the text encoder's tensors, as in SD1.5's checkpoints


@dataclass(frozen=True)
class DemoConfig:
    """What a demo checkpoint is: stored as JSON in the metadata of its file."""

    latent: LatentFormat
    native_size: int = 64  # pixels
    prediction: str = "v"
    width: int = 64  # of its text
    buckets: int = 16  # into which its text encoder sorts all words
    length: int = LENGTH  # tokens that it makes of every prompt
    steps: int = 20
    guidance: float = 4.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def text_encoder(self, **layer) -> BagOfWords:
        return BagOfWords(self.width, self.buckets, self.length, **layer)


def read_demo_config(path: str | Path) -> DemoConfig | None:
    """The description of a demo checkpoint; None for any other checkpoint."""
    with opened(path) as file:
        return _config(file.metadata() or {})


def _config(metadata: Mapping[str, str]) -> DemoConfig | None:
    if DEMO_KEY not in metadata:
        return None
    return read_record(DemoConfig, json.loads(metadata[DEMO_KEY]), "the demo checkpoint")


def read_text_encoder(path: str | Path) -> BagOfWords:
    """The weak text encoder of a demo checkpoint, with its weights."""
    config, tensors = read_demo_checkpoint(path)
    encoder, begin = config.text_encoder(), TEXT_PREFIX
    own = {k.removeprefix(begin): v.float() for k, v in tensors.items() if k.startswith(begin)}
    encoder.load_state_dict(own)
    return encoder.requires_grad_(False)


def read_demo_checkpoint(path: str | Path) -> tuple[DemoConfig, dict[str, Tensor]]:
    """Description and tensors of a demo checkpoint."""
    tensors, metadata = read_safetensors(path)
    config = _config(metadata)
    if config is None:
        raise LiDiTError(
            f"{path} is no demo checkpoint; expected a checkpoint that "
            "`python -m lidit_stickers.making.train_checkpoint` wrote: for any other use the "
            "host's checkpoint loader"
        )
    return config, tensors

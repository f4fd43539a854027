"""A vision encoder of transformers: pictures in, a map of features out, one for each image token.

The picture is given at a size whose patches are the image tokens, where the encoder can interpolate
its positions; otherwise at its own size, and the features are interpolated.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lidit_core.errors import LiDiTError, check, first_line

from ...memory import InParts, give_back
from ..latent_cache import at_once

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, where nothing else is said
SETTINGS = "preprocessor_config.json"
FULL = "keep the run off the GPU with --device cpu, or leave alignment out of the recipe"


@dataclass
class VisionEncoder:
    """An encoder's folder; its weights are read when they are first needed.

    Args:
        grain: pixels of the side of an image token.
    """

    folder: Path
    grain: int
    device: torch.device | str = "cpu"

    @cached_property
    def config(self) -> Any:
        """The configuration of what reads pictures.

        Raises:
            LiDiTError: the folder has none.
        """
        from transformers import AutoConfig

        try:
            whole = AutoConfig.from_pretrained(str(self.folder), local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise LiDiTError(
                f"the recipe's alignment.encoder {self.folder} cannot be read "
                f"({first_line(error)}); expected the folder of a vision encoder, as transformers' "
                "save_pretrained writes it"
            ) from error
        config = getattr(whole, "vision_config", whole)
        check(
            hasattr(config, "num_channels"),
            f"the recipe's alignment.encoder {self.folder} is a {config.model_type}, which reads "
            "no pictures; expected a vision encoder, such as DINOv2, CLIP or SigLIP",
        )
        return config

    def check(self) -> None:
        """Look whether it is there and reads pictures; its weights are not read."""
        check(
            self.folder.is_dir(),
            f"the recipe's alignment.encoder {self.folder} is not there; expected the folder of a "
            "vision encoder, as transformers' save_pretrained writes it",
        )
        _ = self.config

    @property
    def width(self) -> int:
        """Numbers in a feature; hierarchical encoders have that of their last stage."""
        sizes = getattr(self.config, "hidden_sizes", None)
        return sizes[-1] if sizes else self.config.hidden_size

    def identity(self) -> str:
        """The hash of weights and settings, by which the cache tells encoders apart."""
        files = [self.folder / "config.json", self.folder / SETTINGS]
        files += sorted(p for e in ("safetensors", "bin") for p in self.folder.glob(f"*.{e}"))
        digest = hashlib.sha256(f"features per {self.grain} px".encode())
        for file in files:
            digest.update(file.read_bytes() if file.is_file() else b"")
        return digest.hexdigest()

    @cached_property
    def model(self) -> nn.Module:
        from transformers import AutoModel

        whole = AutoModel.from_pretrained(str(self.folder), local_files_only=True)
        return _without_gradients(getattr(whole, "vision_model", whole)).to(self.device)

    def new_model(self) -> nn.Module:
        """A model of its kind and size, whose weights are not its own."""
        from transformers import AutoModel

        made = AutoModel.from_config(self.config)
        return _without_gradients(getattr(made, "vision_model", made))

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of colours (3, 1, 1)."""
        path = self.folder / SETTINGS
        said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        both = said.get("image_mean", MEAN), said.get("image_std", STD)
        mean, std = (torch.tensor(numbers, device=self.device)[:, None, None] for numbers in both)
        return mean, std

    @cached_property
    def _in_parts(self) -> InParts:
        return InParts(self._encode, FULL)

    def encode(self, pictures: Tensor) -> Tensor:
        """Features (B, width, h, w) of pictures (B, 3, H, W) uint8, h = H / grain.

        As many are seen at once as their area allows, be they for the cache or for a step.
        """
        return self._in_parts(pictures, at_once((pictures.shape[3], pictures.shape[2])))

    def let_go(self) -> None:
        """Free its memory until it is needed again."""
        self.__dict__.pop("model", None)
        self.__dict__.pop("_in_parts", None)
        give_back()

    @torch.no_grad()
    def _encode(self, pictures: Tensor) -> Tensor:
        rows, columns = (side // self.grain for side in pictures.shape[2:])
        size, options = self.size(rows, columns, self.model)
        mean, std = self._statistics
        x = F.interpolate(
            pictures.to(self.device).float() / 255, size, mode="bicubic", antialias=True
        )
        seen = self.model(pixel_values=(x.clamp(0, 1) - mean) / std, **options).last_hidden_state
        features = self._as_map(seen.float(), size)
        if features.shape[2:] == (rows, columns):
            return features
        return F.interpolate(features, (rows, columns), mode="bilinear")

    def size(self, rows: int, columns: int, model: nn.Module) -> tuple[tuple[int, int], dict]:
        """The height and width that the encoder is given, and what it is told besides.

        Args:
            rows, columns: of image tokens.
            model: the encoder's own, or a new one of its kind.
        """
        patch = getattr(self.config, "patch_size", 0)
        inside = getattr(model, "embeddings", None)
        if isinstance(patch, int) and hasattr(inside, "interpolate_pos_encoding"):
            said = inspect.signature(model.forward).parameters
            option = "interpolate_pos_encoding"
            return (rows * patch, columns * patch), {option: True} if option in said else {}
        side = getattr(self.config, "image_size", 224)
        return (side, side) if isinstance(side, int) else tuple(side), {}

    def _as_map(self, seen: Tensor, size: tuple[int, int]) -> Tensor:
        """The output as a map (B, width, h, w); of tokens the last are the patches', row by row."""
        if seen.ndim == 4:
            return seen
        patch = self.config.patch_size
        rows, columns = (side // patch for side in size)
        patches = seen[:, -rows * columns :]
        return patches.transpose(1, 2).unflatten(2, (rows, columns))


def _without_gradients(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False).eval()

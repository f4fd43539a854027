"""Tiny vision encoders with random weights, of several of transformers' families."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

FAMILIES = ("Dinov2", "Dinov2WithRegisters", "ViT", "CLIP", "Siglip", "ConvNext")
WIDTH = 16  # numbers in a feature


def save_encoder(folder: Path, family: str = "Dinov2", seed: int = 0) -> Path:
    """Write one, as its `save_pretrained` does."""
    torch.manual_seed(seed)
    small = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"intermediate_size": 32, "image_size": 28, "patch_size": 14}
    if family == "ConvNext":
        small = {"hidden_sizes": [8, 8, 8, WIDTH], "depths": [1, 1, 1, 1], "image_size": 64}
    if family in ("CLIP", "Siglip"):
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        text |= {"intermediate_size": 16, "vocab_size": 50}
        config = getattr(transformers, f"{family}Config")(text_config=text, vision_config=small)
    else:
        config = getattr(transformers, f"{family}Config")(**small)
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    return folder

"""Whether padding is read that a text encoder of the host masks.

An encoder may put an attention mask beside its rows. What is made of it is up to the model: some of
the host's leave it out of what they hand to their blocks, or their blocks take no notice of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...lidit_core.bridge.encode import MASK
from ...lidit_core.bridge.file import LoadedBridge
from ...lidit_core.bridge.rows import PADDING_ROW

# The host's classes of text encoders that pad, and mask what they pad, for models that read it
# nevertheless. A class here has its padding learnt, which does no harm for a model that masks it.
READ_NEVERTHELESS = {
    "Flux2TEModel": "FLUX.2 and Klein",
    "CosmosT5XXL": "Cosmos Predict2; Cosmos 1 does mask it",
    "LongCatImageTEModel": "LongCat-Image",
    "PixelDiTGemma2TE": "PixelDiT",
}
SIDE = 8  # of the latents on which a model is asked


def is_masked(encoder: Any, values: Mapping[str, Any]) -> bool:
    """Whether the padding of a text encoder's rows is read by none of its models.

    Args:
        encoder: the text model of a CLIP of the host.
        values: that it gives beside its rows.
    """
    classes = {kind.__name__ for kind in type(encoder).__mro__}
    return MASK in values and not classes & set(READ_NEVERTHELESS)


def learnt_no_padding(loaded: LoadedBridge) -> bool:
    """Whether a bridge pads its rows and has learnt nothing of what it pads with."""
    padded = bool((loaded.rows("").kinds == PADDING_ROW).any())
    return loaded.bridge.config.teacher.masked and padded


def drops_masks(model: Any, width: int) -> bool:
    """Whether a MODEL of the host leaves an attention mask out of what its blocks are given.

    False where it does not say so.

    Args:
        width: numbers in a row that it reads.
    """
    inner = model.model
    channels = inner.latent_format.latent_channels
    given = {
        "cross_attn": torch.zeros(1, 2, width),
        MASK: torch.tensor([[1, 0]]),
        "noise": torch.zeros(1, channels, SIDE, SIDE),
        "device": torch.device("cpu"),
    }
    try:
        handed = inner.extra_conds(**given)
    except Exception:  # each of the host's models asks for other things beside
        return False
    return not any("mask" in name for name in handed)

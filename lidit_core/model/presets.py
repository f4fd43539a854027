"""Named configurations: the paper's (Table 7) and those of the weights that ship."""

from __future__ import annotations

from dataclasses import replace

from ..errors import LiDiTError
from ..text.spec import LLMSpec
from ..text.templates import find_template
from .config import LatentFormat, LiDiTConfig

# The paper's LLMs, after multi-modal instruction tuning; its autoencoder is not public, and
# SD3's has the same shape (its published shift and scale).
_PAPER_LLMS = (LLMSpec("LLaMA3-8B", width=4096), LLMSpec("Qwen1.5-7B", width=4096))
_SD3 = LatentFormat("SD3", mean=(0.0609,), std=(1 / 1.5305,))

_SHORT = find_template("short")
_STICKER_LLMS = (
    LLMSpec("SmolLM2-135M-Instruct", width=576, template=_SHORT, token_budget=96),
    LLMSpec("gemma-3-270m", width=640, template=_SHORT, token_budget=96),
)

PRESETS: dict[str, LiDiTConfig] = {
    "LI-DiT-1B": LiDiTConfig(
        depth=28, width=1152, heads=16, llms=_PAPER_LLMS, latent=_SD3, prediction="eps"
    ),
    "LI-DiT-10B": LiDiTConfig(
        depth=48,
        width=2816,
        heads=44,
        llms=_PAPER_LLMS,
        latent=_SD3,
        prediction="eps",
        native_size=1024,
    ),  # fmt: skip
    "stickers": LiDiTConfig(
        depth=7,
        width=160,
        heads=5,
        llms=_STICKER_LLMS,
        latent=LatentFormat("stickers"),
        shift=3.0,
        native_size=128,
        steps=20,
        guidance=3.0,
    ),  # fmt: skip
}


def find_preset(name: str, **changes) -> LiDiTConfig:
    """A preset by name, with fields changed."""
    if name not in PRESETS:
        raise LiDiTError(f"no preset is named {name!r}; expected one of {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)

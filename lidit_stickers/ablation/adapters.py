"""What is measured of an adapter as of a LI-DiT: errors on held-out scenes, and scores."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lidit_core.text.states import LLMStates
from lidit_eval.drawers import AdapterDrawer

from ..text_gap import Scenes, denoiser_errors
from .variants import Ablation


class AdapterDenoiser:
    """A U-Net with an adapter, which reads prompts in one mode."""

    def __init__(self, base: str, adapter: Path, mode: str, llm: str, device: str | None) -> None:
        from lidit_core.pipeline import find_device

        self.device = torch.device(find_device(device))
        asked = {"adapter": str(adapter), "model": base, "mode": mode, "llm": [llm]}
        left_out = dict.fromkeys(("bridge", "vae", "steps", "cfg", "size", "spread", "cache"))
        options = Namespace(**asked, **left_out, lora=[])
        opened = AdapterDrawer(options, str(self.device))
        self.learner, self.reader, self.vae = opened.learner, opened.reader, opened.vae
        self.mode, self.prediction = mode, opened.learner.prediction
        self.latent, self.native_size = opened.target.latent, opened.target.native_size

    def read(self, texts: Sequence[str]) -> tuple[LLMStates, Sequence[str]]:
        return self.reader.encode(texts).to(self.device), texts

    def say(self, z: Tensor, timestep: Tensor, text: Any) -> Tensor:
        return self.learner.predict(z, timestep, *text, mode=self.mode)


def adapter_errors(
    ablation: Ablation, adapter: Path, scenes: Scenes, llm: str, device: str | None
) -> Tensor:
    """Measure an adapter's errors, (times, scenes, 2), as `scene_errors` has them."""
    base = ablation.adapter["base"]
    model = AdapterDenoiser(base, adapter, ablation.mode, llm, device)
    return denoiser_errors(model, scenes, ablation.gap.times)


def score_words(ablation: Ablation, adapter: Path) -> list[str]:
    """What `lidit eval` is told to draw with an adapter."""
    return [ablation.adapter["base"], "--adapter", str(adapter), "--mode", ablation.mode]

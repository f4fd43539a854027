"""The host's own text encoders at tiny sizes, with its own tokenizers and random weights."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

CLIP = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
CLIP_L, CLIP_G = {**CLIP, "hidden_size": 24}, {**CLIP, "hidden_size": 32, "projection_dim": 32}
T5 = {"d_model": 40, "d_ff": 48, "d_kv": 8, "num_heads": 2, "num_layers": 2, "vocab_size": 32128}
QWEN = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
QWEN |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 151936}
SIZES = {"clip_l": CLIP_L, "clip_g": CLIP_G, "t5xxl": T5, "qwen3_4b": QWEN}
OPTIONS = {f"{name}_model_config": sizes for name, sizes in SIZES.items()}
WIDTHS = {"sd15": 24, "sdxl": 56, "flux": 40, "pixart": 40, "zimage": 32, "sd3": 4096}
POOLED = {"sd15": 24, "sdxl": 32, "flux": 24, "sd3": 56}
PROMPTS = [
    "a red cat left of two dogs",
    "an owl on a book, a castle behind it, watercolour!",
    "猫 and a 🍎",
    ", ".join(["a red cat and two dogs on a blue background"] * 12),  # beyond 77 tokens
    "",
]


def needs(kind: str) -> None:
    if kind == "zimage":
        pytest.importorskip("comfy.text_encoders.z_image", reason="this host has no Z-Image")


def _target(kind: str):
    """The host's classes of a model's text encoder: tokenizer and model."""
    from comfy import sd1_clip, sdxl_clip
    from comfy.text_encoders import flux, pixart_t5, sd3_clip

    if kind == "zimage":
        from comfy.text_encoders import z_image

        return z_image.ZImageTokenizer, z_image.te()
    return {
        "sd15": (sd1_clip.SD1Tokenizer, sd1_clip.SD1ClipModel),
        "sdxl": (sdxl_clip.SDXLTokenizer, sdxl_clip.SDXLClipModel),
        "flux": (flux.FluxTokenizer, flux.flux_clip()),
        "pixart": (pixart_t5.PixArtTokenizer, pixart_t5.pixart_te()),
        "sd3": (sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip(t5=False)),
        "cut": (sd1_clip.SD1Tokenizer, _cut(sd1_clip.SD1ClipModel)),
    }[kind]


def _cut(model: type) -> type:
    """An encoder that keeps back its first row, as those do whose template is dropped."""

    class Cut(model):
        def encode_token_weights(self, tokens):
            sequence, *others = super().encode_token_weights(tokens)
            return sequence[:, 1:], *others

    return Cut


@functools.cache
def host_encoder(kind: str, seed: int = 0):
    """A CLIP of the host with the random weights of a seed."""
    import comfy.sd
    from comfy.supported_models_base import ClipTarget

    tokenizer, model = _target(kind)
    clip = comfy.sd.CLIP(
        ClipTarget(tokenizer, model), model_options={"dtype": torch.float32, **OPTIONS}
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # the host leaves new weights as they lie in memory
        for name, weight in clip.cond_stage_model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            near_1 = "norm" in name and name.endswith("weight")
            spread = max(weight.shape[-1:], default=1) ** -0.5
            weight.copy_(1 + 0.1 * drawn if near_1 else drawn * spread)
    return clip


def entries_of(clip: Any, text: str, **more: Any) -> list:
    """What the host's CLIP Text Encode makes of a prompt."""
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(text), **more)


def check_same(found: list, expected: list) -> None:
    """The same entries bit for bit, with the same names beside the sequence."""
    assert len(found) == len(expected)
    for (sequence, values), (other, theirs) in zip(found, expected):
        assert sequence.dtype == other.dtype and torch.equal(sequence, other)
        assert set(values) == set(theirs)
        for name, value in theirs.items():
            same = torch.equal(values[name], value) if torch.is_tensor(value) else None
            assert same if same is not None else values[name] == value, name


def record(pack: Any, host: Any, clip: Any, name: str, prompts: list[str]) -> Path:
    """What Record Conditioning makes of prompts; its folder."""
    file = host.base / "input" / f"{name}.txt"
    file.write_text("\n".join(prompts) + "\n", encoding="utf-8")
    pack.run("LiDiTRecordConditioning", clip=clip, prompts=file.name, name=name)
    return host.base / "output" / "recordings" / name

"""The host's own text encoders at tiny sizes, with its own tokenizers and random weights."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from host_clip_kit import spiece

REAL = bool(
    os.environ.get("LIDIT_REAL_SIZES")
)  # the widths that people's encoders have, few layers


def _narrow(narrow: int, real: int) -> int:
    return real if REAL else narrow


CLIP = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
CLIP_L = {**CLIP, "hidden_size": _narrow(24, 768)}
CLIP_G = {**CLIP, "hidden_size": _narrow(32, 1280), "projection_dim": _narrow(32, 1280)}
T5 = {"d_model": _narrow(40, 4096), "d_ff": 48, "d_kv": 8, "num_heads": 2, "num_layers": 2}
LLAMA = {"intermediate_size": 48, "num_hidden_layers": 3}
LLAMA |= {"num_attention_heads": 2, "num_key_value_heads": 1}
SIZES = {"clip_l": CLIP_L, "clip_g": CLIP_G, "t5xxl": {**T5, "vocab_size": 32128}}
SIZES |= {
    name: {**LLAMA, "hidden_size": _narrow(32, real), "vocab_size": ids}
    for name, real, ids in (
        ("qwen3_4b", 2560, 151936),
        ("qwen3_2b", 2048, 151936),
        ("qwen25_7b", 3584, 152064),
        ("", 3840, 600),  # LTX-2's Gemma, to which the host gives no name
    )
}
OPTIONS = {f"{name}_model_config": sizes for name, sizes in SIZES.items()}
# Klein reads Qwen3 behind its blocks 9, 18 and 27, side by side in a row.
KLEIN = {"qwen3_4b_model_config": {**SIZES["qwen3_4b"], "num_hidden_layers": 28}}
# HunyuanImage reads Qwen2.5 behind its third block from the end; ByT5 beside it has a CLIP's name.
BYT5 = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_heads": 2, "num_layers": 1}
HUNYUAN = {"qwen25_7b_model_config": {**SIZES["qwen25_7b"], "num_hidden_layers": 4}}
HUNYUAN |= {"clip_l_model_config": BYT5}
MORE = {"klein": KLEIN, "hunyuan": HUNYUAN, "hunyuan-without": HUNYUAN}
TAPS = CLIP_L["hidden_size"], CLIP_G["hidden_size"]  # of SDXL's rows
WIDTHS = {"sd15": TAPS[0], "sdxl": sum(TAPS), "flux": T5["d_model"], "pixart": T5["d_model"]}
WIDTHS |= {"zimage": SIZES["qwen3_4b"]["hidden_size"], "sd3": 4096, "cut": TAPS[0]}
WIDTHS |= {"ovis": SIZES["qwen3_2b"]["hidden_size"], "ltx2": 3840}
WIDTHS |= {"qwenimage": SIZES["qwen25_7b"]["hidden_size"]}
WIDTHS |= {"klein": 3 * SIZES["qwen3_4b"]["hidden_size"]}
if REAL:  # as SD3's T5 is 4096 wide in any case, which takes minutes
    WIDTHS["sd3t5"] = 4096
# One of each way of laying out rows in an ordinary run; `run.py prove bridges` tries all.
TRIED = [*WIDTHS] if REAL else ["sd15", "sdxl", "pixart", "cut", "ltx2"]
KINDS = [kind for kind in TRIED if kind != "sd3"]  # whose rows of 4096 numbers are its alone
NEWER = {"zimage": "z_image", "ovis": "ovis", "ltx2": "gemma4"}  # modules that 0.3.64 lacks
NEWER |= {"klein": "z_image"}  # as old as its encoder, whose module is FLUX's
POOLED = {"cut": TAPS[0], "sd15": TAPS[0], "sdxl": TAPS[1], "flux": TAPS[0], "sd3": sum(TAPS)}
POOLED["sd3t5"] = POOLED["sd3"]
PROMPTS = [
    "a red cat left of two dogs",
    "an owl on a book, a castle behind it, watercolour!",
    "猫 and a 🍎",
    ", ".join(["a red cat and two dogs on a blue background"] * 12),  # beyond 77 tokens
    "",
]


def is_known(kind: str) -> bool:
    """Whether the host has this encoder."""
    if kind not in NEWER:
        return True
    return importlib.util.find_spec(f"comfy.text_encoders.{NEWER[kind]}") is not None


def needs(kind: str) -> None:
    if not is_known(kind):
        pytest.skip(f"this host has no encoder of {kind}")


def _target(kind: str):
    """The host's classes of a model's text encoder: tokenizer and model."""
    from comfy import sd1_clip, sdxl_clip
    from comfy.text_encoders import flux, pixart_t5, sd3_clip

    if kind == "zimage":
        from comfy.text_encoders import z_image

        return z_image.ZImageTokenizer, z_image.te()
    if kind == "qwenimage":
        from comfy.text_encoders import qwen_image

        return qwen_image.QwenImageTokenizer, qwen_image.te()
    if kind.startswith("hunyuan"):
        from comfy.text_encoders import hunyuan_image

        return hunyuan_image.HunyuanImageTokenizer, hunyuan_image.te(byt5=kind == "hunyuan")
    if kind == "klein":
        return flux.KleinTokenizer, flux.klein_te()
    if kind == "ovis":
        from comfy.text_encoders import ovis

        return ovis.OvisTokenizer, ovis.te()
    if kind == "ltx2":
        from comfy.text_encoders import lt

        return lt.LTXAVGemmaTokenizer, lt.LTXAVTEModel
    return {
        "sd15": (sd1_clip.SD1Tokenizer, sd1_clip.SD1ClipModel),
        "sdxl": (sdxl_clip.SDXLTokenizer, sdxl_clip.SDXLClipModel),
        "flux": (flux.FluxTokenizer, flux.flux_clip()),
        "pixart": (pixart_t5.PixArtTokenizer, pixart_t5.pixart_te()),
        "sd3": (sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip(t5=False)),
        "sd3t5": (sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip()),
        "cut": (sd1_clip.SD1Tokenizer, _cut(sd1_clip.SD1ClipModel, 1, None)),
        "shorn": (sd1_clip.SD1Tokenizer, _cut(sd1_clip.SD1ClipModel, 0, -1)),
        "ids": (sd1_clip.SD1Tokenizer, _with_ids(sd1_clip.SD1ClipModel)),
    }[kind]


def _cut(model: type, first: int, stop: int | None) -> type:
    """An encoder that keeps back some of its rows, as those do whose template is dropped."""

    class Cut(model):
        def encode_token_weights(self, tokens):
            sequence, *others = super().encode_token_weights(tokens)
            return sequence[:, first:stop], *others

    return Cut


def _with_ids(model: type) -> type:
    """An encoder that gives each prompt's tokens too, as Anima's does."""

    class WithIds(model):
        def encode_token_weights(self, tokens):
            ids = [token for token, *_ in tokens["l"][0]]
            return *super().encode_token_weights(tokens)[:2], {"t5xxl_ids": torch.tensor([ids])}

    return WithIds


@functools.lru_cache(3 if REAL else None)
def host_encoder(kind: str, seed: int = 0):
    """A CLIP of the host with the random weights of a seed; a host without it skips the test."""
    needs(kind)
    import comfy.sd
    from comfy.supported_models_base import ClipTarget

    tokenizer, model = _target(kind)
    options = {"dtype": torch.float32, **OPTIONS, **MORE.get(kind, {})}
    files = {"spiece_model": spiece()} if kind == "ltx2" else {}
    clip = comfy.sd.CLIP(ClipTarget(tokenizer, model), tokenizer_data=files, model_options=options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # the host leaves new weights as they lie in memory
        for name, weight in clip.cond_stage_model.named_parameters():
            if "vis" in name:  # of pictures, in the size that the host fixes
                continue
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


def names(values: dict) -> set[str]:
    """The names beside a sequence, without that by which a sampler compares its model."""
    return set(values) - {"model_conds"}


def _remember_seeds(teacher: Any) -> None:
    """Let a table's components be computed once: of one as wide as people's they take minutes."""
    if hasattr(teacher.seeds_of, "known"):
        return
    compute, known = teacher.seeds_of, {}

    def seeds_of(table: torch.Tensor) -> torch.Tensor:
        key = (*table.shape, hashlib.sha256(table[::97].contiguous().numpy().tobytes()).digest())
        if key not in known:
            known[key] = compute(table)
        return known[key]

    seeds_of.known = known
    teacher.seeds_of = seeds_of


def record(pack: Any, host: Any, clip: Any, name: str, prompts: list[str]) -> Path:
    """What Record Conditioning makes of prompts; its folder."""
    if REAL:
        _remember_seeds(pack.module("host.bridge.teacher"))
    file = host.base / "input" / f"{name}.txt"
    file.write_text("\n".join(prompts) + "\n", encoding="utf-8")
    pack.run("LiDiTRecordConditioning", clip=clip, prompts=file.name, name=name)
    return host.base / "output" / "recordings" / name

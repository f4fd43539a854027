"""LoRA files as different trainers write them, with random numbers, for every linear layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lidit_core.checkpoints.lora_styles import KOHYA, PREFIX

RANK = 3
STYLES = (
    "plain",
    "peft",
    "kohya",
    "kohya-dora",
    "dora-columns",
    "loha",
    "loha-dora",
    "oft",
    "diff",
)


def styled(style: str, weights: Mapping[str, Tensor], std: float = 0.1) -> dict[str, Tensor]:
    """The tensors of a file of this style for a LI-DiT's blocks."""
    torch.manual_seed(0)
    chosen = [k for k, v in weights.items() if k.startswith("blocks.") and v.ndim == 2]
    tensors: dict[str, Tensor] = {}
    for key in chosen:
        name = key.removesuffix(".weight")
        kohya = KOHYA + name.replace(".", "_")
        before = kohya if style.startswith("kohya") or style == "loha" else PREFIX + name
        parts = _parts(style, weights[key], std)
        tensors |= {before + end: tensor.contiguous() for end, tensor in parts.items()}
    return tensors


def _parts(style: str, weight: Tensor, std: float) -> dict[str, Tensor]:
    rows, columns = weight.shape
    a, b = torch.randn(RANK, columns) * std, torch.randn(rows, RANK) * std
    alpha = {".alpha": torch.tensor(2.0)}
    lengths = weight.float().norm(dim=1, keepdim=True) * (1 + std * torch.randn(rows, 1))
    if style == "plain":
        return {".lora_A.weight": a, ".lora_B.weight": b, **alpha}
    if style == "peft":
        return {".lora_A.default.weight": a, ".lora_B.default.weight": b}
    if style in ("kohya", "kohya-dora"):
        dora = {".dora_scale": lengths} if style == "kohya-dora" else {}
        return {".lora_down.weight": a, ".lora_up.weight": b, **alpha, **dora}
    if style == "dora-columns":
        across = weight.float().norm(dim=0, keepdim=True) * (1 + std * torch.randn(1, columns))
        return {".lora_A.weight": a, ".lora_B.weight": b, ".dora_scale": across}
    if style == "oft":
        return {".oft_blocks": torch.randn(rows // 8, 8, 8) * std, ".alpha": torch.tensor(1.5)}
    if style == "diff":
        return {".diff": b @ a, ".diff_b": torch.randn(rows) * std}
    more = {".dora_scale": lengths} if style == "loha-dora" else {}
    c, d = torch.randn(RANK, columns), torch.randn(rows, RANK)
    loha = {".hada_w1_a": b, ".hada_w1_b": a, ".hada_w2_a": d, ".hada_w2_b": c}
    return {**loha, **alpha, **more}

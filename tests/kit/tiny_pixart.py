"""PixArt at a tiny size: random checkpoints in both layouts, and its formulas in plain torch.

arXiv 2310.00426 as its authors published it, with the names and shapes of their checkpoints; it
shares nothing with `lidit_train.tasks.lidit.pixart`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

D, HEADS, DEPTH, TEXT = 48, 4, 3, 20
TIMES = torch.tensor([0.0, 17.0, 500.0, 999.0])


def pixart(micro: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights by the original's names; ``micro`` adds PixArt-alpha's size embeddings."""
    g = torch.Generator().manual_seed(seed)
    made: dict[str, torch.Tensor] = {}

    def linear(name: str, n_in: int, n_out: int, size: float = 1.0) -> None:
        made[f"{name}.weight"] = torch.randn(n_out, n_in, generator=g) * size / n_in**0.5
        made[f"{name}.bias"] = torch.randn(n_out, generator=g) * 0.1

    made["pos_embed"] = torch.randn(1, 16, D, generator=g)
    made["x_embedder.proj.weight"] = torch.randn(D, 4, 2, 2, generator=g)
    made["x_embedder.proj.bias"] = torch.randn(D, generator=g)
    linear("t_embedder.mlp.0", 256, D)
    linear("t_embedder.mlp.2", D, D)
    linear("t_block.1", D, 6 * D, 0.5)
    made["y_embedder.y_embedding"] = torch.randn(8, TEXT, generator=g)
    linear("y_embedder.y_proj.fc1", TEXT, D)
    linear("y_embedder.y_proj.fc2", D, D)
    for name in ("csize", "ar") if micro else ():
        linear(f"{name}_embedder.mlp.0", 256, D // 3)
        linear(f"{name}_embedder.mlp.2", D // 3, D // 3)
    for i in range(DEPTH):
        made[f"blocks.{i}.scale_shift_table"] = torch.randn(6, D, generator=g) * 0.3
        for layer in ("attn.proj", "cross_attn.q_linear", "cross_attn.proj"):
            linear(f"blocks.{i}.{layer}", D, D)
        linear(f"blocks.{i}.attn.qkv", D, 3 * D)
        linear(f"blocks.{i}.cross_attn.kv_linear", D, 2 * D)
        linear(f"blocks.{i}.mlp.fc1", D, 4 * D)
        linear(f"blocks.{i}.mlp.fc2", 4 * D, D)
    made["final_layer.scale_shift_table"] = torch.randn(2, D, generator=g)
    linear("final_layer.linear", D, 32)
    return made


def as_diffusers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same in diffusers' layout, which has no stored positions."""
    whole = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
        "csize_embedder.mlp.0": "adaln_single.emb.resolution_embedder.linear_1",
        "csize_embedder.mlp.2": "adaln_single.emb.resolution_embedder.linear_2",
        "ar_embedder.mlp.0": "adaln_single.emb.aspect_ratio_embedder.linear_1",
        "ar_embedder.mlp.2": "adaln_single.emb.aspect_ratio_embedder.linear_2",
        "t_block.1": "adaln_single.linear",
        "y_embedder.y_embedding": "caption_projection.y_embedding",
        "y_embedder.y_proj.fc1": "caption_projection.linear_1",
        "y_embedder.y_proj.fc2": "caption_projection.linear_2",
        "final_layer.scale_shift_table": "scale_shift_table",
        "final_layer.linear": "proj_out",
    }
    split = {"attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
             "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v")}  # fmt: skip
    of_block = {"attn.proj": "attn1.to_out.0", "cross_attn.q_linear": "attn2.to_q",
                "cross_attn.proj": "attn2.to_out.0", "mlp.fc1": "ff.net.0.proj",
                "mlp.fc2": "ff.net.2", "scale_shift_table": "scale_shift_table"}  # fmt: skip
    made = {}
    for name, tensor in weights.items():
        stem, _, end = name.rpartition(".")
        if not name.startswith("blocks."):
            if name in whole or stem in whole:
                made[whole.get(name) or f"{whole[stem]}.{end}"] = tensor
            continue
        _, i, layer = name.split(".", 2)
        block, layer = (
            f"transformer_blocks.{i}",
            layer.removesuffix(".weight").removesuffix(".bias"),
        )
        if layer in split:
            parts = zip(split[layer], tensor.chunk(len(split[layer])))
            made |= {f"{block}.{part}.{end}": rows.clone() for part, rows in parts}
        else:
            tail = "" if layer == "scale_shift_table" else f".{end}"
            made[f"{block}.{of_block[layer]}{tail}"] = tensor
    return made


def linear(w, name: str, x):
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def sinusoids(values):
    """DiT's, cosines first."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    angles = values[:, None] * frequencies
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def mlp_of(w, name: str, x):
    return linear(w, f"{name}.mlp.2", F.silu(linear(w, f"{name}.mlp.0", x)))


def t_embedding(w, t):
    """With PixArt-alpha's size embeddings of a square picture of 1024 pixels where it has them."""
    c = mlp_of(w, "t_embedder", sinusoids(t))
    if "csize_embedder.mlp.0.weight" not in w:
        return c
    sides = mlp_of(w, "csize_embedder", sinusoids(torch.tensor([1024.0, 1024.0]))).flatten()
    return c + torch.cat([sides, mlp_of(w, "ar_embedder", sinusoids(torch.ones(1))).flatten()])


def vectors(w, block: str, t):
    """shift, scale and gate of self-attention, then of the FFN: six of (B, 1, D)."""
    t0 = linear(w, "t_block.1", F.silu(t_embedding(w, t)))
    return (w[f"{block}.scale_shift_table"][None] + t0.reshape(len(t), 6, -1)).chunk(6, dim=1)


def norm(x):
    return F.layer_norm(x, (D,), eps=1e-6)


def queries_keys_values(w, block: str, x):
    return linear(w, f"{block}.attn.qkv", x).reshape(*x.shape[:2], 3, D).unbind(2)


def attended(q, k, v):
    q, k, v = (x.reshape(*x.shape[:2], HEADS, -1).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def ffn(w, block: str, x):
    return linear(
        w, f"{block}.mlp.fc2", F.gelu(linear(w, f"{block}.mlp.fc1", x), approximate="tanh")
    )

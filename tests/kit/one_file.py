"""A checkpoint of Stable Diffusion's in one file: U-Net, autoencoder and text encoders."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from tiny_unet import random_unet
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lidit_core.unet.families import UNetShape
from lidit_train.tasks.adapter.unet import write_ldm

WORDS = 49408  # in CLIP's vocabulary
LEVELS = 4


def random_vae(width: int = 32) -> AutoencoderKL:
    torch.manual_seed(2)
    return AutoencoderKL(
        block_out_channels=[width] * LEVELS,
        down_block_types=["DownEncoderBlock2D"] * LEVELS,
        up_block_types=["UpDecoderBlock2D"] * LEVELS,
        layers_per_block=1,
        latent_channels=4,
    ).eval()


def ldm_vae(vae: AutoencoderKL) -> dict[str, Tensor]:
    """A diffusers' autoencoder by the names of the original."""
    named = {}
    for name, tensor in vae.state_dict().items():
        if ".attentions.0." in name and ".weight" in name and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.", lambda m: f"up.{LEVELS - 1 - int(m[1])}.", name)
        name = name.replace("resnets.", "block.") if ".up." in name else name
        name = name.replace("upsamplers.0", "upsample").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        for theirs, ours in {
            "mid_block.attentions.0": "mid.attn_1", ".group_norm.": ".norm.", ".to_q.": ".q.",
            ".to_k.": ".k.", ".to_v.": ".v.", ".to_out.0.": ".proj_out.",
            "conv_norm_out": "norm_out",
        }.items():  # fmt: skip
            name = name.replace(theirs, ours)
        named[f"first_stage_model.{name}"] = tensor
    return named


def random_clip(
    width: int, pooled: int = 0, layers: int = 2, inner: int = 0
) -> CLIPTextModel | CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=WORDS, hidden_size=width, intermediate_size=inner or 2 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64), max_position_embeddings=77,
        projection_dim=pooled or width, bos_token_id=WORDS - 2, eos_token_id=WORDS - 1,
        pad_token_id=WORDS - 1, hidden_act="gelu" if pooled else "quick_gelu",
    )  # fmt: skip
    torch.manual_seed(3 + pooled)
    return (CLIPTextModelWithProjection if pooled else CLIPTextModel)(config).eval()


def plain(clip) -> dict[str, Tensor]:
    return {k.removeprefix("text_model."): v for k, v in clip.state_dict().items()}


def open_clip(clip: CLIPTextModelWithProjection) -> dict[str, Tensor]:
    """A transformers' text encoder by OpenCLIP's names, queries, keys and values in one."""
    own, named = plain(clip), {}
    for name, tensor in own.items():
        if packed := re.fullmatch(r"(.*)\.self_attn\.q_proj\.(weight|bias)", name):
            parts = [own[f"{packed[1]}.self_attn.{kind}_proj.{packed[2]}"] for kind in "qkv"]
            name, tensor = f"{packed[1]}.attn.in_proj_{packed[2]}", torch.cat(parts)
        elif re.search(r"self_attn\.[kv]_proj", name):
            continue
        elif name == "text_projection.weight":
            name, tensor = "text_projection", tensor.T
        for theirs, ours in {
            "encoder.layers.": "transformer.resblocks.", "layer_norm1": "ln_1",
            "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
            "self_attn.out_proj": "attn.out_proj", "final_layer_norm": "ln_final",
            "embeddings.position_embedding.weight": "positional_embedding",
            "embeddings.token_embedding": "token_embedding",
        }.items():  # fmt: skip
            name = name.replace(theirs, ours)
        named[name] = tensor
    return {**named, "logit_scale": torch.tensor(1.0)}


def write_one_file(path: Path, shape: UNetShape, vae: AutoencoderKL, small, large=None) -> Path:
    """Write a checkpoint in LDM's layout: a random U-Net, the autoencoder and text encoders.

    Args:
        small: CLIP-L's.
        large: bigG's, for SDXL's layout.
    """
    place = "conditioner.embedders.0" if large is not None else "cond_stage_model"
    extra = ldm_vae(vae)
    extra |= {f"{place}.transformer.text_model.{k}": v for k, v in plain(small).items()}
    if large is not None:
        named = open_clip(large).items()
        extra |= {f"conditioner.embedders.1.model.{k}": v for k, v in named}
    extra = {k: v.clone().contiguous() for k, v in extra.items()}
    write_ldm(random_unet(shape), path, {}, extra)
    return path

"""The host's own diffusion models at tiny sizes, for the tiny encoders, with random weights."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from bridge_encoders import POOLED, WIDTHS, needs
from llmdiff_kit import SHAPES, fill

from lidit_core.unet.families import host_config

CPU = torch.device("cpu")
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
    "vec_in_dim": POOLED["flux"], "context_in_dim": WIDTHS["flux"], "hidden_size": 48,
    "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "theta": 10_000,
    "axes_dim": [4, 10, 10], "qkv_bias": True, "guidance_embed": True,
}  # fmt: skip
FLUX2 = {  # of Klein
    **FLUX, "image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1,
    "vec_in_dim": None,
    "context_in_dim": WIDTHS["klein"], "num_heads": 1, "axes_dim": [12, 12, 12, 12],
    "qkv_bias": False, "guidance_embed": False, "global_modulation": True, "mlp_silu_act": True,
    "ops_bias": False, "txt_ids_dims": [3],
}  # fmt: skip
PIXART = {
    "image_model": "pixart_sigma", "input_size": 8, "depth": 1, "num_heads": 2, "hidden_size": 48,
    "caption_channels": WIDTHS["pixart"], "micro_condition": False, "model_max_length": 300,
}  # fmt: skip
WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 48, "ffn_dim": 48, "num_layers": 1,
    "num_heads": 2,
}  # fmt: skip
SD3 = {
    "in_channels": 16, "input_size": None, "patch_size": 2, "depth": 2, "num_patches": 36,
    "pos_embed_max_size": 6, "pos_embed_scaling_factor": None,
    "adm_in_channels": POOLED["sd3"],
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": WIDTHS["sd3"], "out_features": 128},
    },
}  # fmt: skip


def _unet(family: str, kind: str) -> dict[str, Any]:
    shape = replace(SHAPES[family], context_width=WIDTHS[kind])
    if family == "sdxl":  # with fewer layers
        changes = {"adm": POOLED[kind] + 1536, "transformer_depth": (0, 1, 1)}
        changes["transformer_depth_middle"] = 1
        shape = replace(shape, **changes)
    return host_config(shape)


def _flux() -> dict[str, Any]:
    """Older hosts know fewer fields."""
    from comfy.ldm.flux.model import FluxParams

    known = {f.name for f in fields(FluxParams)}
    return {**FLUX, **({"txt_ids_dims": []} if "txt_ids_dims" in known else {})}


def config_of(kind: str) -> Any:
    """The host's configuration of a model that reads what an encoder of this kind writes.

    A host without it skips the test.
    """
    needs(kind)
    import comfy.supported_models as known

    made = {
        "sd15": (known.SD15, lambda: _unet("sd15", "sd15")),
        "sdxl": (known.SDXL, lambda: _unet("sdxl", "sdxl")),
        "flux": (known.Flux, _flux),
        "klein": (getattr(known, "Flux2", None), lambda: FLUX2),
        "pixart": (known.PixArtSigma, lambda: PIXART),
        "sd3": (known.SD3, lambda: SD3),
        "sd3t5": (known.SD3, lambda: SD3),  # as people have it, with all three encoders
    }
    family, sizes = made[kind]
    return family(dict(sizes()))


def host_model(kind: str) -> Any:
    """A MODEL with random weights."""
    return _model(config_of(kind))


def made_for(family: str, width: int) -> Any:
    """A MODEL of one of the host's families that reads rows of any width."""
    import comfy.supported_models as known

    sizes = {
        "PixArtSigma": {**PIXART, "caption_channels": width},
        "WAN21_T2V": {**WAN, "text_dim": width},
    }
    return _model(getattr(known, family)(sizes[family]))


def _model(config: Any) -> Any:
    import comfy.model_patcher

    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=CPU)
    fill(model.diffusion_model)
    for name, places in model.diffusion_model.named_buffers():
        if name.endswith("pos_embed"):  # which a file has, and the host leaves as it lies in memory
            places.zero_()
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def lora_of(model: Any) -> dict:
    """A LoRA's file for SD1.5's U-Net, of one layer."""
    key = "input_blocks.1.1.transformer_blocks.0.attn2.to_q"
    layer = model.model.diffusion_model.get_submodule(key)
    name = "lora_unet_" + key.replace(".", "_")
    up, down = torch.ones(layer.out_features, 1), torch.ones(1, layer.in_features)
    return {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}


def latent(model: Any, batch: int = 1) -> dict:
    """An empty latent as the model has them."""
    channels = model.model.latent_format.latent_channels
    side = 64 if "PixArt" in type(model.model).__name__ else 8  # which it is rounded to
    return {"samples": torch.zeros(batch, channels, side, side)}


def drawn(host: Any, model: Any, positive: list, negative: list, batch: int = 1, **changes):
    """What the stock KSampler gives after two steps with guidance."""
    how = {"seed": 5, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}
    with torch.inference_mode():
        (out,) = host.nodes.common_ksampler(
            model, positive=positive, negative=negative, latent=latent(model, batch),
            **{**how, **changes},
        )  # fmt: skip
    return out["samples"]

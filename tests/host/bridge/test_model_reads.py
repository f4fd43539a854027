"""What models of the host read of text, by its own classes with few blocks. Run: see conftest.py"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from bridge_models import config_of

META = torch.device("meta")
# As the host reads them from checkpoints, but for the widths of what is no text.
JOINT = {
    **{"in_channels": 16, "out_channels": 16, "hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 1},
    **{"depth": 1, "depth_single_blocks": 1, "theta": 256, "qkv_bias": True},
}
CHROMA = {
    **{**JOINT, "in_channels": 64, "out_channels": 64, "context_in_dim": 4096, "patch_size": 2},
    **{"in_dim": 64, "out_dim": 48, "hidden_dim": 48, "n_layers": 1, "axes_dim": [16, 16, 16]},
    **{"txt_ids_dims": [], "vec_in_dim": None},
}
HUNYUAN = {
    **{**JOINT, "vec_in_dim": 768, "context_in_dim": 4096, "axes_dim": [16, 16, 16]},
    **{"patch_size": [1, 2, 2], "guidance_embed": True, "byt5": False, "meanflow": False},
    **{"use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False},
}
LUMINA = {
    **{"patch_size": 2, "in_channels": 16, "dim": 48, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1},
    **{"qk_norm": True, "axes_dims": [16, 16, 16], "axes_lens": [300, 512, 512]},
}
QWEN = {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 128}
LTX = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 24}
LTX |= {"cross_attention_dim": 48}
WAN = {"model_type": "t2v", "dim": 48, "ffn_dim": 48, "num_layers": 1, "num_heads": 2}
# The host's class, what its model is called, its sizes, and the widths of rows and pooled vector.
MODELS = {
    "AuraFlow": ("", {"dim": 48, "n_layers": 1, "n_double_layers": 1, "n_heads": 1}, 2048, 0),
    "Lumina2": ("lumina2", {**LUMINA, "cap_feat_dim": 2304}, 2304, 0),
    "ZImage": ("lumina2", {**LUMINA, "cap_feat_dim": 2560, "z_image_modulation": True}, 2560, 0),
    "Chroma": ("chroma", CHROMA, 4096, 0),
    "HunyuanVideo": ("hunyuan_video", HUNYUAN, 4096, 768),
    "QwenImage": ("qwen_image", {**QWEN, "joint_attention_dim": 3584}, 3584, 0),
    "LTXV": ("ltxv", {**LTX, "caption_channels": 4096}, 4096, 0),
    "LTXAV": ("ltxav", {**LTX, "audio_num_attention_heads": 2, "audio_attention_head_dim": 24,
                        "audio_cross_attention_dim": 48}, 3840, 0),
    "WAN21_T2V": ("wan2.1", {**WAN, "text_dim": 4096}, 4096, 0),
}  # fmt: skip
PARAMS = {"chroma": "chroma.model.ChromaParams"}
PARAMS |= {"hunyuan_video": "hunyuan_video.model.HunyuanVideoParams"}


def known_fields(image: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """The sizes that a host of any age knows."""
    if image not in PARAMS:
        return sizes
    folder, file, name = PARAMS[image].split(".")
    params = getattr(pytest.importorskip(f"comfy.ldm.{folder}.{file}"), name)
    return {key: sizes[key] for key in {f.name for f in fields(params)} & sizes.keys()}


def model_on_meta(name: str) -> Any:
    """A MODEL of one of the host's classes without weights."""
    import comfy.model_patcher
    import comfy.supported_models as known

    if not hasattr(known, name):
        pytest.skip(f"this host knows no {name}")
    image, sizes, *_ = MODELS[name]
    config = getattr(known, name)(
        {**known_fields(image, sizes), **({"image_model": image} if image else {})}
    )
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=META)
    return comfy.model_patcher.ModelPatcher(model, load_device=META, offload_device=META)


@pytest.mark.parametrize("name", MODELS)
def test_every_class_that_is_compared_has_a_layer_of_its_texts_width(pack, name):
    """Of a layer that the host calls otherwise nothing would be compared, without a word."""
    *_, rows, pooled = MODELS[name]
    found = pack.module("host.bridge.model_reads").reads_of(model_on_meta(name))
    assert (found.name, found.rows, found.pooled) == (name, rows, pooled)


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "flux", "pixart", "sd3"])
def test_and_so_do_those_that_are_drawn_with(pack, kind):
    """These are drawn with in other tests; here no weight is made."""
    import comfy.model_patcher
    from bridge_encoders import POOLED, WIDTHS

    config = config_of(kind)
    config.set_inference_dtype(torch.float32, None)
    made = comfy.model_patcher.ModelPatcher(config.get_model({}, device=META), META, META)
    found = pack.module("host.bridge.model_reads").reads_of(made)
    none = kind in ("sd15", "pixart")
    assert (found.rows, found.pooled) == (WIDTHS[kind], 0 if none else POOLED[kind])

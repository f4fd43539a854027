"""Small random files of the kinds that the host's loaders read, for nodes that need what one gives.

Where a kind has one size alone, its weights are a number each, repeated: the file stays small.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from conftest import ROOT
from model_kit import save_hypernetwork, save_noisy_lora
from node_benches import CONTROLNET, GLIGEN, HYPERNETWORK, LORA, PHOTOMAKER, STYLE, VISION
from torch import Tensor, nn

from lidit_core.unet.families import host_config
from lidit_core.unet.shape import read_shape

DEMO = ROOT / "lidit_core" / "weights" / "stickers-sd.safetensors"

LORA_STD, HYPERNETWORK_STD = 0.01, 0.02  # of random weights, which change the picture a little
TEXTS = (64, 768)  # widths in a hypernetwork, of the text of the checkpoint that ships and of SD1.5
NUMBER = 0.01  # that a weight consists of


def save_files(models: Path, checkpoint: Path) -> None:
    """All of `FILES` in the host's folders of models.

    Args:
        checkpoint: a LI-DiT, whose LoRA one is.
    """
    save_noisy_lora(checkpoint, models / "loras" / LORA, LORA_STD)
    save_hypernetwork(models / "hypernetworks" / HYPERNETWORK, TEXTS, HYPERNETWORK_STD)
    _save(models / "controlnet" / CONTROLNET, controlnet())
    _save(models / "clip_vision" / VISION, vision())
    _save(models / "style_models" / STYLE, style())
    _save(models / "gligen" / GLIGEN, gligen())
    _save(models / "photomaker" / PHOTOMAKER, photomaker())


def _save(path: Path, weights: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(weights), path)


def repeated(shape: tuple[int, ...], number: float = NUMBER) -> Tensor:
    """A tensor of one stored number."""
    return torch.tensor(number).expand(shape)


def of_module(module: nn.Module) -> dict[str, Tensor]:
    return {name: repeated(tuple(weight.shape)) for name, weight in module.state_dict().items()}


def controlnet() -> dict[str, Tensor]:
    """For SD1.5's kin, with the widths of the U-Net that ships."""
    import comfy.cldm.cldm
    import comfy.ops

    config = host_config(read_shape(DEMO))
    config = {name: value for name, value in config.items() if name != "out_channels"}
    config |= {"num_heads": -1, "num_head_channels": 64}  # what the host takes a file for
    ops = comfy.ops.disable_weight_init
    made = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, operations=ops, dtype=torch.float)
    return of_module(made)


def vision() -> dict[str, Tensor]:
    import comfy.clip_model
    import comfy.clip_vision
    import comfy.ops

    config = Path(comfy.clip_vision.__file__).with_name("clip_vision_config_vitl.json")
    made = comfy.clip_model.CLIPVisionModelProjection(
        json.loads(config.read_text()), torch.float16, "meta", comfy.ops.manual_cast
    )
    return of_module(made)


def style() -> dict[str, Tensor]:
    import comfy.t2i_adapter.adapter

    with torch.device("meta"):
        made = comfy.t2i_adapter.adapter.StyleAdapter(1024, 768, 8, 3, 8)
    return of_module(made)


def gligen() -> dict[str, Tensor]:
    import comfy.gligen

    net = {f"position_net.{k}": w for k, w in of_module(comfy.gligen.PositionNet(768, 768)).items()}
    dense = comfy.gligen.GatedSelfAttentionDense(64, 768, 8, 8)
    return net | {f"input_blocks.1.fuser.{k}": w for k, w in of_module(dense).items()}


def photomaker() -> dict[str, Tensor]:
    import comfy_extras.nodes_photomaker

    with torch.device("meta"):
        made = comfy_extras.nodes_photomaker.PhotoMakerIDEncoder()
    return of_module(made)

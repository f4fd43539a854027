"""Finds a U-Net's tensors, in whichever of the layouts people have it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lidit_core.checkpoints.lidit import CONFIG_KEY, CONFIG_TENSOR
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import opened
from lidit_core.paths import at_home
from lidit_core.unet.shape import CONV_IN, metadata_config, without_prefix

EXPECTED = (
    "expected the U-Net of SD1.5 or SDXL: a .safetensors checkpoint, or a diffusers folder with "
    "unet/config.json"
)
WEIGHTS = (  # in a diffusers folder; the first that is there
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model-*-of-*.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.fp16-*-of-*.safetensors",
)
MARKS = re.compile(r"v_pred|ztsnr|edm_mean|edm_std|edm_vpred\..+")  # of how a model was trained
TELLING = ("modelspec.prediction_type", "prediction_type")  # metadata of the prediction
PARTS_OF_OTHERS = {  # names that also a U-Net's file could have, before it is taken for one
    "a LoRA": r"lora|\.hada_|\.lokr_",
    "a ControlNet": r"(^|control_model\.)zero_convs\.|^controlnet_cond_embedding\.",
}
OTHERS = {
    "a LI-DiT": rf"^{CONFIG_KEY}$|^{CONFIG_TENSOR}$",
    "a Flux model": r"^double_blocks\.",
    "a Stable Diffusion 3": r"^joint_blocks\.",
    "a diffusion transformer": r"^(transformer_)?blocks\.\d|^single_transformer_blocks\.",
    "an autoencoder": r"^(first_stage_model\.|vae\.)?(en|de)coder\.conv_in\.|^taesd_",
    "a text encoder": r"text_model\.|^transformer\.resblocks\.|^encoder\.block\.|embed_tokens",
}


@dataclass(frozen=True)
class UNetFile:
    """A U-Net on the disk, of which only names and shapes were read."""

    path: Path  # as it was given
    layout: str  # "ldm" or "diffusers"
    places: Mapping[str, tuple[Path, str]]  # by the layout's names: a file, and the name in it
    shapes: Mapping[str, tuple[int, ...]]
    config: Mapping[str, Any] | None  # diffusers', where there is one
    scheduler: Mapping[str, Any]  # diffusers' configuration beside it, or nothing
    marks: frozenset[str]  # names of `MARKS` in the file

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by the layout's names, mapped into memory: pages not read are not loaded."""
        found = {}
        for path in dict.fromkeys(path for path, _ in self.places.values()):
            with opened(path) as file:
                for name, (place, key) in self.places.items():
                    if place == path:
                        found[name] = file.get_tensor(key)
        return found


def find_unet(path: str | Path) -> UNetFile:
    """A U-Net in LDM's layout or diffusers', in a file or a folder."""
    path = at_home(path)
    files = _files_of_folder(path) if path.is_dir() else [_checked_file(path)]
    metadata: dict[str, str] = {}
    places: dict[str, tuple[Path, str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for each in files:
        with opened(each) as file:
            metadata |= file.metadata() or {}
            for key in file.keys():
                places[key] = (each, key)
                shapes[key] = tuple(file.get_slice(key).get_shape())
    marks = frozenset(filter(MARKS.fullmatch, places)) | _told(metadata)
    shapes = {k: v for k, v in without_prefix(shapes).items() if not MARKS.fullmatch(k)}
    layout = _layout(shapes, [*places, *metadata], path)
    config = metadata_config(metadata, path)
    if config is None and layout == "diffusers":
        config = _json(files[0].with_name("config.json"))
    scheduler = _json(files[0].parents[1] / "scheduler" / "scheduler_config.json")
    own = {name: place for name, place in without_prefix(places).items() if name in shapes}
    return UNetFile(path, layout, own, shapes, config, scheduler or {}, marks)


def _told(metadata: Mapping[str, str]) -> frozenset[str]:
    """The mark that stands for what other trainers write of a model of v."""
    told = (metadata.get(name, "").lower() for name in TELLING)
    return frozenset({"v_pred"} if any(value in ("v", "v_prediction") for value in told) else ())


def _checked_file(path: Path) -> Path:
    if path.is_file() and path.suffix != ".safetensors":
        raise LiDiTError(
            f"{path} is no .safetensors file, and another may run code when opened; convert it "
            f"to .safetensors first; {EXPECTED}"
        )
    return path


def _files_of_folder(folder: Path) -> list[Path]:
    """The weights of a diffusers folder, or of the `unet` folder in it."""
    within = folder / "unet" if (folder / "unet" / "config.json").is_file() else folder
    kind = (_json(within / "config.json") or {}).get("_class_name", "")
    if kind and kind != "UNet2DConditionModel":
        raise LiDiTError(f"{folder} is diffusers' {kind}; {EXPECTED}")
    found = (sorted(within.glob(pattern)) for pattern in WEIGHTS)
    if not (files := next(filter(None, found), [])):
        raise LiDiTError(f"{folder} holds no {WEIGHTS[0]}, nor unet/{WEIGHTS[0]}; {EXPECTED}")
    return files


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise LiDiTError(f"{path} is no JSON ({error}); fetch the folder again") from error


def _layout(shapes: Iterable[str], all_names: Iterable[str], path: Path) -> str:
    """The layout of these names; the sentence for a file of something else names what it is."""
    own, everything = set(shapes), [*all_names, *shapes]
    if not (kind := _first_match(PARTS_OF_OTHERS, everything)):
        if CONV_IN.ldm in own:
            return "ldm"
        if CONV_IN.diffusers in own and "time_embedding.linear_1.weight" in own:
            return "diffusers"
        kind = _first_match(OTHERS, everything)
    raise LiDiTError(f"{path} is {kind or 'nothing that lidit knows'}; {EXPECTED}")


def _first_match(kinds: Mapping[str, str], names: Iterable[str]) -> str | None:
    tests = ((kind, re.compile(pattern)) for kind, pattern in kinds.items())
    return next((kind for kind, test in tests if any(map(test.search, names))), None)

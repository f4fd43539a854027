"""A LoRA in a file of its own: a small change of a LI-DiT's weights (arXiv 2106.09685).

Names and layout are those of the host's stock LoRA nodes, which load what `write_lora` writes; a
LoRA that they trained is read here as well. The metadata says what it was trained on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..dtypes import check_dtype
from ..errors import LiDiTError, shown
from ..io.records import json_object, read_record
from ..io.tensors import check_finite, fill, read_safetensors, write_safetensors
from ..io.terms import terms_for
from ..model.config import LiDiTConfig
from ..model.dit import LiDiT
from ..text.spec import LLMSpec
from .lidit import read_lidit
from .lora_styles import (
    PREFIX,
    Layer,
    change_of,
    part_of,
    rank_of,
    resolved,
    shape_of,
    style_fault,
    turned,
    written_name,
)

LORA_KEY = "lidit_lora"  # of the metadata
LONGEST = "longest_prompts"  # in it: tokens of the longest prompt trained on, by LLM


@dataclass(frozen=True)
class LoraFile:
    """What a LoRA file holds."""

    path: str | Path
    layers: Mapping[str, Layer]  # by the layer's name in a LI-DiT, or by sd-scripts' until `of`
    about: Mapping  # what `write_lora` says of it; empty for one that the host trained

    def of(self, weights: Mapping[str, Tensor]) -> LoraFile:
        """The same with all layers by their names in this model."""
        return replace(self, layers=resolved(self.layers, weights, self.path))

    def changes(self) -> Iterator[tuple[str, Tensor]]:
        """The names of the weights that something is added to, and what, in float32."""
        for name, layer in self.layers.items():
            change = None if "dora" in layer else change_of(layer)
            if change is not None:
                yield f"{name}.weight", change
            for end in ("weight", "bias"):
                if end in layer:
                    yield f"{name}.{end}", layer[end].float()

    def turns(self, weights: Mapping[str, Tensor], strength: float) -> Iterator[tuple[str, Tensor]]:
        """The weights that OFT and DoRA change, in float32, as they then are."""
        for name, layer in self.layers.items():
            if "oft" in layer or "dora" in layer:
                new = turned(weights[f"{name}.weight"].float(), layer, strength)
                assert new is not None  # as it is of these styles
                yield f"{name}.weight", new

    def shapes(self, weights: Mapping[str, Tensor]) -> dict[str, list[int]]:
        """The weights that change, by name, and each change's shape; nothing is computed."""
        found = {}
        for name, layer in self.layers.items():
            shape = shape_of(layer, weights.get(f"{name}.weight"))
            if shape is not None:
                found[f"{name}.weight"] = shape
            if "bias" in layer:
                found[f"{name}.bias"] = list(layer["bias"].shape)
        return found

    def lengthened(self, config: LiDiTConfig) -> LiDiTConfig:
        """The model's configuration with this LoRA on it, which may know longer prompts."""
        longest = self.about.get(LONGEST) or {}
        return replace(config, llms=tuple(_longer(spec, longest) for spec in config.llms))


def _longer(spec: LLMSpec, longest: Mapping[str, int]) -> LLMSpec:
    if spec.longest_prompt is None or spec.name not in longest:
        return spec
    return replace(spec, longest_prompt=max(spec.longest_prompt, longest[spec.name]))


def write_lora(
    path: str | Path,
    layers: Mapping[str, Layer],
    alpha: float,
    config: LiDiTConfig,
    base: str = "",
    longest: Mapping[str, int] | None = None,
    style: str = "",
) -> None:
    """Write a LoRA.

    Args:
        layers: by the layer's name its tensors, as lora_styles.ENDINGS has them: A (rank, in) and
            B (out, rank), dora_scale beside them, LoHa's four, or OFT's blocks.
        alpha: of every layer; OFT's bound on the norm of its turns, 0 = none.
        config: of the model that it was trained on.
        base: that model's name, for people.
        longest: tokens of the longest prompt that it was trained on, by LLM; None = not known.
        style: of the names, one of lora_styles.WRITTEN.
    """
    tensors = {}
    for name, layer in layers.items():
        parts = {**layer, "alpha": torch.tensor(float(alpha))}
        tensors |= {written_name(style, name, part): tensor for part, tensor in parts.items()}
    check_finite(tensors, path)
    rank = max(rank_of(layer) for layer in layers.values())
    about = {"base": base, "rank": rank, "alpha": alpha, **_kind(config), LONGEST: longest}
    terms = terms_for(spec.name for spec in config.llms)
    write_safetensors(path, tensors, {LORA_KEY: json.dumps(about, ensure_ascii=False), **terms})


def _kind(config: LiDiTConfig) -> dict:
    sizes = {"depth": config.depth, "width": config.width, "heads": config.heads}
    llms = [llm.name for llm in config.llms]
    return {"prediction": config.prediction, **sizes, "llms": llms}


def read_lora(path: str | Path) -> LoraFile:
    """A file that `write_lora`, the host's training or another trainer wrote.

    Raises:
        LiDiTError: it is another kind of file, or damaged.
    """
    tensors, metadata = read_safetensors(path)
    layers: dict[str, Layer] = {}
    for key, tensor in tensors.items():
        found = part_of(key)
        if found is None:
            raise LiDiTError(
                f"{path} is no LoRA of a LI-DiT, for it holds {key!r}; expected names as "
                f"{PREFIX}blocks.0.mlp.0.lora_A.weight or those of sd-scripts, peft, LoHa, OFT or "
                "DoRA that the host's loader reads: give the path of another file"
            )
        name, part = found
        layers.setdefault(name, {})[part] = tensor
    for name, layer in layers.items():
        _check_pair(path, name, layer)
    return LoraFile(path, layers, _about(path, metadata.get(LORA_KEY, "{}")))


def _check_pair(path: str | Path, name: str, layer: Layer) -> None:
    fault = style_fault(layer)
    if fault:
        raise LiDiTError(f"the LoRA {path} has for {name} {fault}: fetch the file again")
    _check_alpha(path, name, layer)
    a, b = (list(layer[part].shape) if part in layer else [] for part in ("A", "B"))
    if not {"A", "B"} & {*layer}:
        return
    fits = len(a) > 1 < len(b) and a[0] == b[1] > 0 and set(b[2:]) <= {1}
    if not fits:
        raise LiDiTError(
            f"the LoRA {path} has A {tuple(a)} and B {tuple(b)} for {name}; expected "
            "(rank, in) and (out, rank): fetch the file again"
        )


def _check_alpha(path: str | Path, name: str, layer: Layer) -> None:
    alpha = layer.get("alpha", torch.ones(1)).flatten().tolist()
    if len(alpha) != 1 or not math.isfinite(alpha[0]):
        raise LiDiTError(
            f"the LoRA {path} has alpha {shown(alpha)} for {name}; expected one finite number: "
            "fetch the file again"
        )


def _about(path: str | Path, text: str) -> dict:
    about = json_object(text, f"the description of the LoRA {path}")
    read_record(dict[str, int], about.get(LONGEST) or {}, f"the LoRA {path}: {LONGEST}")
    return about


def merge_lora(
    config: LiDiTConfig, weights: Mapping[str, Tensor], path: str | Path, strength: float = 1.0
) -> dict[str, Tensor]:
    """Weights with a LoRA's change added; those that change are float32, to be rounded once.

    Args:
        strength: factor on the change; 0 = none, negative = away from what was trained.
    Raises:
        LiDiTError: it is no LoRA, or one of another model; nothing was changed then.
    """
    return _merged(config, weights, read_lora(path), strength)


def _merged(config, weights, lora: LoraFile, strength: float) -> dict[str, Tensor]:
    lora = lora.of(weights)
    _check_fits(lora, config, weights)
    changes = dict(lora.changes())
    merged = {k: weights[k].float() + strength * v.view_as(weights[k]) for k, v in changes.items()}
    return {**weights, **merged, **dict(lora.turns(weights, strength))}


def _check_fits(lora: LoraFile, config, weights: Mapping[str, Tensor]) -> None:
    prediction = lora.about.get("prediction", config.prediction)
    changes = lora.shapes(weights)
    unknown = [key for key in changes if key not in weights]
    misshapen = [k for k, v in changes.items() if k in weights and not _fits(v, weights[k])]
    fault = None
    if prediction != config.prediction:
        asked = prediction if isinstance(prediction, str) else shown(prediction)
        fault = f"was trained to predict {asked} and this LI-DiT predicts {config.prediction}"
    elif unknown:
        fault = f"changes {len(unknown)} weights that this LI-DiT lacks, {unknown[0]} first"
    elif scale := next((n for n in lora.layers if not _scale_fits(lora.layers[n], n, weights)), ""):
        fault = f"has a dora_scale for {scale} that is as long as neither its rows nor its columns"
    elif misshapen:
        shapes = tuple(changes[misshapen[0]]), tuple(weights[misshapen[0]].shape)
        fault = "changes {} as {} and this LI-DiT has it as {}".format(misshapen[0], *shapes)
    if fault:
        base = lora.about.get("base")
        base = base if isinstance(base, str) and len(base) < 200 else shown(base) if base else ""
        trained = f"it was trained on {base}" if base else "use one that was trained on this model"
        raise LiDiTError(f"the LoRA {lora.path} {fault}; {trained}")


def _fits(change: list[int], weight: Tensor) -> bool:
    """Whether the shapes are equal, but for the flattened axes of a convolution."""
    return change[:1] == [*weight.shape[:1]] and math.prod(change) == weight.numel()


def _scale_fits(layer: Layer, name: str, weights: Mapping[str, Tensor]) -> bool:
    """DoRA's scale is one number for each row, or for each column."""
    if "dora" not in layer:
        return True
    shape, weight = [*layer["dora"].shape], weights[f"{name}.weight"]
    rows = [len(weight), *[1] * (weight.ndim - 1)], [len(weight)]
    return shape in rows or shape == [1, weight.shape[1], *[1] * (weight.ndim - 2)]


def load_with_loras(
    path: str | Path,
    loras: Sequence[tuple[str | Path, float]],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> LiDiT:
    """A LI-DiT with some LoRAs merged into its weights, each with its strength.

    Args:
        dtype: to compute in, float32, bfloat16 or float16; what is merged is rounded to it once.
    Raises:
        LiDiTError: a file is missing, damaged or of another kind, a LoRA is of another model, or
            the dtype is another one.
    """
    check_dtype(dtype)
    config, weights = read_lidit(path)
    for file, strength in loras:
        lora = read_lora(file)
        weights = _merged(config, weights, lora, strength)
        config = lora.lengthened(config) if strength > 0 else config
    model = LiDiT(config, device="meta")
    return fill(model, weights, f"the checkpoint {path}", dtype).to(device)

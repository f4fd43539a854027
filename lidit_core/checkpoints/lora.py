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

from ..errors import LiDiTError, shown
from ..io.records import json_object, read_record
from ..io.tensors import check_finite, fill, read_safetensors, write_safetensors
from ..model.config import LiDiTConfig
from ..model.dit import LiDiT
from ..text.spec import LLMSpec
from .lidit import read_lidit

LORA_KEY = "lidit_lora"  # of the metadata
LONGEST = "longest_prompts"  # in it: tokens of the longest prompt trained on, by LLM
PREFIX = "diffusion_model."  # the host's, before the name of every layer
ENDINGS = {  # of a tensor's name -> what it is to its layer
    ".lora_A.weight": "A",  # (rank, in)
    ".lora_B.weight": "B",  # (out, rank)
    ".alpha": "alpha",  # the weight changes by alpha / rank times B A
    ".lora_down.weight": "A",  # these four as the host's training writes them
    ".lora_up.weight": "B",
    ".diff": "weight",  # the change itself
    ".diff_b": "bias",
}
Layer = dict[str, Tensor]  # by what `ENDINGS` says


@dataclass(frozen=True)
class LoraFile:
    """What a LoRA file holds."""

    path: str | Path
    layers: Mapping[str, Layer]  # by the layer's name in a LI-DiT
    about: Mapping  # what `write_lora` says of it; empty for one that the host trained

    def changes(self) -> Iterator[tuple[str, Tensor]]:
        """The names of the weights that change, and by what, in float32."""
        for name, layer in self.layers.items():
            if "A" in layer:
                yield f"{name}.weight", _product(layer)
            for end in ("weight", "bias"):
                if end in layer:
                    yield f"{name}.{end}", layer[end].float()

    def shapes(self) -> dict[str, list[int]]:
        """The weights that change, by name, and each change's shape; nothing is computed."""
        found = {}
        for name, layer in self.layers.items():
            if "A" in layer:
                found[f"{name}.weight"] = [layer["B"].shape[0], *layer["A"].shape[1:]]
            for end in ("weight", "bias"):
                if end in layer:
                    found[f"{name}.{end}"] = list(layer[end].shape)
        return found

    def lengthened(self, config: LiDiTConfig) -> LiDiTConfig:
        """The model's configuration with this LoRA on it, which may know longer prompts."""
        longest = self.about.get(LONGEST) or {}
        return replace(config, llms=tuple(_longer(spec, longest) for spec in config.llms))


def _longer(spec: LLMSpec, longest: Mapping[str, int]) -> LLMSpec:
    if spec.longest_prompt is None or spec.name not in longest:
        return spec
    return replace(spec, longest_prompt=max(spec.longest_prompt, longest[spec.name]))


def _product(layer: Layer) -> Tensor:
    """alpha / rank · B A: (out, in), also of a convolution, whose axes are flattened."""
    a, b = (layer[part].float().flatten(1) for part in ("A", "B"))
    alpha = float(layer.get("alpha", a.shape[0]))
    return (alpha / a.shape[0]) * (b @ a)


def write_lora(
    path: str | Path,
    layers: Mapping[str, tuple[Tensor, Tensor]],
    alpha: float,
    config: LiDiTConfig,
    base: str = "",
    longest: Mapping[str, int] | None = None,
) -> None:
    """Write a LoRA.

    Args:
        layers: by the layer's name, A (rank, in) and B (out, rank).
        config: of the model that it was trained on.
        base: that model's name, for people.
        longest: tokens of the longest prompt that it was trained on, by LLM; None = not known.
    """
    tensors = {}
    for name, (a, b) in layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b
        tensors[f"{PREFIX}{name}.alpha"] = torch.tensor(float(alpha))
    check_finite(tensors, path)
    ranks = sorted({a.shape[0] for a, _ in layers.values()})
    about = {"base": base, "rank": ranks[-1], "alpha": alpha, **_kind(config), LONGEST: longest}
    write_safetensors(path, tensors, {LORA_KEY: json.dumps(about, ensure_ascii=False)})


def _kind(config: LiDiTConfig) -> dict:
    sizes = {"depth": config.depth, "width": config.width, "heads": config.heads}
    llms = [llm.name for llm in config.llms]
    return {"prediction": config.prediction, **sizes, "llms": llms}


def read_lora(path: str | Path) -> LoraFile:
    """A file that `write_lora` or the host's training wrote.

    Raises:
        LiDiTError: it is another kind of file, or damaged.
    """
    tensors, metadata = read_safetensors(path)
    layers: dict[str, Layer] = {}
    for key, tensor in tensors.items():
        end = next((end for end in ENDINGS if key.endswith(end)), "")
        if not (end and key.startswith(PREFIX)):
            raise LiDiTError(
                f"{path} is no LoRA of a LI-DiT, for it holds {key!r}; expected names as "
                f"{PREFIX}blocks.0.mlp.0.lora_A.weight: give the path of another file"
            )
        name = key.removeprefix(PREFIX).removesuffix(end)
        layers.setdefault(name, {})[ENDINGS[end]] = tensor
    for name, layer in layers.items():
        _check_pair(path, name, layer)
    return LoraFile(path, layers, _about(path, metadata.get(LORA_KEY, "{}")))


def _check_pair(path: str | Path, name: str, layer: Layer) -> None:
    a, b = (list(layer[part].shape) if part in layer else [] for part in ("A", "B"))
    if not {"A", "B"} & {*layer}:
        return
    fits = len(a) > 1 < len(b) and a[0] == b[1] > 0 and set(b[2:]) <= {1}
    if not fits:
        raise LiDiTError(
            f"the LoRA {path} has A {tuple(a)} and B {tuple(b)} for {name}; expected "
            "(rank, in) and (out, rank): fetch the file again"
        )
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
    _check_fits(lora, config, weights)
    changes = dict(lora.changes())
    merged = {k: weights[k].float() + strength * v.view_as(weights[k]) for k, v in changes.items()}
    return {**weights, **merged}


def _check_fits(lora: LoraFile, config, weights: Mapping[str, Tensor]) -> None:
    prediction = lora.about.get("prediction", config.prediction)
    changes = lora.shapes()
    unknown = [key for key in changes if key not in weights]
    misshapen = [k for k, v in changes.items() if k in weights and not _fits(v, weights[k])]
    fault = None
    if prediction != config.prediction:
        asked = prediction if isinstance(prediction, str) else shown(prediction)
        fault = f"was trained to predict {asked} and this LI-DiT predicts {config.prediction}"
    elif unknown:
        fault = f"changes {len(unknown)} weights that this LI-DiT lacks, {unknown[0]} first"
    elif misshapen:
        shapes = tuple(changes[misshapen[0]]), tuple(weights[misshapen[0]].shape)
        fault = "changes {} as {} and this LI-DiT has it as {}".format(misshapen[0], *shapes)
    if fault:
        base = lora.about.get("base")
        base = base if isinstance(base, str) and len(base) < 200 else shown(base) if base else ""
        trained = f"it was trained on {base}" if base else "use one that was trained on this model"
        raise LiDiTError(f"the LoRA {lora.path} {fault}; {trained}")


def _fits(change: list[int], weight: Tensor) -> bool:
    """Equal shapes, but for the flattened axes of a convolution."""
    return change[:1] == [*weight.shape[:1]] and math.prod(change) == weight.numel()


def load_with_loras(
    path: str | Path,
    loras: Sequence[tuple[str | Path, float]],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> LiDiT:
    """A LI-DiT with some LoRAs merged into its weights, each with its strength."""
    config, weights = read_lidit(path)
    for file, strength in loras:
        lora = read_lora(file)
        weights = _merged(config, weights, lora, strength)
        config = lora.lengthened(config) if strength > 0 else config
    model = LiDiT(config, device="meta")
    return fill(model, weights, f"the checkpoint {path}", dtype).to(device)

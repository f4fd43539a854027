"""A branch's refiner in a file of its own: another LLM for a LI-DiT that is already trained.

The file holds the branch's entry norm, maps and refiner blocks and its collaborative branch; the
metadata says which LLM it reads and which sizes it fits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from .checkpoint import check_tensors, read_lidit, read_safetensors, write_safetensors
from .config import LiDiTConfig, LLMSpec, read_record
from .dit import LiDiT
from .errors import LiDiTError

KEY = "lidit_refiner"  # of the metadata
PARTS = ("linguistic", "collaborative")


def _places(branch: int) -> dict[str, str]:
    """Where a branch's parts are in a LI-DiT's state dict."""
    return {
        "linguistic": f"text_side.linguistic.{branch}.",
        "collaborative": f"text_side.collaborative.branches.{branch}.",
    }


def save_refiner(checkpoint: str | Path, llm: str, path: str | Path) -> None:
    """Write the refiner of the branch trained on this LLM out of a LI-DiT checkpoint."""
    config, weights = read_lidit(checkpoint)
    places = _places(config.branch(llm))
    tensors = {
        f"{part}.{key.removeprefix(place)}": tensor
        for part, place in places.items()
        for key, tensor in weights.items()
        if key.startswith(place)
    }
    spec = asdict(config.llms[config.branch(llm)])
    write_safetensors(path, tensors, {KEY: json.dumps({"llm": spec, **_sizes(config)})})


def _sizes(config: LiDiTConfig) -> dict:
    """What a refiner must share with the model that it goes into."""
    return {"width": config.width, "heads": config.heads, "refiner": asdict(config.refiner)}


def exchange_refiner(
    config: LiDiTConfig, weights: Mapping[str, Tensor], path: str | Path, branch: int | None = None
) -> tuple[LiDiTConfig, dict[str, Tensor]]:
    """Configuration and weights with one branch's refiner taken from a file.

    Args:
        branch: that is exchanged; None = the one trained on the file's LLM, or else the only one.
    """
    tensors, metadata = read_safetensors(path)
    if KEY not in metadata:
        raise LiDiTError(
            f"{path} is no refiner file; expected one that `lidit refiner` wrote from a LI-DiT"
        )
    data = json.loads(metadata[KEY])
    spec = read_record(LLMSpec, data.pop("llm"), f"refiner {path}")
    if data != json.loads(json.dumps(_sizes(config))):
        raise LiDiTError(
            f"the refiner {path} was made for a model with {data}, and this one has "
            f"{_sizes(config)}; use a refiner that was trained with this model"
        )
    branch = _exchanged(config, spec, path) if branch is None else branch
    llms = (*config.llms[:branch], spec, *config.llms[branch + 1 :])
    changed = replace(config, llms=llms)
    return changed, _merged(changed, weights, tensors, branch, path)


def _exchanged(config: LiDiTConfig, spec: LLMSpec, path: str | Path) -> int:
    names = [llm.name for llm in config.llms]
    if spec.name in names:
        return names.index(spec.name)
    if len(names) == 1:
        return 0
    raise LiDiTError(
        f"the refiner {path} reads {spec.name}, and this model has branches for "
        f"{' and '.join(names)}; say which of them it takes the place of"
    )


def _merged(config, weights, tensors, branch: int, path) -> dict[str, Tensor]:
    places = _places(branch)
    kept = {k: v for k, v in weights.items() if not k.startswith(tuple(places.values()))}
    taken = {
        places[part] + key.removeprefix(f"{part}."): tensor
        for key, tensor in tensors.items()
        for part in PARTS
        if key.startswith(f"{part}.")
    }
    merged = {**kept, **taken}
    check_tensors(merged, LiDiT(config, device="meta").state_dict(), f"the refiner {path}")
    return merged

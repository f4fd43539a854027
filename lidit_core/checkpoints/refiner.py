"""A branch's refiner in a file of its own: another LLM for a LI-DiT that is already trained.

The file holds the branch's entry norm, maps and refiner blocks and its collaborative branch; the
metadata says which LLM it reads and which sizes it fits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from ..errors import LiDiTError, shown
from ..io.records import json_object, read_record
from ..io.tensors import check_tensors, read_safetensors, shapes_of, write_safetensors
from ..io.terms import terms_for
from ..model.config import LiDiTConfig, RefinerConfig
from ..model.dit import LiDiT
from ..text.spec import LLMSpec, place_of
from .lidit import check_model_sizes, read_lidit

REFINER_KEY = "lidit_refiner"  # of the metadata
PARTS = ("linguistic", "collaborative")


def branch_places(branch: int) -> dict[str, str]:
    """The prefixes of a branch's parts in a LI-DiT's state dict."""
    return {
        "linguistic": f"text_side.linguistic.{branch}.",
        "collaborative": f"text_side.collaborative.branches.{branch}.",
    }


def save_refiner(checkpoint: str | Path, llm: str, path: str | Path) -> None:
    """Write the refiner of the branch trained on this LLM out of a LI-DiT checkpoint."""
    config, weights = read_lidit(checkpoint)
    places = branch_places(config.branch(llm))
    tensors = {
        f"{part}.{key.removeprefix(place)}": tensor
        for part, place in places.items()
        for key, tensor in weights.items()
        if key.startswith(place)
    }
    spec = asdict(config.llms[config.branch(llm)])
    about = json.dumps({"llm": spec, **_sizes(config)})
    write_safetensors(path, tensors, {REFINER_KEY: about, **terms_for([llm])})


def _sizes(config: LiDiTConfig) -> dict:
    """What a refiner must share with the model that it goes into."""
    return {"width": config.width, "heads": config.heads, "refiner": asdict(config.refiner)}


@dataclass(frozen=True, eq=False)
class RefinerFile:
    """What a refiner file holds."""

    path: str | Path
    spec: LLMSpec  # of the LLM that it reads
    sizes: dict  # see `_sizes`
    tensors: Mapping[str, Tensor]

    def branch_of(self, config: LiDiTConfig, asked: int | None = None) -> int:
        """The branch that it takes: the one asked for, the one of its LLM, or the only one."""
        names = [llm.name for llm in config.llms]
        if asked is not None:
            return self._checked(names, asked)
        place = place_of(config.llms, self.spec.name, self.spec.fingerprint)
        if place is not None:
            return place
        if len(names) == 1:
            return 0
        raise LiDiTError(
            f"the refiner {self.path} reads {self.spec.name}, and this model has branches for "
            f"{' and '.join(names)}; say which branch it takes the place of: 1 to {len(names)}"
        )

    def _checked(self, names: list[str], asked: int) -> int:
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(names, start=1))
        if not 0 <= asked < len(names):
            raise LiDiTError(
                f"branch {asked + 1} was asked for, and this model has {len(names)}; "
                f"expected one of {listed}"
            )
        if self.spec.name in names[:asked] + names[asked + 1 :]:
            raise LiDiTError(
                f"branch {asked + 1} was asked for, and {self.spec.name} is read by another one "
                f"({listed}) already; exchange that one instead"
            )
        return asked


def read_refiner(path: str | Path) -> RefinerFile:
    """A file that `lidit refiner` wrote.

    Raises:
        LiDiTError: it is another kind of file, or damaged.
    """
    tensors, metadata = read_safetensors(path)
    if REFINER_KEY not in metadata:
        raise LiDiTError(
            f"{path} is no refiner file; expected one that `lidit refiner` wrote from a LI-DiT"
        )
    data = json_object(metadata[REFINER_KEY], f"the description of the refiner {path}")
    if "llm" not in data:
        raise LiDiTError(f"{path} does not say which LLM it reads; fetch or write it again")
    spec = read_record(LLMSpec, data.pop("llm"), f"refiner {path}")
    return RefinerFile(path, spec, _filled(data, path), tensors)


def _filled(sizes: dict, path: str | Path) -> dict:
    """The sizes with the fields that older files do not know."""
    known = read_record(RefinerConfig, sizes.get("refiner"), f"refiner {path}.refiner")
    return {**sizes, "refiner": asdict(known)}


def exchange_refiner(
    config: LiDiTConfig, weights: Mapping[str, Tensor], path: str | Path, branch: int | None = None
) -> tuple[LiDiTConfig, dict[str, Tensor]]:
    """Configuration and weights with one branch's refiner taken from a file.

    Args:
        branch: that is exchanged, from 0; None = the one trained on the file's LLM, or else the
            only one.
    """
    refiner = read_refiner(path)
    if refiner.sizes != json.loads(json.dumps(_sizes(config))):
        raise LiDiTError(
            f"the refiner {path} was made for a model with {shown(refiner.sizes)}, and this one "
            f"has {_sizes(config)}; use a refiner that was trained with this model"
        )
    branch = refiner.branch_of(config, branch)
    llms = (*config.llms[:branch], refiner.spec, *config.llms[branch + 1 :])
    changed = replace(config, llms=llms)
    return changed, _merged(changed, weights, refiner.tensors, branch, path)


def _merged(config, weights, tensors, branch: int, path) -> dict[str, Tensor]:
    places = branch_places(branch)
    kept = {k: v for k, v in weights.items() if not k.startswith(tuple(places.values()))}
    taken = {
        places[part] + key.removeprefix(f"{part}."): tensor
        for key, tensor in tensors.items()
        for part in PARTS
        if key.startswith(f"{part}.")
    }
    merged = {**kept, **taken}
    what = f"the refiner {path}"
    check_model_sizes(config, shapes_of(merged), what)
    check_tensors(merged, LiDiT(config, device="meta").state_dict(), what)
    return merged

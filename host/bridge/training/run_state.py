"""How far a run is: beside the output, so that a run that was stopped goes on to the same bits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ....lidit_core.errors import LiDiTError
from ....lidit_core.io.tensors import read_safetensors, write_safetensors
from ...node_notes import note
from .known_again import difference, untold

KEY = "lidit-bridge-run"  # of the metadata
MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names of what AdamW keeps of each weight


@dataclass(frozen=True)
class RunState:
    """The file of a run that has not ended.

    Args:
        about: what the run is of; another run's state is none of this one's.
    """

    path: Path
    about: Mapping[str, Any]

    def save(
        self, bridge: nn.Module, optimiser: torch.optim.AdamW, step: int, before: Mapping[str, Any]
    ) -> None:
        """Write the bridge's weights and the optimiser's moments, to go on from.

        Args:
            step: how many are done.
            before: what was measured at the beginning.
        """
        tensors = {}
        for name, weight in bridge.named_parameters():
            tensors[name] = weight.detach().cpu()
            for moment in MOMENTS:
                if kept := optimiser.state.get(weight):
                    tensors[f"{moment}:{name}"] = kept[moment].cpu()
        told = {"about": self.about, "step": step, "before": before}
        write_safetensors(self.path, tensors, {KEY: json.dumps(told)})

    def load(
        self, bridge: nn.Module, optimiser: torch.optim.AdamW
    ) -> tuple[int, dict[str, Any] | None]:
        """How many steps are done, and what was measured before them; (0, None) of a new run.

        Raises:
            LiDiTError: the file is another run's, or damaged.
        """
        if not self.path.exists():
            return 0, None
        tensors, metadata = read_safetensors(self.path)
        try:
            told = json.loads(metadata[KEY])
            about, step, before = told["about"], int(told["step"]), dict(told["before"])
        except (KeyError, TypeError, ValueError) as error:
            raise LiDiTError(
                f"{self.path} is no run of a bridge, or damaged; move it away, or choose another "
                "name"
            ) from error
        self._check(about)
        with torch.no_grad():
            for name, weight in bridge.named_parameters():
                weight.copy_(self._tensor(tensors, name, weight))
                if f"{MOMENTS[0]}:{name}" in tensors:
                    found = {m: self._tensor(tensors, f"{m}:{name}", weight) for m in MOMENTS}
                    kept = {m: t.to(weight.device).clone() for m, t in found.items()}
                    optimiser.state[weight] = {"step": torch.tensor(float(step)), **kept}
        return step, before

    def _check(self, about: Mapping[str, Any]) -> None:
        if other := difference(about, self.about):
            raise LiDiTError(
                f"{self.path.name} holds an unfinished run {other}; put that back to go on with "
                "it, or choose another name"
            )
        if told := untold(about, self.path.name):
            note(told)

    def _tensor(self, tensors: Mapping[str, torch.Tensor], name: str, like: torch.Tensor):
        found = tensors.get(name)
        if found is None or found.shape != like.shape:
            raise LiDiTError(
                f"{self.path} lacks {name} {tuple(like.shape)}; move it away, or choose another "
                "name"
            )
        return found

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

"""What a run needs to die and resume: atomic files, an EMA of the weights, a learning rate."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lidit_core.errors import LiDiTError
from lidit_core.files import replacing


def save_atomically(state: dict, path: Path) -> None:
    """Write beside, then rename: the old file stays whole until the new one is."""
    with replacing(path) as beside:
        torch.save(state, beside)


def load_state(path: Path) -> dict | None:
    """The saved state, or None where a run has not begun."""
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise LiDiTError(
            f"{path} is no training state that can be read ({error}); expected one that this "
            "trainer wrote; move it away to start anew"
        ) from error


class EMA:
    """Exponential moving average of a model's weights, in float32.

    The decay grows as (1 + n) / (10 + n) up to its limit, so that early averages are useful.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights = {k: v.detach().clone().float() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        state = model.state_dict()
        torch._foreach_lerp_(
            list(self.weights.values()), [state[k].float() for k in self.weights], 1 - decay
        )

    def state_dict(self) -> dict:
        return {"steps": self.steps, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        self.steps, self.weights = state["steps"], state["weights"]


def learning_rate(step: int, peak: float, warmup: int, total: int, decay: float) -> float:
    """Linear warm-up, a plateau, and a linear fall to zero over the last share ``decay``.

    A plateau lets a run be lengthened without having spent its schedule (WSD).
    """
    rise = (step + 1) / max(warmup, 1)
    fall = (total - step) / max(decay * total, 1)
    return peak * max(min(1.0, rise, fall), 0.0)

"""The linear base of a bridge: ridge on the mean of the states that share a row's characters.

All is in the teacher's standardised space: (row - mean) / deviation, number by number.
Shapes: B prompts, R rows, X the LLMs' widths together, C the teacher's, P of its pooled vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import BridgeConfig
from .rows import TEXT, TeacherRows


class LinearBase(nn.Module):
    """Frozen numbers, set by `ridge`; nothing of it is trained."""

    mean_in: Tensor
    deviation_in: Tensor
    mean: Tensor
    deviation: Tensor
    text: Tensor
    text_bias: Tensor
    special: Tensor
    constants: Tensor
    fixed: Tensor
    pooled: Tensor
    pooled_bias: Tensor
    pooled_mean: Tensor
    pooled_deviation: Tensor

    def __init__(self, config: BridgeConfig, device=None) -> None:
        super().__init__()
        shapes = _standard(config) if config.add else {**_standard(config), **_maps(config)}
        for name, shape in shapes.items():
            fill = torch.ones if "deviation" in name else torch.zeros
            self.register_buffer(name, fill(shape, dtype=torch.float32, device=device))

    def entered(self, means: Tensor) -> Tensor:
        """Means of states (…, X), number by number with mean 0 and deviation 1."""
        return (means - self.mean_in) / self.deviation_in

    def forward(self, entered: Tensor, rows: TeacherRows) -> Tensor:
        """(B, R, X) -> (B, R, C)."""
        text = (rows.kinds == TEXT)[..., None]
        of_text = entered @ self.text.T + self.text_bias
        of_others = entered @ self.special.T + self.constants[rows.constants.clamp(min=0)]
        return torch.where(text, of_text, of_others)

    def is_fixed(self, rows: TeacherRows) -> Tensor:
        """(B, R) bool: rows that vary with no prompt."""
        still = self.fixed[rows.constants.clamp(min=0)] > 0
        return still & (rows.kinds != TEXT) & rows.seen

    def read_pooled(self, entered: Tensor) -> Tensor:
        """The mean of all states (B, X) -> (B, P), standardised."""
        return entered @ self.pooled.T + self.pooled_bias

    def standardised(self, sequence: Tensor) -> Tensor:
        """A conditioning (B, R, C) as it is learnt."""
        return (sequence.float() - self.mean) / self.deviation

    def standardised_pooled(self, pooled: Tensor) -> Tensor:
        """A pooled vector (B, P) as it is learnt."""
        return (pooled.float() - self.pooled_mean) / self.pooled_deviation

    def restored(self, sequence: Tensor) -> Tensor:
        """The opposite of `standardised`."""
        return sequence * self.deviation + self.mean


def _standard(config: BridgeConfig) -> dict[str, tuple[int, ...]]:
    """What is standard of a teacher's rows."""
    teacher = config.teacher
    shapes: dict[str, tuple[int, ...]] = {
        "mean": (teacher.width,),
        "deviation": (teacher.width,),
        "fixed": (teacher.layout.constants,),  # 1 where a row varies with no prompt
    }
    if teacher.pooled:
        shapes |= {"pooled_mean": (teacher.pooled,), "pooled_deviation": (teacher.pooled,)}
    return shapes


def _maps(config: BridgeConfig) -> dict[str, tuple[int, ...]]:
    """Ridge, which a bridge that adds to an encoder has none of: that is its base."""
    width, read, pooled = config.teacher.width, config.state_width, config.teacher.pooled
    shapes: dict[str, tuple[int, ...]] = {
        "mean_in": (read,),
        "deviation_in": (read,),
        "text": (width, read),
        "text_bias": (width,),
        "special": (width, read),  # of rows that are no text
        "constants": (config.teacher.layout.constants, width),
    }
    return {**shapes, "pooled": (pooled, read), "pooled_bias": (pooled,)} if pooled else shapes

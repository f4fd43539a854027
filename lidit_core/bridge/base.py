"""The linear base of a bridge: ridge on the mean of the states that share a row's characters.

All is in the teacher's standardised space: (row - mean) / deviation, number by number.
Shapes: B prompts, R rows, X the LLMs' widths together, C the teacher's, P of its pooled vector,
K the places of its rows that are no text, E its encoders whose rows follow on one another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..precision import without_autocast
from .config import BridgeConfig
from .rows import TEXT, TeacherRows


class LinearBase(nn.Module):
    """Frozen numbers, set by `ridge`; nothing of it is trained.

    A dimension [E] is there where there are several encoders. What is of the pooled vector is there
    where the teacher has one. A bridge that adds to an encoder has no more than `mean`,
    `deviation`, `fixed`, `pooled_mean` and `pooled_deviation`.
    """

    mean_in: Tensor  # (X,): of the LLMs' means, to standardise them as `entered`
    deviation_in: Tensor  # (X,): of the same
    mean: Tensor  # ([E,] C): of the teacher's rows that are not fixed
    deviation: Tensor  # ([E,] C): of the same
    text: Tensor  # ([E,] C, X): map from what is entered to rows of text
    text_bias: Tensor  # ([E,] C): added to what `text` gives
    special: Tensor  # ([E,] C, X): map from what is entered to rows that are no text
    constants: Tensor  # (K, C): added to what `special` gives; of a fixed place its row itself
    fixed: Tensor  # (K,): 1 where a place's row varies with no prompt, else 0
    pooled: Tensor  # (P, X): map from the entered mean of all states to the pooled vector
    pooled_bias: Tensor  # (P,): added to what `pooled` gives
    pooled_mean: Tensor  # (P,): of the teacher's pooled vectors
    pooled_deviation: Tensor  # (P,): of the same

    def __init__(self, config: BridgeConfig, device=None) -> None:
        super().__init__()
        self.parts, self.adds = len(config.teacher.layouts), config.add
        for name, shape in base_shapes(config).items():
            fill = torch.ones if "deviation" in name else torch.zeros
            self.register_buffer(name, fill(shape, dtype=torch.float32, device=device))

    def entered(self, means: Tensor) -> Tensor:
        """Means of states (…, X), number by number with mean 0 and deviation 1."""
        return (means - self.mean_in) / self.deviation_in

    def forward(self, entered: Tensor, rows: TeacherRows) -> Tensor:
        """Predict each row's standardised numbers: entered means (B, R, X) -> (B, R, C)."""
        text = (rows.kinds == TEXT)[..., None]
        of_text = self._mapped(entered, self.text, rows) + self.of(self.text_bias, rows)
        constants = self.constants[rows.constants.clamp(min=0)]
        of_others = self._mapped(entered, self.special, rows) + constants
        return torch.where(text, of_text, of_others)

    def _mapped(self, entered: Tensor, weight: Tensor, rows: TeacherRows) -> Tensor:
        """Map each row with the map of its encoder."""
        with without_autocast(entered.device):
            if self.parts == 1:
                return entered @ weight.T
            mapped = torch.stack([entered @ part.T for part in weight])  # (parts, B, R, C)
        return mapped.gather(0, rows.parts[None, ..., None].expand_as(mapped[:1]))[0]

    def of(self, standard: Tensor, rows: TeacherRows) -> Tensor:
        """One of the statistics for each row's encoder, (B, R, C), or (C,) if there is but one."""
        return standard if self.parts == 1 else standard[rows.parts]

    def is_fixed(self, rows: TeacherRows) -> Tensor:
        """Whether each row is the same whatever the prompt, (B, R) bool."""
        still = self.fixed[rows.constants.clamp(min=0)] > 0
        return still & (rows.kinds != TEXT) & rows.seen

    def read_pooled(self, entered: Tensor) -> Tensor:
        """Read the pooled vector (B, P), standardised, off the mean of all states (B, X)."""
        with without_autocast(entered.device):
            return entered @ self.pooled.T + self.pooled_bias

    def standardised(self, sequence: Tensor, rows: TeacherRows) -> Tensor:
        """A conditioning (B, R, C) as it is learnt."""
        return (sequence.float() - self.of(self.mean, rows)) / self.of(self.deviation, rows)

    def standardised_pooled(self, pooled: Tensor) -> Tensor:
        """A pooled vector (B, P) as it is learnt."""
        return (pooled.float() - self.pooled_mean) / self.pooled_deviation

    def restored(self, sequence: Tensor, rows: TeacherRows) -> Tensor:
        """The opposite of `standardised`."""
        return sequence * self.of(self.deviation, rows) + self.of(self.mean, rows)


def _standard(config: BridgeConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of a teacher's means and deviations, one set an encoder where there are several."""
    teacher, each = config.teacher, _each(config)
    shapes: dict[str, tuple[int, ...]] = {
        "mean": (*each, teacher.width),
        "deviation": (*each, teacher.width),
        "fixed": (teacher.constants,),  # 1 where a row varies with no prompt
    }
    if teacher.pooled:
        shapes |= {"pooled_mean": (teacher.pooled,), "pooled_deviation": (teacher.pooled,)}
    return shapes


def _ridge(config: BridgeConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of a linear base; a bridge that adds to an encoder has none: that is its base."""
    width, read, pooled = config.teacher.width, config.state_width, config.teacher.pooled
    each = _each(config)
    shapes: dict[str, tuple[int, ...]] = {
        "mean_in": (read,),
        "deviation_in": (read,),
        "text": (*each, width, read),
        "text_bias": (*each, width),
        "special": (*each, width, read),  # of rows that are no text
        "constants": (config.teacher.constants, width),
    }
    return {**shapes, "pooled": (pooled, read), "pooled_bias": (pooled,)} if pooled else shapes


def base_shapes(config: BridgeConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a base, by their names."""
    standard = _standard(config)
    return standard if config.add else {**standard, **_ridge(config)}


def _each(config: BridgeConfig) -> tuple[int, ...]:
    parts = len(config.teacher.layouts)
    return () if parts == 1 else (parts,)

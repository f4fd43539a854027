"""Contrastive flow matching: what a sample's prediction is pushed away from.

Stoica et al. 2025, *Contrastive Flow Matching*, arXiv 2506.05350: the velocities of different
captions are to be unlike, so that a model does not paint what suits many of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Contrasted:
    """The velocity of another sample, for every sample of a batch.

    The other is the next of the whole batch, and of the last the first, however many processes
    share the batch and whatever they take at once.
    """

    velocity: Tensor  # (B, C, H, W): the other's noise less its normalised latents
    apart: Tensor  # (B,) bool: whether the sample reads a caption, and one that is not the other's

    def __getitem__(self, rows: slice | list[int]) -> "Contrasted":
        return Contrasted(self.velocity[rows], self.apart[rows])

    def errors(self, output: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
        """The mean squared error of predictions (B, C, H, W) on the others' velocities, (B,).

        It is 0 where a sample is not to be told apart: a mean over the batch leaves its objective
        as it is, and parts of a batch add up to the whole.

        Args:
            mean: of errors (B, C, H, W), as `lidit_train.batch.Batch.mean`.
        """
        errors = mean(F.mse_loss(output, self.velocity, reduction="none"))
        return errors.where(self.apart, 0.0)

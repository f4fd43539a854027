"""LLMDiff's text encoding: Langevin dynamics over an LLM's blocks (Dong et al., arXiv 2502.04412).

Shapes: B prompts, L tokens, T blocks, C the LLM's width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import LiDiTError
from ..precision import without_autocast

LANGEVIN = ("direct", "consecutive")  # forms
STEP = 1.0  # every g before training: the blocks' differences added up as they are
NOISE = 1e-3  # every h before training
SMALLEST = 1e-30  # variance of all noise


class LangevinEncoding(nn.Module):
    """Block differences (B, L, (T + 1) x C), see `text/differences.py` -> encoding c (B, L, C).

    With c_0 the token embeddings, eps_l ~ N(0, I) and h_l >= 0, in the order of execution,

        direct       c_l = c_{l-1} + g_l delta_l + sqrt(2 h_l) eps_l
        consecutive  c_l = c_{l-1} + g_l (delta_{l-1} - delta_l) + sqrt(2 h_l) eps_l,  delta_0 = 0

    "consecutive" is the form in the paper's derivation. Without noise it is the direct form with
    steps g_{l+1} - g_l (and -g_T), which can be inverted, so comparing the two compares their
    initialisations; with all g equal the middle blocks cancel and c_0 - g delta_T is left.
    Steps `g` (learnt scalars of either sign: ours) and noises h, softplus of `h`, are learnt.

    Args:
        operations: the set of layers to build from; unused, for there are none.
    """

    def __init__(
        self,
        blocks: int,
        width: int,
        form: str = "direct",
        operations=nn,
        dtype=None,
        device=None,
    ) -> None:
        super().__init__()
        if form not in LANGEVIN:
            raise LiDiTError(
                f"the Langevin form is {form!r}; expected one of {', '.join(LANGEVIN)}, so choose "
                "one"
            )
        self.blocks, self.width, self.form = blocks, width, form
        self.g = nn.Parameter(torch.empty(blocks, dtype=dtype, device=device))
        self.h = nn.Parameter(torch.empty(blocks, dtype=dtype, device=device))  # before softplus
        self.reset()

    @torch.no_grad()
    def reset(self, step: float = STEP, noise: float = NOISE) -> None:
        """Start every block with g = `step` and h = `noise`, which is more than 0."""
        self.g.fill_(step)
        self.h.fill_(math.log(math.expm1(noise)))

    @property
    def weights(self) -> Tensor:
        """The factor (T,) in float32 that each block's difference has in c without noise."""
        g = self.g.float()
        return g if self.form == "direct" else functional.pad(g[1:], (0, 1)) - g

    @property
    def deviations(self) -> Tensor:
        """Compute sqrt(2 h), the deviation (T,) of each block's noise, without gradient."""
        return self._variances().detach().sqrt()

    def forward(
        self, states: Tensor, generator: torch.Generator | None = None, noisy: bool = False
    ) -> Tensor:
        """Walk from c (B, L, C), which is in the parameters' dtype; computed in float32.

        Noise, which is for training, is drawn only if `noisy`; padding gets it as well.
        """
        if states.shape[-1] != (self.blocks + 1) * self.width:
            raise LiDiTError(
                f"the LLM's states are {states.shape[-1]} wide; expected {self.blocks + 1} x "
                f"{self.width}, so encode with the LLM of this adapter and block 'differences'"
            )
        x = states.float().unflatten(-1, (self.blocks + 1, self.width))  # (B, L, T + 1, C)
        factors = functional.pad(self.weights, (1, 0), value=1.0).to(x.device)
        with without_autocast(x.device):
            c = factors @ x
        if noisy:
            c = c + self._noise(c, generator)
        return c.to(self.g.dtype)

    def _variances(self) -> Tensor:
        return 2 * functional.softplus(self.h.float())

    def _noise(self, c: Tensor, generator: torch.Generator | None) -> Tensor:
        """All blocks' noise as one draw of the summed variance, which has the same law."""
        device = generator.device if generator else c.device
        eps = torch.randn(c.shape, generator=generator, device=device).to(c.device)
        variance = self._variances().sum().clamp_min(SMALLEST)  # sqrt has no gradient at 0
        return variance.sqrt().to(c.device) * eps

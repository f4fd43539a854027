"""Units of an autoencoder that never respond: they get no gradient, so they start afresh.

The decoder that shipped first had lost all three blocks at the latents' own resolution this way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lidit_core.model.vae import ResidualBlock, bias_of, convolution


@torch.no_grad()
def revive(model: nn.Module, x: Tensor) -> int:
    """Start every dead unit inside the blocks of a model afresh; its output stays as it is.

    A unit is dead whose ReLU is zero everywhere on a sample. Its own kernel is drawn anew (He et
    al. 2015, arXiv 1502.01852), and what reads it is set to zero.

    Args:
        x: (B, ...) the sample, as the model takes it.
    Returns:
        How many units there were.
    """
    responses: dict[nn.Module, Tensor] = {}

    def note(relu: nn.Module, _, out: Tensor) -> None:
        responses[relu] = out.amax((0, 2, 3))  # (units,)

    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    hooks = [b.conv[i].register_forward_hook(note) for b in blocks for i in (1, 3)]
    model(x)
    for hook in hooks:
        hook.remove()
    dead = 0
    for block in blocks:
        for i in (0, 2):
            silent = responses[block.conv[i + 1]] <= 0
            _start_afresh(convolution(block.conv, i), convolution(block.conv, i + 2), silent)
            dead += int(silent.sum())
    return dead


def _start_afresh(unit: nn.Conv2d, reader: nn.Conv2d, chosen: Tensor) -> None:
    """Draw the chosen units' kernels anew, and set the weights that read them to zero.

    Args:
        chosen: (units,) bool.
    """
    drawn = torch.empty_like(unit.weight)
    nn.init.kaiming_normal_(drawn, nonlinearity="relu")
    unit.weight[chosen] = drawn[chosen]
    bias_of(unit)[chosen] = 0
    reader.weight[:, chosen] = 0

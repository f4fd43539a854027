"""How a LoRA's layer changes, by the recipe's ``lora.kind``; each kind changes nothing at first.

What a kind computes is what `lidit generate --lora` and the host make of its file at strength 1, by
the formulas of lidit_core.checkpoints.lora_styles. DoRA, LoHa and OFT make their change in float32
from float32 numbers; a plain LoRA's is computed in the precision of its input.
A kind whose change is a whole matrix makes that again for the backward pass, and keeps none.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from lidit_core.checkpoints.lora_styles import (
    HADAMARD,
    Layer,
    column_lengths,
    dora_factors,
    hadamard,
    oft_turns,
)
from lidit_core.errors import LiDiTError
from lidit_core.precision import without_autocast

from ...recipe import Lora


class Change(nn.Module, ABC):
    """The change of one layer. Its parameters' names are those of lora_styles.ENDINGS."""

    matrices = 0  # as large as the layer's, which are there while one is made

    def put_on(self, layer: nn.Linear) -> list[RemovableHandle]:
        """Let the layer give what it gives together with its change."""
        return [layer.register_forward_hook(self.hook)]

    @abstractmethod
    def hook(self, layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """What the layer gives together with its change."""

    def parts(self, state: Mapping[str, Tensor]) -> Layer:
        """The tensors of a file, from the parameters or their averages."""
        return dict(state)


class LowRank(Change):
    """Adds alpha / rank · B A (Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(self, layer: nn.Linear, lora: Lora) -> None:
        super().__init__()
        device = layer.weight.device
        self.scale = lora.alpha / lora.rank
        self.A = nn.Parameter(torch.empty(lora.rank, layer.in_features, device=device))
        self.B = nn.Parameter(torch.zeros(layer.out_features, lora.rank, device=device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as nn.Linear's own

    def hook(self, layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """What the layer gives together with its change; float32 matrices, the input's dtype."""
        (x,) = inputs
        change = F.linear(F.linear(x, self.A.to(x.dtype)), self.B.to(x.dtype))
        return output + self.scale * change.to(output.dtype)


class DoRA(LowRank):
    """A low-rank change of the columns' directions, and their lengths (arXiv 2402.09353).

    As in the paper, a column is what an input counts in every output, and is measured behind the
    change: this is the file's layout (1, in). For one of rows, (out, 1), the host measures before
    the change, and direction and length would not be apart.

    What learns is by how much a length differs from the whole weight's, so that neither bf16 nor
    the decay of weights touches what the model had.
    """

    matrices = 3
    lengths: Tensor

    def __init__(self, layer: nn.Linear, lora: Lora) -> None:
        super().__init__(layer, lora)
        self.dora = nn.Parameter(torch.zeros(layer.in_features, device=layer.weight.device))
        lengths = column_lengths(layer.weight.detach().float())
        self.register_buffer("lengths", lengths, persistent=False)

    def put_on(self, layer: nn.Linear) -> list[RemovableHandle]:
        """Inputs are multiplied by the columns' factors, and outputs have the low-rank change."""
        return [layer.register_forward_pre_hook(self.stretch), *super().put_on(layer)]

    def stretch(self, layer: nn.Linear, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs

        def factors(a: Tensor, b: Tensor, more: Tensor) -> Tensor:
            weight = layer.weight.float()
            changed = torch.addmm(weight, b, a, alpha=self.scale)
            return dora_factors(weight, changed, self.lengths + more)

        with without_autocast(x.device):
            made = _again(factors, self.A.float(), self.B.float(), self.dora.float())
        return ((x * made.view(-1)).to(x.dtype),)

    def parts(self, state: Mapping[str, Tensor]) -> Layer:
        lengths = self.lengths.to(state["dora"].device) + state["dora"].float()
        return {**state, "dora": lengths}


class LoHa(Change):
    """Adds alpha / rank · (w1_a w1_b) ∘ (w2_a w2_b) (Hyeon-Woo et al. 2021, arXiv 2108.06098).

    The first numbers are those of LyCORIS, which brought LoHa to diffusion models: w2_a is zero.
    """

    matrices = 4

    def __init__(self, layer: nn.Linear, lora: Lora) -> None:
        super().__init__()
        self.scale = lora.alpha / lora.rank
        tall, wide = (layer.out_features, lora.rank), (lora.rank, layer.in_features)
        first = {"w1_a": (tall, 0.1), "w1_b": (wide, 1.0), "w2_a": (tall, 0.0), "w2_b": (wide, 1.0)}
        for name, (shape, std) in first.items():
            drawn = std * torch.randn(shape, device=layer.weight.device)
            self.register_parameter(name, nn.Parameter(drawn))

    def hook(self, layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        (x,) = inputs
        factors = [self.get_parameter(name).float() for name in HADAMARD]
        with without_autocast(x.device):
            return output + _HadamardLinear.apply(x.to(output.dtype), self.scale, *factors)


class OFT(Change):
    """Rotations of blocks of outputs (Qiu et al. 2023, arXiv 2306.07280).

    A block has as many rows as divide the layer's, up to the recipe's rank. alpha is the host's
    bound on the norm of what turns a layer.
    """

    def __init__(self, layer: nn.Linear, lora: Lora) -> None:
        super().__init__()
        rows, self.limit = block_rows(layer.out_features, lora.rank), lora.alpha
        shape = (layer.out_features // rows, rows, rows)
        self.oft = nn.Parameter(torch.zeros(shape, device=layer.weight.device))

    def hook(self, layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        bias = layer.bias
        turned = output if bias is None else output - bias.to(output.dtype)
        with without_autocast(output.device):
            turns = oft_turns(self.oft.float(), self.limit).to(output.dtype)
            blocks = turned.unflatten(-1, turns.shape[:2])
            change = torch.einsum("k n m, ... k n -> ... k m", turns, blocks)
        return output + change.flatten(-2)


KINDS: Mapping[str, type[Change]] = {"lora": LowRank, "dora": DoRA, "loha": LoHa, "oft": OFT}


def block_rows(rows: int, most: int) -> int:
    """The largest number up to a bound that divides the rows."""
    return next(n for n in range(min(rows, most), 0, -1) if rows % n == 0)


def change_for(layer: nn.Linear, lora: Lora) -> Change:
    return KINDS[lora.kind](layer, lora)


@functools.lru_cache(maxsize=256)
def learnt_numbers(lora: Lora, inputs: int, outputs: int) -> int:
    """How many numbers learn beside a linear layer."""
    layer = nn.Linear(inputs, outputs, bias=False, device="meta")
    return sum(p.numel() for p in change_for(layer, lora).parameters())


def check_kind(layers: Mapping[str, nn.Linear], lora: Lora) -> None:
    """Refuse layers that a kind cannot change.

    Raises:
        LiDiTError: OFT would turn blocks of one row, or DoRA's lengths look like those of rows.
    """
    for name, layer in layers.items():
        rows = layer.out_features
        if lora.kind == "oft" and block_rows(rows, lora.rank) == 1:
            raise LiDiTError(
                f"the recipe's lora has kind=oft and rank={lora.rank}, and {name} has {rows} rows, "
                "which no number from 2 to that divides; raise the rank, or leave the layer out of "
                "lora.layers"
            )
        if lora.kind == "dora" and rows == 1:
            raise LiDiTError(
                f"the recipe's lora has kind=dora, and {name} has one row, whose columns the file "
                "cannot tell from it; leave the layer out of lora.layers"
            )


def _again(make, *tensors: Tensor) -> Tensor:
    """What is made of tensors, which alone are kept for the backward pass."""
    return checkpoint(make, *tensors, use_reentrant=False, preserve_rng_state=False)


class _HadamardLinear(torch.autograd.Function):
    """A linear map by a Hadamard product of two products, none of which is kept."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float, *factors: Tensor) -> Tensor:
        ctx.save_for_backward(x, *factors)
        ctx.scale = scale
        return F.linear(x, (scale * hadamard(*factors)).to(x.dtype))

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        (g,) = gradients
        x, a, b, c, d = ctx.saved_tensors
        first, second = ctx.scale * (a @ b), c @ d
        of_x = g @ (first * second).to(g.dtype)
        of_weight = (g.flatten(0, -2).T @ x.flatten(0, -2)).float()
        of_first, of_second = ctx.scale * (of_weight * second), of_weight * first
        return of_x, None, of_first @ b.T, a.T @ of_first, of_second @ d.T, c.T @ of_second

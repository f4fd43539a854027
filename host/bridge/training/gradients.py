"""Gradients through the host's models, whose blocks may write over what a gradient needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from comfy import model_management
from torch import nn
from torch.autograd.graph import allow_mutation_on_saved_tensors
from torch.utils._pytree import tree_flatten, tree_unflatten


class Gradients:
    """How gradients pass a model.

    Args:
        checkpointing: of each of the model's blocks its inputs alone are kept, and the block is
            computed once more for the gradient.
    """

    def __init__(self, checkpointing: bool) -> None:
        self.checkpointing = checkpointing

    @contextmanager
    def through(self, net: nn.Module) -> Iterator[None]:
        """Let gradients pass within the block; each is to be asked for in `remembered`."""
        blocks = list(blocks_of(net)) if self.checkpointing else []
        for block in blocks:
            block.forward = self._again(block.forward)
        before = model_management.in_training
        model_management.in_training = True  # the host's models then leave kernels without one
        try:
            yield
        finally:
            model_management.in_training = before
            for block in blocks:
                del block.forward

    def remembered(self) -> AbstractContextManager:
        """Hold what a pass and its gradient need: `x += y` is common in the host's blocks.

        With checkpointing each block sees to itself, and what lies between them PyTorch checks.
        """
        return nullcontext() if self.checkpointing else allow_mutation_on_saved_tensors()

    def _again(self, forward: Callable) -> Callable:
        """A block's pass of which the inputs alone are kept.

        PyTorch's own checkpoint would give a wrong gradient where a block writes into its tensors.
        """

        def passed(*args, **named):
            leaves, form = tree_flatten((args, named))
            tensors = {n: leaf for n, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)}
            learnt = torch.is_grad_enabled() and any(t.requires_grad for t in tensors.values())
            if not (learnt and self.checkpointing):
                return forward(*args, **named)

            def run(*given: torch.Tensor):
                filled = [*leaves]
                for place, tensor in zip(tensors, given):
                    filled[place] = tensor
                args, named = tree_unflatten(filled, form)
                return forward(*args, **named)

            return _Again.apply(run, *tensors.values())

        return passed


class _Again(torch.autograd.Function):
    """Computes a block without keeping anything of it, and once more for its gradient."""

    @staticmethod
    def forward(ctx: Any, run: Callable, *tensors: torch.Tensor):
        ctx.run = run
        ctx.save_for_backward(*tensors)
        return run(*(tensor.clone() for tensor in tensors))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None):
        asked, saved = ctx.needs_input_grad[1:], ctx.saved_tensors
        given = [t.detach().clone().requires_grad_(need) for t, need in zip(saved, asked)]
        with torch.enable_grad(), allow_mutation_on_saved_tensors():
            made = ctx.run(*(tensor.clone() for tensor in given))
            outputs = made if isinstance(made, tuple) else (made,)
            pairs = [
                (output, gradient)
                for output, gradient in zip(outputs, gradients)
                if gradient is not None and output is not None and output.requires_grad
            ]
            torch.autograd.backward([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        return None, *(tensor.grad for tensor in given)


def blocks_of(module: nn.Module, in_lists: bool = False) -> Iterator[nn.Module]:
    """The outermost modules below one that are no lists and no single layers.

    Args:
        in_lists: those alone that lie in a list, as a model's repeated blocks do.
    """
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential | nn.ModuleDict):
            yield from blocks_of(child)
        elif not in_lists and any(True for _ in child.children()):
            yield child

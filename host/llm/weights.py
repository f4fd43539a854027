"""An LLM's modules as the host moves them: layer by layer, cast as they are used."""

from __future__ import annotations

import functools

import comfy.ops
import torch
from torch import nn

CAST: dict[type[nn.Module], type[nn.Module]] = {
    kind: getattr(comfy.ops.manual_cast, kind.__name__) for kind in (nn.Linear, nn.LayerNorm)
}
FP8 = torch.float8_e4m3fn


def pageable(module: nn.Module) -> nn.Module:
    """The same module whose layers the host can leave on the CPU and cast when they are used.

    Modules are retyped in place to the host's own subclasses. Embeddings keep what their own class
    adds, such as Gemma's scale.
    """
    for layer in module.modules():
        if type(layer) in CAST:
            layer.__class__ = CAST[type(layer)]
        elif isinstance(layer, nn.Embedding):
            layer.__class__ = _cast_embedding(type(layer))
            layer.__dict__["bias"] = None  # the host reads it
    return module


@functools.cache
def _cast_embedding(kind: type[nn.Embedding]) -> type[nn.Embedding]:
    cast = comfy.ops.manual_cast.Embedding
    return cast if kind is nn.Embedding else type(kind.__name__, (kind, cast), {})


def move_the_rest(module: nn.Module, device: torch.device) -> None:
    """Move what the host's partial load leaves: buffers, and layers of classes it does not know.

    Those are norms and rotary frequencies, a fraction of a percent of an LLM; in a mixture of
    experts whose experts are one parameter it is most of it.
    """
    for layer in module.modules():
        if not hasattr(layer, "comfy_cast_weights"):
            layer._apply(lambda tensor: tensor.to(device), recurse=False)
            continue
        for name, buffer in layer.named_buffers(recurse=False):
            setattr(layer, name, buffer.to(device))


@torch.inference_mode(False)
@torch.no_grad()
def store_in_fp8(module: nn.Module) -> None:
    """Keep every Linear's weight in float8_e4m3fn; it is cast to the states' dtype when used."""
    limit = torch.finfo(FP8).max  # 448; larger numbers would become NaN
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = layer.weight.data.clamp(-limit, limit).to(FP8)

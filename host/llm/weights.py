"""An LLM's modules as the host moves, casts and patches them, layer by layer."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import comfy.model_patcher
import comfy.ops
import torch
from torch import nn

from ..node_notes import note
from ..patching.names import WeightPlace

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


def names_of_attention(llm: nn.Module) -> dict[str, WeightPlace]:
    """An LLM's attentions by the names of a CLIP's: the map behind, and parts of one in front."""
    places: dict[str, WeightPlace] = {}
    weights = llm.state_dict(prefix="transformer.")
    for name, weight in weights.items():
        if ".self_attn.o_proj." in name:
            places[name.replace(".o_proj.", ".out_proj.")] = name, None
        if ".self_attn.qkv_proj." in name:
            queries = weights[f"{_above(name)}.o_proj.weight"].shape[1]
            rest = (len(weight) - queries) // 2
            begins = {"q": (0, queries), "k": (queries, rest), "v": (queries + rest, rest)}
            for part, (begin, length) in begins.items():
                places[name.replace(".qkv_proj.", f".{part}_proj.")] = name, (0, begin, length)
    return places


def tell_normed(patcher: comfy.model_patcher.ModelPatcher, llm: str) -> None:
    """Tell of maps that a node multiplies and that a norm follows, which takes the size away.

    Args:
        llm: its name, for the sentence.
    """
    found = {
        name.split(".")[-2]
        for name, patches in patcher.patches.items()
        if ".self_attn." in name and _is_normed(patcher.model, name) and _multiply(patches)
    }
    if found:
        note(
            f"a node multiplies {' and '.join(sorted(found))} in the attention of {llm}, which has "
            "no effect: a norm follows there; take it out, or write a weight into the prompt, as "
            "(word:1.3), and switch on emphasis in LI-DiT Text Encode"
        )


def _multiply(patches: Iterable[tuple]) -> bool:
    return any(given == (None,) and kept != 1 for _, given, kept, *_ in patches)


def _is_normed(model: nn.Module, name: str) -> bool:
    attention, part = _above(name), name.split(".")[-2]
    if part in ("q_proj", "k_proj"):
        return hasattr(model.get_submodule(attention), f"{part[0]}_norm")
    return hasattr(model.get_submodule(_above(attention, 1)), "pre_feedforward_layernorm")


def _above(name: str, levels: int = 2) -> str:
    return name.rsplit(".", levels)[0]

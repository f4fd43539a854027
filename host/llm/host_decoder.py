"""The decoder of a text encoder of the host, run block by block as transformers runs its own."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from comfy.ldm.common_dit import rms_norm
from comfy.ldm.modules.attention import optimized_attention_for_device
from comfy.text_encoders import llama
from torch import Tensor, nn

from ...lidit_core.errors import LiDiTError, check
from ...lidit_core.llm.compat import cached_layers
from ...lidit_core.llm.storage import by_block, class_of

HostModule = Any  # a module of the host, whose classes differ from release to release

BLOCKS = (llama.TransformerBlock, llama.TransformerBlockGemma2)
RUN_ALIKE = ("llama", "gemma3")  # the host's `transformer_type`
FP8S = torch.float8_e4m3fn, torch.float8_e5m2
SAMPLED = 16  # numbers of each matrix
LARGEST = 1e5  # of a token's root mean square; an LLM's is below 1e3, of lost scales above 1e6


def text_models(clip_model: nn.Module) -> Iterator[tuple[str, HostModule]]:
    """Every text model that a CLIP holds whose decoder is a list of blocks, by its name there."""
    for name, module in clip_model.named_modules():
        transformer = getattr(module, "transformer", None)
        if isinstance(getattr(transformer, "model", None), llama.Llama2_):
            yield name, transformer


def stored_blocks(model: HostModule) -> list[str]:
    """The class of numbers in which each block of the host's is stored."""
    matrices = model.named_parameters()
    return by_block((name, weight.shape, class_of(_kind(weight))) for name, weight in matrices)


def _kind(weight: Tensor) -> str:
    """A dtype, or how the host or a pack for GGUF files has packed the weight.

    Of 8 bits without scales the host may have made 16 at the load; all are numbers of 8 bits still.
    """
    packed = getattr(weight, "tensor_type", None)
    if named := getattr(weight, "_layout_cls", None) or getattr(packed, "name", ""):
        return named
    if weight.itemsize < 2 or weight.ndim < 2:
        return str(weight.dtype).removeprefix("torch.")
    few = weight[:4].detach().float()
    unpacked = (kind for kind in FP8S if few.any() and torch.equal(few.to(kind).float(), few))
    return next(map(str, unpacked), "F32").removeprefix("torch.")


class HostBlock(nn.Module):
    """One block of the host's, as `text/differences.py` reads blocks; it leaves its input alone."""

    whole: HostModule
    self_attn: HostModule

    def __init__(self, block: HostModule):
        super().__init__()
        self.self_attn = block.self_attn
        object.__setattr__(self, "whole", block)  # no second path to its weights
        self.gives_keys = "past_key_value" in inspect.signature(block.forward).parameters

    def forward(self, x: Tensor, **options) -> tuple[Tensor, object]:
        """States (B, L, C) after the block, and its keys and values where the host gives them."""
        x = x.clone()  # newer hosts write the output over the input
        if self.gives_keys:
            return self.whole(x, **options)
        hook = self.self_attn.register_forward_hook(_states_alone)
        try:
            return self.whole(x, **options), None
        finally:
            hook.remove()


def _states_alone(module: nn.Module, args: tuple, out) -> Tensor:
    """An attention's output for older hosts, where what takes its place gives a pair."""
    return out[0] if isinstance(out, tuple) else out


class HostDecoder(nn.Module):
    """The first blocks of a decoder of the host's, called as one of transformers is.

    It holds no weights of its own. Texts of a batch are padded on the right.
    """

    host: HostModule
    norms: list[HostModule]
    layers: HostModule  # a ModuleList of HostBlocks

    def __init__(self, model: HostModule, kept: int, label: str):
        super().__init__()
        _check_runs_alike(model, label)
        _check_filled([model.embed_tokens, *model.layers[:kept]], label)
        self.layers = nn.ModuleList(HostBlock(block) for block in model.layers[:kept])
        object.__setattr__(self, "host", model)
        self.label = label
        self.windows = [_window(block, model.config) for block in model.layers[:kept]]
        modules = [module for block in model.layers[:kept] for module in block.modules()]
        object.__setattr__(self, "norms", [m for m in modules if getattr(m, "add", False) is True])
        self.reuses = self.layers[0].gives_keys
        # the longest text that may be read on top of a cache: the host's windows count from there
        self.longest_reuse = min((w for w in self.windows if w), default=1 << 30) * self.reuses
        own = model.config
        self.config = SimpleNamespace(
            model_type=label,
            num_hidden_layers=kept,
            hidden_size=own.hidden_size,
            intermediate_size=own.intermediate_size,
            num_attention_heads=own.num_attention_heads,
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        past_key_values=None,
        **_,
    ) -> SimpleNamespace:
        """States (B, L, C) float32 of ids after what the cache holds; the cache is extended.

        Args:
            attention_mask: (B, past + L), 0 for padding.
            past_key_values: a cache of transformers' own, or None.
        """
        length = input_ids.shape[1]
        past = attention_mask.shape[1] - length
        known = cached_layers(past_key_values) if past_key_values is not None else []
        x = self._embedded(input_ids)
        fixed = {
            "freqs_cis": self._rotations(past, length, x.device),
            "optimized_attention": optimized_attention_for_device(x.device, True, True),
        }
        masks = {window: _mask(attention_mask, past, x, window) for window in set(self.windows)}
        states = [x]
        with exact_norms(self.norms):
            for number, (block, window) in enumerate(zip(self.layers, self.windows)):
                options = {"attention_mask": masks[window], **fixed}
                if past_key_values is not None:
                    options["past_key_value"] = _as_the_host(known[number : number + 1])
                x, present = block(x, **options)
                if past_key_values is not None:
                    new = (tensor[:, :, past : past + length] for tensor in present[:2])
                    past_key_values.update(*new, number)
                states.append(x)
        self._check_size(x)
        return SimpleNamespace(last_hidden_state=x, hidden_states=states)

    def _embedded(self, ids: Tensor) -> Tensor:
        x = self.host.embed_tokens(ids, out_dtype=torch.float32)
        return x * self.host.config.hidden_size**0.5 if self._scales_after() else x

    def _scales_after(self) -> bool:
        """Whether this release of the host scales Gemma's embeddings outside of their module."""
        return getattr(self.host, "normalize_in", False)

    def _rotations(self, past: int, length: int, device: torch.device):
        """Cosines and sines of the positions from `past` on, as the host's blocks take them."""
        positions = torch.arange(past, past + length, device=device)[None]
        if hasattr(self.host, "compute_freqs_cis"):
            return self.host.compute_freqs_cis(positions, device)
        own = self.host.config
        return llama.precompute_freqs_cis(
            own.head_dim, positions, own.rope_theta, own.rope_scale, own.rope_dims, device=device
        )

    def _check_size(self, x: Tensor) -> None:
        """Refuse states that no LLM has: what the host loads wrongly shows there."""
        size = float(x.float().pow(2).mean(-1).sqrt().median())
        if not 0 < size < LARGEST:  # nor NaN
            raise LiDiTError(
                f"the states of this {self.label} are of size {size:.3g}; expected above 0 and "
                f"below {LARGEST:.0e}: its file lacks tensors or the scales of its 8-bit weights "
                "(ComfyUI's log at the load may say which), so download another one"
            )


def _as_the_host(known: list[tuple[Tensor, Tensor]]) -> tuple | list:
    """A block's keys and values, each (B, heads, L, head width), and how many those are."""
    return (*known[0], known[0][0].shape[2]) if known else []


@contextlib.contextmanager
def exact_norms(norms: list[HostModule]) -> Iterator[None]:
    """Have Gemma's norms add 1 to their weights in float32 meanwhile, as transformers does.

    The host adds it in the weights' dtype: in bfloat16 that changed states by 1e-2.
    """
    for norm in norms:
        norm.forward = functools.partial(_exact_norm, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _exact_norm(norm: HostModule, x: Tensor) -> Tensor:
    weight = norm.weight.to(x.device, torch.float32)
    return rms_norm(x, weight + 1.0, norm.eps)


def _check_runs_alike(model: HostModule, label: str) -> None:
    blocks = all(type(block) in BLOCKS for block in model.layers)
    check(
        blocks and model.config.transformer_type in RUN_ALIKE and type(model) is llama.Llama2_,
        f"a node has changed how this {label} runs ({type(model).__name__} of "
        f"{type(model.layers[0]).__name__}); connect the CLIP as its loader gives it",
    )


def _check_filled(parts: list[nn.Module], label: str) -> None:
    """Refuse weights that are all 0 or not finite: those that the host did not find in its file.

    A few numbers of each matrix are looked at; those of quantised ones are not numbers.
    """
    for part in parts:
        for name, weight in part.named_parameters():
            plain = type(weight) is nn.Parameter and weight.is_floating_point()
            if plain and weight.ndim == 2 and weight.is_contiguous() and not weight.is_meta:
                step = max(weight.numel() // SAMPLED, 1)
                few = weight.detach().view(-1)[::step].float()
                check(
                    bool(few.isfinite().all() and few.any()),
                    f"{name} of a block of this {label} is all 0 or not finite; ComfyUI did not "
                    "find it in the file (see its log at the load), so download another one",
                )


def _window(block: HostModule, config) -> int:
    """How many tokens a block sees, itself included; 0 = all.

    Told by its rope: older hosts have the lengths of the windows at the other blocks.
    """
    lengths, bases = getattr(config, "sliding_attention", None), config.rope_theta
    if not lengths or not isinstance(bases, list):
        return 0
    base = bases[1 if block.sliding_attention else 0]
    return max(lengths) if base == min(bases) else 0


def _mask(seen: Tensor, past: int, x: Tensor, window: int) -> Tensor:
    """What is added to attention scores, (B, 1, L, past + L)."""
    keys = torch.arange(seen.shape[1], device=seen.device)
    queries = keys[past:, None]
    allowed = keys <= queries
    if window:
        allowed = allowed & (keys > queries - window)
    allowed = allowed[None, None] & seen.bool()[:, None, None]
    lowest = torch.finfo(x.dtype).min / 4  # some rows have several reasons, which the host adds up
    return torch.zeros(allowed.shape, dtype=x.dtype, device=x.device).masked_fill(~allowed, lowest)

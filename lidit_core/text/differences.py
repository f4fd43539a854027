"""Block differences of an LLM: what its blocks add to a token because of those that it sees.

LLMDiff (Dong et al., ACM Multimedia 2024, arXiv 2502.04412) reads every block as one denoising
step. With x_0 the embeddings as they enter block 1 and x_l the residual stream after block l,

    u_l = block_l(x_{l-1}, in context) - x_{l-1}
    v_l = block_l(x_{l-1}, each token attending to itself alone) - x_{l-1}
    delta_l = u_l - v_l

A decoder's token sees those before it, an encoder's the whole text. A decoder's second pass needs
no attention: over one token its weight is 1, so it is the value projection, then the output
projection. Norms, residuals and the feed-forward are the block's own in both passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from ..errors import LiDiTError
from ..llm.compat import only_attention
from ..llm.decoder.build import DecoderConfig, decoder_blocks
from ..llm.encoders import is_encoder
from .outputs import first_tensor

SelfPass = Callable[[nn.Module, Tensor, dict], Tensor]  # block, x (B, L, C), its keywords -> x

ATTENTION_NAMES = ("self_attn", "self_attention", "attention", "attn")  # of a block's part
CACHE_NAMES = ("cache", "past_key_values", "past_key_value", "layer_past")  # a block's keywords
PLAIN_PARTS = {  # of an attention that is its value and output projections where it sees one token
    *("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "v_norm", "rotary_emb"),
    *("q_norm", "k_norm", "q_layernorm", "k_layernorm", "qk_norm"),
}


def difference_states(
    module: nn.Module, run: Callable[[], object], self_pass: SelfPass | None = None
) -> Tensor:
    """Call `run`, which runs the LLM once: x_0, delta_1 to delta_T of its tokens, side by side.

    Returns (B, L, (T + 1) x C) in the LLM's dtype; each difference is taken in float32. A token
    that sees itself alone, as a text's first in a decoder, has differences of 0.
    """
    own = encoder_pass if is_encoder(module.config) else value_pass
    recorder = _Recorder(self_pass or own)
    hooks = [b.register_forward_hook(recorder, with_kwargs=True) for b in decoder_blocks(module)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(recorder.states, dim=-1)


class _Recorder:
    """A hook on every block: runs it a second time, each token alone, and keeps the difference."""

    def __init__(self, self_pass: SelfPass):
        self.self_pass, self.states = self_pass, []
        self._inside = False  # the second run calls the hook as well

    def __call__(self, block: nn.Module, args: tuple, options: dict, out) -> None:
        if self._inside:
            return
        options, in_context = dict(options), first_tensor(out)
        x = args[0] if args else options.pop("hidden_states")
        self._inside = True
        try:
            alone = self.self_pass(block, x, options)
        finally:
            self._inside = False
        if not self.states:
            self.states.append(x.to(in_context.device))
        delta = (in_context.float() - alone.float()).to(x.dtype)
        self.states.append(delta.to(self.states[0].device))  # blocks may be on many devices


def value_pass(block: nn.Module, x: Tensor, options: dict) -> Tensor:
    """The block's output where each token attends to itself alone, without attention.

    An attention of parts that are not known runs whole, under `masked_pass`.
    """
    attention = block_attention(block)
    assert attention is not None  # `check_differences` has seen to it
    if not reduces_to_values(attention):
        return masked_pass(block, x, options)
    with _replaced_forward(attention, lambda *a, **k: (_of_one_token(attention, *a, **k), None)):
        return first_tensor(block.forward(x, **_without_cache(options)))


def masked_pass(block: nn.Module, x: Tensor, options: dict) -> Tensor:
    """The same through the block's whole attention, under a mask that is 0 on its diagonal."""
    if "attention_mask" not in options:
        raise LiDiTError(
            f"{type(block).__name__} is called without an attention_mask by name, so its tokens "
            "cannot be run alone; choose an LLM of another kind, or block 'all'"
        )
    options = {**_without_cache(options), "attention_mask": _diagonal(x)}
    return first_tensor(block.forward(x, **options))


def encoder_pass(block: nn.Module, x: Tensor, options: dict) -> Tensor:
    """The same of an encoder's block, which needs nothing but states and mask.

    T5's relative positions add one number to a token's only score, so they are left out.
    """
    return first_tensor(block.forward(x, attention_mask=_diagonal(x)))


def _diagonal(x: Tensor) -> Tensor:
    """A mask (B, 1, L, L) for states (B, L, C) that is 0 where a token sees itself."""
    length = x.shape[1]
    mask = torch.full((length, length), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device)
    return mask.fill_diagonal_(0).expand(len(x), 1, -1, -1)


def block_attention(block: nn.Module) -> nn.Module | None:
    """The block's attention; None where it has none under a known name."""
    parts = dict(block.named_children())
    return next((parts[name] for name in ATTENTION_NAMES if name in parts), None)


def check_differences(module: nn.Module, name: str) -> None:
    """Raise a LiDiTError unless every block can run each token alone."""
    if is_encoder(module.config):
        return
    attention = all(block_attention(block) is not None for block in decoder_blocks(module))
    shares = getattr(module.config, "num_kv_shared_layers", 0)  # keys of another block
    if not (attention and only_attention(module)) or shares:
        kind = cast(DecoderConfig, module.config).model_type
        raise LiDiTError(
            f"{name} is a {kind}, whose blocks are not attention to keys and "
            "values of their own, so they have no differences; choose an LLM whose are, or block "
            "'all'"
        )


def reduces_to_values(attention: nn.Module) -> bool:
    """Whether over one token it is known to be its value and output projections alone.

    Sinks are parameters of its own, gates widen the query's projection or are further parts.
    """
    parts = _parts(attention)
    if not (set(parts) <= PLAIN_PARTS and "o_proj" in parts and _gives_values(parts)):
        return False
    if next(attention.parameters(recurse=False), None) is not None or _clips(attention):
        return False
    heads = parts["o_proj"].in_features
    query = parts["q_proj"].out_features if "q_proj" in parts else heads
    width = _value_width(parts)
    head = getattr(attention, "head_dim", width + 1)
    return query == heads and heads % width == 0 and width % head == 0


class KnownLinear(Protocol):
    """A linear layer, packed or not, of an attention whose parts are all known."""

    in_features: int
    out_features: int

    def __call__(self, x: Tensor) -> Tensor: ...


def _parts(attention: nn.Module) -> dict[str, KnownLinear]:
    return cast("dict[str, KnownLinear]", dict(attention.named_children()))


def _gives_values(parts: dict[str, KnownLinear]) -> bool:
    """Whether there is a projection of values, or one of query, key and value in order (Phi-3)."""
    if "v_proj" in parts:
        return True
    return "qkv_proj" in parts and parts["qkv_proj"].out_features > parts["o_proj"].in_features


def _value_width(parts: dict[str, KnownLinear]) -> int:
    if "v_proj" in parts:
        return parts["v_proj"].out_features
    return (parts["qkv_proj"].out_features - parts["o_proj"].in_features) // 2


def _clips(attention: nn.Module) -> bool:
    return bool(getattr(getattr(attention, "config", None), "clip_qkv", None))


def _of_one_token(attention: nn.Module, hidden_states: Tensor, *_, **__) -> Tensor:
    """Attention of each token to itself: o_proj(values, repeated for their group's heads)."""
    parts = _parts(attention)
    width = _value_width(parts)
    head = cast(int, attention.head_dim)
    projection = parts["v_proj"] if "v_proj" in parts else parts["qkv_proj"]
    values = projection(hidden_states)[..., -width:].unflatten(-1, (-1, head))
    if "v_norm" in parts:
        values = parts["v_norm"](values)
    groups = parts["o_proj"].in_features // width
    return parts["o_proj"](values.repeat_interleave(groups, dim=-2).flatten(-2))


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable) -> Iterator[None]:
    """The module runs `forward`; then its own again, or accelerate's where that has wrapped it."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _without_cache(options: dict) -> dict:
    changes = {name: None for name in CACHE_NAMES} | {"use_cache": False}
    return {name: changes.get(name, value) for name, value in options.items()}

"""The patches of other nodes on the attention of LI-DiT's blocks, as the host's models offer them.

A block's self-attention is the host's ``attn1``, its cross-attention to the text ``attn2``; nodes
that multiply these find their weights by the names of a U-Net's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ...lidit_core.errors import LiDiTError, listed
from ...lidit_core.model.config import LiDiTConfig
from ..attention import attend
from ..node_notes import note
from ..patching.names import WeightPlace

OFFERED = ("attn1_patch", "attn1_output_patch", "attn2_patch", "attn2_output_patch")
BLOCK = "double_block"  # what nodes call a block of a DiT
NAG = "nag_attention_output_patch"  # the name of the host's NAGuidance's patch
HYPERNETWORK = "hypernetwork_patch"  # the same of HypernetworkLoader's class
BLOCKS = "dit"  # what nodes replace whole blocks under
REPLACED = (BLOCKS, "attn1", "attn2")  # whole blocks, and the two attentions of each
HALFWAY = ("middle", 0)  # a U-Net's middle block, which stands for ours at half depth
# what stock nodes write into the options for models of other kinds, and who reads it there
UNREAD = {
    "rope_options": "ScaleROPE moves the positions of a rotary embedding",
    "stg_self_attn_blocks": "LTXVSpatioTemporalGuidance skips attention of LTXV's blocks",
    "a2v_cross_attn": "LTXVModalityGuidance cuts LTXV's picture off from its sound",
}
UNMOVED = {"scale": 1.0, "shift": 0.0}  # of rope_options, by how their names begin

# of each attention: ours, what makes its values, and how many things with those, which are the last
PARTS = {"attn1": ("self_attn", "qkv", 3), "attn2": ("cross_attn", "kv", 2)}


def names_of_attention(config: LiDiTConfig) -> dict[str, WeightPlace]:
    """The weights of the blocks' attentions by the names of a U-Net's.

    Queries and keys are normed after their maps, so that their size is the gain of the norm.
    """
    places: dict[str, WeightPlace] = {}
    for i in range(config.depth):
        block = f"diffusion_model.blocks.{i}"
        for name, (own, values, count) in PARTS.items():
            there, ours = f"{block}.{name}", f"{block}.{own}"
            last = (0, (count - 1) * config.width, config.width)
            places[f"{there}.to_q.weight"] = f"{ours}.norm.query_norm.weight", None
            places[f"{there}.to_k.weight"] = f"{ours}.norm.key_norm.weight", None
            for kind in ("weight", "bias"):
                places[f"{there}.to_v.{kind}"] = f"{ours}.{values}.{kind}", last
                places[f"{there}.to_out.0.{kind}"] = f"{ours}.proj.{kind}", None
    return places


def check_patches(options: Mapping[str, Any], blocks: int) -> None:
    """Refuse or tell what no block of a LI-DiT would run: no node is without effect in silence.

    Args:
        blocks: how many the model has.

    Raises:
        LiDiTError: a node patched a part that only a U-Net or another DiT has.
    """
    check_hypernetworks(options.get("patches", {}))
    kinds = [kind for kind, patches in options.get("patches", {}).items() if patches]
    strange = [kind for kind in kinds if kind not in OFFERED]
    for name, places in options.get("patches_replace", {}).items():
        if name != BLOCKS:
            ours = name in REPLACED
            strange += [f"{name} at {place}" for place in places if not (ours and _is_ours(place))]
    if strange:
        raise LiDiTError(
            f"a node patches {', '.join(strange)}, which this kind of model does not have: LI-DiT "
            "is a transformer without a U-Net's blocks; take that node out"
        )
    tell_lost_places(options.get("patches_replace", {}), blocks)
    tell_unread(options)


def reads_tokens(options: Mapping[str, Any]) -> bool:
    """Whether a node reads the text's tokens in its own way, without the mask of a padded row."""
    replaced, patches = options.get("patches_replace", {}), options.get("patches", {})
    return bool(replaced.get("attn2") or patches.get("attn2_patch"))


def check_hypernetworks(patches: Mapping[str, Any]) -> None:
    """Refuse a hypernetwork, which would change whatever has the width of one of its parts.

    Raises:
        LiDiTError: one is connected, with a strength.
    """
    found = [patch for of_kind in patches.values() for patch in of_kind if is_hypernetwork(patch)]
    if any(getattr(patch, "strength", 1.0) for patch in found):
        raise LiDiTError(
            "a hypernetwork is connected, and none exists for LI-DiT: those files are for SD1.5 "
            "and its kin; take it out, or use a LoRA that was trained on this model"
        )


def is_hypernetwork(patch: Any) -> bool:
    return type(patch).__name__ == HYPERNETWORK


def tell_unread(options: Mapping[str, Any]) -> None:
    """Tell of options that only models of other kinds read."""
    for name, what in UNREAD.items():
        if name in options and not (name == "rope_options" and _is_unmoved(options[name])):
            note(f"{what}, which a LI-DiT does not have, and has no effect; take that node out")


def _is_unmoved(rope: Mapping[str, float]) -> bool:
    return all(value == UNMOVED.get(name.split("_")[0], value) for name, value in rope.items())


def tell_lost_places(replaced: Mapping[str, Any], blocks: int) -> None:
    """Tell of blocks that a node skips or replaces and that this model does not have.

    Nodes for every DiT name blocks of kinds that a model may lack; those count where no other does.
    """
    places = [place for name in REPLACED for place in replaced.get(name, {})]
    ours = [place for place in places if place == HALFWAY or _is_there(place, blocks)]
    lost = [place for place in places if place not in ours and (not ours or place[0] == BLOCK)]
    if lost:
        named = listed(f"{place[0]} {place[1]}" for place in dict.fromkeys(lost))
        note(
            f"a node skips or changes {named}, which this LI-DiT does not have, and that has no "
            f"effect; its blocks are {BLOCK} 0 to {blocks - 1}: name some of those in the node"
        )


def _is_there(place: tuple, blocks: int) -> bool:
    return place[0] == BLOCK and place[1] < blocks


def _is_ours(place: tuple) -> bool:
    return place == HALFWAY or place[:1] == (BLOCK,)


def output_patches(name: str, patches: Mapping[str, Any]) -> list[Callable]:
    """What runs on an attention's result.

    Normalized Attention Guidance holds what the image reads of the positive prompt against what it
    reads of the negative one. The host's DiTs read both in their one attention, attn1; LI-DiT reads
    text in attn2, so the patch runs there.
    """
    given = [
        (kind, p) for kind in ("attn1", "attn2") for p in patches.get(f"{kind}_output_patch", ())
    ]
    return [p for kind, p in given if name == ("attn2" if is_nag(p) else kind)]


def is_nag(patch: Callable) -> bool:
    return getattr(patch, "__name__", "") == NAG


class PatchedAttention:
    """One attention of one block."""

    def __init__(self, name: str, index: int, blocks: int, options: dict, grid: tuple) -> None:
        """Look up which patches of other nodes run in one attention of one block.

        Args:
            name: attn1 or attn2.
            index: of the block, from 0.
            blocks: how many the model has.
            options: the host's transformer options.
            grid: (B, D, rows, columns) of the image tokens.
        """
        self.options = options
        self.block = (BLOCK, index)
        replaced = options.get("patches_replace", {}).get(name, {})
        halfway = replaced.get(HALFWAY) if index == blocks // 2 else None
        self.replacement = replaced.get(self.block, halfway)
        patches = options.get("patches", {})
        self.before = patches.get(f"{name}_patch", ())
        self.after = output_patches(name, patches)
        self.grid = grid

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None
    ) -> Tensor:
        """q (B, L, D), k and v (B, K, D) -> (B, L, D)."""
        if not (self.before or self.after or self.replacement):
            return attend(q, k, v, heads, mask, self.options)
        extra = {**self.options, "n_heads": heads, "dim_head": q.shape[-1] // heads}
        extra |= {"block": self.block, "original_shape": self.grid, "attn_precision": None}
        for patch in self.before:
            q, k, v, mask = _before(patch, q, k, v, heads, mask, extra)
        if self.replacement is None:
            out = attend(q, k, v, heads, mask, self.options)
        else:
            out = self.replacement(q, k, v, extra)
        for patch in self.after:
            out = patch(out, extra)
        return out


def _before(
    patch: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None, extra: dict
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Run a patch of queries, keys and values, in the form of the host's U-Nets or of its DiTs."""
    if "pe" not in inspect.signature(patch).parameters:
        return (*patch(q, k, v, extra), mask)
    apart = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)]  # (B, heads, L, ·)
    given = dict(zip("qkv", apart, strict=True))
    changed = given | patch(**given, pe=None, attn_mask=mask, extra_options=extra)
    q, k, v = (changed[name].transpose(1, 2).flatten(2) for name in "qkv")
    return q, k, v, changed.get("attn_mask", mask)

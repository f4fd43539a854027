"""The residual of a bridge: queries, one a row, that read the refined tokens.

A query begins with what the teacher's own table says of its token, its place in its chunk, and the
chunk's number. Rows of one chunk read one another, as they do in the teacher; every chunk reads
the whole prompt. The output begins at zero, so that a new bridge is its linear base.

Shapes: B prompts, R rows, L tokens, D the width, C the teacher's, P of its pooled vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.attention import MASKED, AttentionFunction
from ..model.layers import EPS, FREQUENCIES, GELU, feed_forward, timestep_frequencies
from ..model.lists import ListOf
from .attention import OverlapBias, PlacedAttention
from .config import SEEDS, BridgeConfig
from .rows import ABSENT, KINDS, TeacherRows


@dataclass(frozen=True, eq=False)
class Refined:
    """The LLMs' tokens after their refiners, one after the other."""

    tokens: Tensor  # (B, L, D)
    bias: Tensor  # (B, 1, 1, L): 0, or `MASKED` where there is none to read
    places: Tensor  # (B, L), in characters
    shares: Tensor  # (B, R, L), of the rows' characters


@dataclass(frozen=True, eq=False)
class Predicted:
    """Standardised rows and pooled vector."""

    sequence: Tensor  # (B, R, C)
    pooled: Tensor | None  # (B, P)


class Queries(nn.Module):
    """Makes what the rows (B, R) ask with, (B, R, D), and one more for the whole prompt."""

    seeds: Tensor

    def __init__(self, config: BridgeConfig, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        layer = {"dtype": dtype, "device": device}
        width, ids = config.width, config.teacher.vocabulary
        self.seeded = config.seeds
        if config.seeds == "pca":
            seeds = torch.zeros(ids, SEEDS, dtype=torch.bfloat16, device=device)
            self.register_buffer("seeds", seeds)
        elif config.seeds == "trained":
            self.table = operations.Embedding(ids, SEEDS, **layer)
        self.seed = operations.Linear(SEEDS, width, **layer)
        self.place = operations.Linear(FREQUENCIES, width, **layer)
        self.chunk = operations.Linear(FREQUENCIES, width, **layer)
        self.kind = operations.Embedding(KINDS + 1, width, **layer)

    def forward(self, rows: TeacherRows, dtype: torch.dtype) -> Tensor:
        places = self.place(timestep_frequencies(rows.places.flatten()).to(dtype))
        chunks = self.chunk(timestep_frequencies(rows.chunks.flatten()).to(dtype))
        kinds = self.kind(rows.kinds.clamp(min=0)).to(dtype)
        x = (places + chunks).unflatten(0, rows.ids.shape) + kinds
        if self.seeded != "none":
            table = self.seeds[rows.ids] if self.seeded == "pca" else self.table(rows.ids)
            x = x + self.seed(table.to(dtype))
        whole = self.kind.weight[KINDS].to(dtype).expand(len(x), 1, -1)
        return torch.cat([x, whole], dim=1)


class ResamplerBlock(nn.Module):
    """Rows read one another, then the tokens, then an FFN."""

    def __init__(self, config: BridgeConfig, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        width, heads = config.width, config.heads
        norms = [operations.LayerNorm(width, eps=EPS, dtype=dtype, device=device) for _ in "123"]
        self.norm1, self.norm2, self.norm3 = norms
        self.self_attn = PlacedAttention(width, heads, **layer)
        self.cross_attn = PlacedAttention(width, heads, **layer)
        self.overlap = OverlapBias(heads, dtype, device) if config.overlap else None
        self.mlp = feed_forward(width, GELU(), **layer)

    def forward(
        self,
        x: Tensor,
        refined: Refined,
        places: Tensor,
        within: Tensor,
        attention: AttentionFunction,
    ) -> Tensor:
        """Update the rows x (B, R, D) by self-attention, cross-attention and FFN, each a residual.

        Args:
            places: of the rows (B, R), in characters of the prompt.
            within: the bias (B, 1, R, R) by which rows read those of their own chunk.
        """
        own = self.norm1(x)
        x = x + self.self_attn(own, own, (places, places), attention, within)
        mask = refined.bias
        if self.overlap is not None:
            mask = mask + self.overlap(refined.shares).to(mask.dtype)
        where = (places, refined.places)
        x = x + self.cross_attn(self.norm2(x), refined.tokens, where, attention, mask)
        return x + self.mlp(self.norm3(x))


class Resampler(nn.Module):
    """Queries, blocks and the two maps that begin at zero."""

    def __init__(self, config: BridgeConfig, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        bare = {"dtype": dtype, "device": device}
        self.queries = Queries(config, **layer)
        self.blocks = ListOf(ResamplerBlock(config, **layer) for _ in range(config.blocks))
        self.norm = operations.LayerNorm(config.width, eps=EPS, **bare)
        self.out = operations.Linear(config.width, config.teacher.width, **bare)
        self.out_pooled = None
        if config.teacher.pooled:
            self.out_pooled = operations.Linear(config.width, config.teacher.pooled, **bare)

    def forward(
        self, refined: Refined, rows: TeacherRows, attention: AttentionFunction
    ) -> Predicted:
        places = F.pad(rows.spans.mean(-1), (0, 1))
        shares = F.pad(refined.shares, (0, 0, 0, 1))
        refined = Refined(refined.tokens, refined.bias, refined.places, shares)
        x, within = self.queries(rows, refined.tokens.dtype), _within(rows).to(refined.bias.dtype)
        for block in self.blocks:
            x = block(x, refined, places, within, attention)
        x = self.norm(x)
        pooled = None if self.out_pooled is None else self.out_pooled(x[:, -1])
        return Predicted(self.out(x[:, :-1]), pooled)


def _within(rows: TeacherRows) -> Tensor:
    """The bias that lets rows read their chunk, and the last one all: (B, 1, R + 1, R + 1)."""
    chunks = F.pad(rows.chunks.masked_fill(rows.kinds == ABSENT, -1), (0, 1), value=-2)
    apart = chunks[:, :, None] != chunks[:, None, :]
    apart[:, -1, :-1] = rows.kinds == ABSENT
    return apart[:, None] * MASKED

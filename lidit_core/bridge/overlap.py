"""The overlap of an LLM's tokens and a teacher's rows in characters of the prompt.

Shapes: B prompts, R rows, L tokens, C the LLM's width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import without_autocast
from .rows import TEXT, StudentTokens, TeacherRows


def shares(rows: TeacherRows, tokens: StudentTokens) -> Tensor:
    """The share of a row's characters that lies in each token, (B, R, L) in [0, 1]."""
    first = torch.maximum(rows.spans[:, :, None, 0], tokens.spans[:, None, :, 0])
    last = torch.minimum(rows.spans[:, :, None, 1], tokens.spans[:, None, :, 1])
    length = (rows.spans[..., 1] - rows.spans[..., 0]).clamp(min=1)[..., None]
    return (last - first).clamp(min=0) / length * tokens.kept[:, None]


def means(rows: TeacherRows, tokens: StudentTokens) -> Tensor:
    """The mean of the states that share characters with a row, by how many they share, (B, R, C).

    A row that is no text, or shares no character with a token, takes the mean of all.
    """
    weights = shares(rows, tokens)
    total = weights.sum(-1, keepdim=True)
    text = (rows.kinds == TEXT)[..., None] & (total > 0)
    everywhere = tokens.kept.float() / tokens.kept.sum(-1, keepdim=True).clamp(min=1)
    weights = torch.where(text, weights / total.clamp(min=1e-6), everywhere[:, None])
    with without_autocast(weights.device):
        return weights @ tokens.states.hidden.float()

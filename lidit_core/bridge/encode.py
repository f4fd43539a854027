"""From what the LLMs make of a prompt to the conditioning that the teacher would have given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..io.conditioning import Entry
from .base import LinearBase
from .file import LoadedBridge
from .resampler import Predicted
from .rows import PADDING_ROW, StudentTokens, TeacherRows, stack_rows

POOLED, MASK = "pooled_output", "attention_mask"  # what hosts call them


@torch.no_grad()
def conditioning(loaded: LoadedBridge, prompt: str, students: Sequence[StudentTokens]) -> Entry:
    """The entry of one prompt, on the device of the bridge.

    The empty prompt's is the teacher's own, bit for bit. What else that had beside its sequence,
    of which nothing depends on the prompt, every prompt has.

    Args:
        students: what each LLM makes of the prompt, a batch of one.
    """
    device = loaded.bridge.base.mean.device
    if not prompt:
        return _on(loaded.empty, device)
    rows = stack_rows([loaded.rows(prompt)]).to(device)
    predicted = loaded.bridge([tokens.to(device) for tokens in students], rows)
    sequence, values = restored(loaded.bridge.base, predicted, rows)
    kept, own = loaded.empty
    beside = {**own}
    if values is not None:
        beside[POOLED] = values.to(own[POOLED].dtype)
    if MASK in own:
        beside[MASK] = (rows.kinds != PADDING_ROW).to(own[MASK].dtype)
    return _on((sequence.to(kept.dtype), beside), device)


def restored(
    base: LinearBase, predicted: Predicted, rows: TeacherRows
) -> tuple[Tensor, Tensor | None]:
    """Rows (B, R, C) and pooled vector (B, P) as the teacher writes them; some are constants."""
    still = base.constants[rows.constants.clamp(min=0)]
    sequence = torch.where(base.is_fixed(rows)[..., None], still, predicted.sequence)
    pooled = predicted.pooled
    if pooled is not None:
        pooled = pooled * base.pooled_deviation + base.pooled_mean
    return base.restored(sequence), pooled


def _on(entry: Entry, device) -> Entry:
    sequence, values = entry
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()}
    return sequence.to(device), moved

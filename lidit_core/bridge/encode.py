"""From what the LLMs make of a prompt to the conditioning that the teacher would have given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..io.conditioning import Entry
from ..text.emphasis import EmphasisedPrompt, token_weight
from .base import LinearBase
from .file import LoadedBridge
from .resampler import Predicted
from .rows import PADDING_ROW, TEXT, StudentTokens, TeacherRows, stack_rows

POOLED, MASK = "pooled_output", "attention_mask"  # what hosts call them


@torch.no_grad()
def conditioning(
    loaded: LoadedBridge, prompt: str | EmphasisedPrompt, students: Sequence[StudentTokens]
) -> Entry:
    """The entry of one prompt, on the device of the bridge.

    The empty prompt's is the teacher's own, bit for bit, and that of blanks that the teacher does
    not read. What else that had beside its sequence, of which nothing depends on the prompt, every
    prompt has. A word's weight draws its rows away from the empty prompt's, or towards them, as
    ComfyUI has it: (row - empty) * weight + empty.

    Args:
        students: what each LLM makes of the prompt without its marks, a batch of one.
    """
    device = loaded.bridge.base.mean.device
    read = prompt if isinstance(prompt, EmphasisedPrompt) else EmphasisedPrompt(prompt)
    if loaded.is_empty(read.text):
        return _on(loaded.empty, device)
    made = loaded.rows(read.text)
    rows = stack_rows([made]).to(device)
    predicted = loaded.bridge([tokens.to(device) for tokens in students], rows)
    sequence, values = restored(loaded.bridge.base, predicted, rows)
    kept, own = loaded.empty
    if not read.plain:
        sequence = _emphasised(sequence, _empty_rows(loaded, made).to(device), made, read)
    beside = {**own}
    if values is not None:
        beside[POOLED] = values.to(own[POOLED].dtype)
    if MASK in own:
        beside[MASK] = (rows.kinds != PADDING_ROW).to(own[MASK].dtype)
    return _on((sequence.to(kept.dtype), beside), device)


def _emphasised(
    sequence: Tensor, empty: Tensor, rows: TeacherRows, read: EmphasisedPrompt
) -> Tensor:
    """The rows (1, R, C) with the weights of their characters; those of 1 keep their bits."""
    spans, text = rows.spans.int().tolist(), (rows.kinds == TEXT).tolist()
    weights = [token_weight(read, *span) if own else 1.0 for span, own in zip(spans, text)]
    factor = torch.tensor(weights, dtype=sequence.dtype, device=sequence.device)[:, None]
    return torch.where(factor == 1, sequence, (sequence - empty) * factor + empty)


def _empty_rows(loaded: LoadedBridge, rows: TeacherRows) -> Tensor:
    """(R, C): the empty prompt's row of each place in a chunk; beyond its last the mean row."""
    kept = loaded.empty[0][0].float().to(loaded.bridge.base.mean.device)
    whole = torch.cat([kept, loaded.bridge.base.mean[None]])
    return whole[rows.places.clamp(max=len(kept)).to(whole.device)]


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

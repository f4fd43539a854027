"""Encodes prompts through a bridge: LLM states in, the conditioning that its teacher writes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import check
from ..io.conditioning import Entry
from ..text.emphasis import EmphasisedPrompt, token_weight
from .base import LinearBase
from .file import LoadedBridge
from .resampler import Predicted
from .rows import PADDING_ROW, TEXT, OwnRows, StudentTokens, TeacherRows, stack_rows

POOLED, MASK = "pooled_output", "attention_mask"  # what hosts call them


@dataclass(frozen=True)
class OwnEntry:
    """What the checkpoint's own encoder makes of a prompt, which a bridge may add to."""

    entry: Entry  # with the weights of words
    plain: Entry  # of the same tokens without them, as the bridge learnt


def with_added(
    loaded: LoadedBridge,
    prompt: str | EmphasisedPrompt,
    students: Sequence[StudentTokens],
    own: OwnEntry,
    strength: float = 1.0,
) -> Entry:
    """The encoder's entry of one prompt with what a bridge adds, with gradients to its weights.

    What it adds nothing to keeps its bits. The mask and all else beside the sequence and the pooled
    vector are the encoder's own, and of the empty prompt everything. What is added to a word's rows
    has the word's weight.

    Args:
        students: what each LLM makes of the prompt without its marks, a batch of one.
        strength: what is added is multiplied by it.
    Raises:
        LiDiTError: the encoder wrote other rows than those that the bridge adds to.
    """
    base = loaded.bridge.base
    read = prompt if isinstance(prompt, EmphasisedPrompt) else EmphasisedPrompt(prompt)
    if loaded.is_empty(read.text):
        return own.entry
    made, device = loaded.rows(read.text, read.pieces), base.mean.device
    rows = stack_rows([made])
    counts = [entry[0].shape[1] for entry in (own.entry, own.plain)]
    check(
        counts[0] == counts[1],
        f"the encoder made {counts[0]} rows of this prompt with weights and {counts[1]} without, "
        "so that what is added has no place; write the prompt without weights",
    )
    given = _own_rows(loaded, own.plain, rows).to(device)
    out = loaded.bridge.added([tokens.to(device) for tokens in students], rows.to(device), given)
    step = strength * base.of(base.deviation, rows.to(device)) * out.sequence
    if not read.plain:
        step = step * _weights(made, read).to(step.device)
    sequence, values = own.entry
    beside = dict(values)
    if out.pooled is not None:
        beside[POOLED] = _plus(values[POOLED], strength * base.pooled_deviation * out.pooled)
    return _plus(sequence, step), beside


added = torch.no_grad()(with_added)  # to draw from


def _own_rows(loaded: LoadedBridge, entry: Entry, rows: TeacherRows) -> OwnRows:
    """What an encoder wrote as the bridge reads it."""
    spec = loaded.bridge.config.teacher
    sequence, pooled = entry[0], entry[1].get(POOLED)
    found = sequence.shape[-1], 0 if pooled is None else pooled.shape[-1]
    check(
        sequence.ndim == 3 and found == (spec.width, spec.pooled),
        f"the encoder wrote rows of {found[0]} and a pooled vector of {found[1]}, and the bridge "
        f"adds to those of {spec.name}, {spec.width} and {spec.pooled}; connect the text encoder "
        "that the bridge was trained for",
    )
    check(
        sequence.shape[:2] == rows.ids.shape,
        f"the encoder made {sequence.shape[1]} rows of this prompt, and the bridge adds to "
        f"{rows.ids.shape[1]}, as the encoder read more in it than plain text, or is another; "
        "leave out embeddings and options of its tokenizer, or connect the text encoder that the "
        "bridge was trained for",
    )
    kept = None if pooled is None else pooled.cpu().float()
    return OwnRows.of(sequence.cpu().float(), kept, rows, spec.masked)


def _plus(own: Tensor, step: Tensor) -> Tensor:
    """A sum in the encoder's precision and place; where nothing is added its bits.

    With gradients it is the sum alone: where 0 is added the bridge is still to learn.
    """
    step = step.to(own.device)
    if step.requires_grad:
        return (own.float() + step).to(own.dtype)
    return torch.where(step == 0, own, (own.float() + step).to(own.dtype))


def written(
    loaded: LoadedBridge, prompt: str | EmphasisedPrompt, students: Sequence[StudentTokens]
) -> Entry:
    """The entry of one prompt, on the device of the bridge, with gradients to its weights.

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
    made = loaded.rows(read.text, read.pieces)
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


conditioning = torch.no_grad()(written)  # to draw from


def _emphasised(
    sequence: Tensor, empty: Tensor, rows: TeacherRows, read: EmphasisedPrompt
) -> Tensor:
    """The rows (1, R, C) with the weights of their characters; those of 1 keep their bits."""
    factor = _weights(rows, read).to(sequence)
    return torch.where(factor == 1, sequence, (sequence - empty) * factor + empty)


def _weights(rows: TeacherRows, read: EmphasisedPrompt) -> Tensor:
    """The weight of each row's characters, (R, 1); 1 of rows that are no text."""
    spans, text = rows.spans.int().tolist(), (rows.kinds == TEXT).tolist()
    weights = [token_weight(read, *span) if own else 1.0 for span, own in zip(spans, text)]
    return torch.tensor(weights)[:, None]


def _empty_rows(loaded: LoadedBridge, rows: TeacherRows) -> Tensor:
    """The empty prompt's row of each place in a chunk, (R, C); beyond its last the mean row."""
    base = loaded.bridge.base
    kept, means = loaded.empty[0][0].float(), base.mean.cpu().reshape(base.parts, -1)
    found, of_empty = torch.empty(len(rows.ids), kept.shape[-1]), loaded.rows("").parts
    for part, maker in enumerate(loaded.rows.makers):
        whole = torch.cat([kept[of_empty == part].cpu(), means[part : part + 1]])
        ours, last = rows.parts == part, len(whole) - 1
        places = rows.places[ours] - maker.layout.dropped
        found[ours] = whole[places.where(places >= 0, last).clamp(max=last)]
    return found


def restored(
    base: LinearBase, predicted: Predicted, rows: TeacherRows
) -> tuple[Tensor, Tensor | None]:
    """Rows (B, R, C) and pooled vector (B, P) as the teacher writes them; some are constants.

    Those of a bridge that adds to an encoder are what that wrote, and so already there.
    """
    sequence = predicted.sequence
    if not base.adds:
        still = base.constants[rows.constants.clamp(min=0)]
        sequence = torch.where(base.is_fixed(rows)[..., None], still, sequence)
    pooled = predicted.pooled
    if pooled is not None:
        pooled = pooled * base.pooled_deviation + base.pooled_mean
    return base.restored(sequence, rows), pooled


def _on(entry: Entry, device) -> Entry:
    sequence, values = entry
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()}
    return sequence.to(device), moved

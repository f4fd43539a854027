"""The linear base that a run begins with, from two passes over the prompts that are learnt from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lidit_core.bridge.base import LinearBase
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.ridge import Statistics, Sums, floored, solve
from lidit_core.bridge.rows import PADDING_ROW, SPECIAL, TEXT, TeacherRows

from ..whitening import SAMPLE, whiten_entry
from .batches import BridgeBatch, PreparedBridge
from .input import RecordedPrompts

log = logging.getLogger(__name__)

CHUNK = 64  # prompts at once


def begin_bridge(ready: PreparedBridge, seed: int, whitened: bool) -> Bridge:
    """A bridge whose residual adds nothing yet.

    Args:
        whitened: the refiners' maps from LLM states start so that their outputs vary alike.
    """
    torch.manual_seed(seed)
    bridge = Bridge(ready.config).initialise()
    if ready.config.residual == "attention" and ready.config.seeds == "pca":
        bridge.resampler.queries.seeds.copy_(ready.prompts.written.seeds)
    fit_base(bridge.base, ready)
    if whitened and ready.config.residual == "attention":
        spread = ready.learnt[:: max(1, len(ready.learnt) // SAMPLE)]
        read = ready.batch(spread[:SAMPLE])
        for refiner, tokens in zip(bridge.reader.linguistic, read.students):
            whiten_entry(refiner, tokens.states)
    return bridge


@torch.no_grad()
def fit_base(base: LinearBase, ready: PreparedBridge) -> None:
    """Set all of a base: what is standard, and ridge."""
    _standardise(base, ready)
    if ready.config.add:
        return  # what the encoder wrote is the base
    log.info("ridge: what is standard is known; %d prompts are summed", len(ready.learnt))
    text, special, pooled = _solved(base, ready)
    base.text.copy_(text.weight)
    base.text_bias.copy_(text.constants[0])
    base.special.copy_(special.weight)
    known = base.fixed > 0
    base.constants.copy_(special.constants.where(~known[:, None], base.constants))
    if pooled is not None:
        base.pooled.copy_(pooled.weight)
        base.pooled_bias.copy_(pooled.constants[0])


def _batches(ready: PreparedBridge, numbers: Sequence[int]) -> Iterator[BridgeBatch]:
    """All these prompts, those of like length together."""
    texts = ready.prompts.texts
    ordered = sorted(numbers, key=lambda n: (len(texts[n]), n))
    for first in range(0, len(ordered), CHUNK):
        yield ready.batch(ordered[first : first + CHUNK])


def attended(rows: TeacherRows, prompts: RecordedPrompts) -> Tensor:
    """(B, R) bool: rows that the model reads; a mask in the conditioning leaves out padding."""
    if prompts.teacher.spec.masked:
        return rows.seen & (rows.kinds != PADDING_ROW)
    return rows.seen


def _standardise(base: LinearBase, ready: PreparedBridge) -> None:
    spec = ready.config.teacher
    groups = spec.layout.constants + 1  # the last is text
    read = Statistics(ready.config.state_width, 1)
    rows = Statistics(spec.width, groups)
    pooled = Statistics(max(spec.pooled, 1), 1)
    for batch in _batches(ready, ready.learnt):
        assert batch.rows is not None
        kept = attended(batch.rows, ready.prompts)
        if not ready.config.add:
            means = Bridge.entered_means(batch.students, batch.rows)[:, :-1][kept]
            read.add(means, torch.zeros(len(means), dtype=torch.int64))
        rows.add(batch.x[kept], batch.rows.constants[kept] % groups)
        if batch.pooled is not None:
            pooled.add(batch.pooled, torch.zeros(len(batch.pooled), dtype=torch.int64))
    every = torch.tensor([0])
    if not ready.config.add:
        base.mean_in.copy_(read.mean)
        base.deviation_in.copy_(floored(read.deviation(every)))
    still = rows.still()
    still[-1] = False
    varying = (~still & (rows.count > 0)).nonzero().flatten()
    count = rows.count[varying].sum().clamp(min=1)
    base.mean.copy_(rows.sum[varying].sum(0) / count)
    base.deviation.copy_(floored(rows.deviation(varying), spec.taps))
    base.fixed.copy_(still[:-1].float())
    if not ready.config.add:
        base.constants.copy_(base.standardised(rows.means[:-1]) * still[:-1, None])
    if spec.pooled:
        base.pooled_mean.copy_(pooled.mean)
        base.pooled_deviation.copy_(floored(pooled.deviation(every)))


def _solved(base: LinearBase, ready: PreparedBridge):
    """The ridges of text rows, of other rows, and of the pooled vector."""
    learnt, held_out = (_sums(base, ready, numbers) for numbers in (ready.learnt, ready.held_out))
    text, special, pooled = (solve(ours, theirs) for ours, theirs in zip(learnt, held_out))
    return text, special, pooled if ready.config.teacher.pooled else None


def _sums(base: LinearBase, ready: PreparedBridge, numbers: Sequence[int]) -> tuple[Sums, ...]:
    spec, read = ready.config.teacher, ready.config.state_width
    text, special = Sums(read, spec.width, 1), Sums(read, spec.width, spec.layout.constants)
    pooled = Sums(read, max(spec.pooled, 1), 1)
    for batch in _batches(ready, numbers):
        assert batch.rows is not None
        rows, y = batch.rows, base.standardised(batch.x)
        entered = base.entered(Bridge.entered_means(batch.students, rows))
        each, whole = entered[:, :-1], entered[:, -1]
        of_text = rows.kinds == TEXT
        others = attended(rows, ready.prompts) & (rows.kinds >= SPECIAL) & ~base.is_fixed(rows)
        text.add(each[of_text], y[of_text], torch.zeros(int(of_text.sum()), dtype=torch.int64))
        special.add(each[others], y[others], rows.constants[others])
        if batch.pooled is not None:
            wanted = base.standardised_pooled(batch.pooled)
            pooled.add(whole, wanted, torch.zeros(len(wanted), dtype=torch.int64))
    return text, special, pooled

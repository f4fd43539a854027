"""The linear base that a run begins with, from two passes over the prompts that are learnt from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lidit_core.bridge.base import LinearBase
from lidit_core.bridge.config import BridgeConfig
from lidit_core.bridge.file import LoadedBridge
from lidit_core.bridge.layout import AnyRows
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.ridge import Statistics, Sums, floored, solve
from lidit_core.bridge.rows import PADDING_ROW, SPECIAL, TEXT, TeacherRows
from lidit_core.io.conditioning import Entry
from lidit_core.text.states import LLMStates

from ...plan.counting import META
from ..whitening import SAMPLE, whiten_entry
from .batches import BridgeBatch, ReadPrompts

log = logging.getLogger(__name__)

CHUNK = 64  # prompts at once


def begin_bridge(ready: ReadPrompts, seed: int, whitened: bool) -> Bridge:
    """A bridge whose residual adds nothing yet.

    Args:
        whitened: the refiners' maps from LLM states start so that their outputs vary alike.
    """
    torch.manual_seed(seed)
    bridge = new_bridge(ready)
    fit_base(bridge.base, ready)
    if whitened and ready.config.residual == "attention":
        spread = ready.learnt[:: max(1, len(ready.learnt) // SAMPLE)]
        read = ready.batch(spread[:SAMPLE])
        whiten_refiners(bridge, [tokens.states for tokens in read.students])
    return bridge


def whiten_refiners(bridge: Bridge, states: Sequence[LLMStates]) -> None:
    """The refiners' maps from LLM states start so that their outputs vary alike.

    Args:
        states: of some prompts, by each LLM in order.
    """
    for refiner, read in zip(bridge.reader.linguistic, states):
        whiten_entry(refiner, read)


def not_begun(config: BridgeConfig, rows: AnyRows, empty: Entry) -> LoadedBridge:
    """A bridge without weights.

    Args:
        empty: the empty prompt's conditioning by the encoder that it is for.
    """
    return LoadedBridge(Bridge(config, device=META), rows, empty)


def new_bridge(ready: ReadPrompts) -> Bridge:
    """A bridge that is its base alone, which is not known yet."""
    bridge = Bridge(ready.config).initialise()
    if ready.config.residual == "attention" and ready.config.seeds == "pca":
        bridge.resampler.queries.seeds.copy_(ready.prompts.written.seeds)
    return bridge


@torch.no_grad()
def fit_base(base: LinearBase, ready: ReadPrompts) -> None:
    """Set all of a base: what is standard, and ridge."""
    _standardise(base, ready)
    if ready.config.add:
        return  # what the encoder wrote is the base
    log.info("ridge: what is standard is known; %d prompts are summed", len(ready.learnt))
    texts, specials, pooled = _solved(base, ready)
    base.text.copy_(_joined([solved.weight for solved in texts], base))
    base.text_bias.copy_(_joined([solved.constants[0] for solved in texts], base))
    base.special.copy_(_joined([solved.weight for solved in specials], base))
    known, part_of = base.fixed > 0, parts_of(ready.config)
    constants = torch.stack([solved.constants for solved in specials])
    constants = constants[part_of, torch.arange(len(part_of))]
    base.constants.copy_(constants.where(~known[:, None], base.constants))
    if pooled is not None:
        base.pooled.copy_(pooled.weight)
        base.pooled_bias.copy_(pooled.constants[0])


def _joined(parts: Sequence[Tensor], base: LinearBase) -> Tensor:
    """What is kept of each encoder, as the base has it."""
    return parts[0] if base.parts == 1 else torch.stack(list(parts))


def parts_of(config: BridgeConfig) -> Tensor:
    """The number of the encoder that each constant belongs to."""
    layouts = enumerate(config.teacher.layouts)
    return torch.tensor([part for part, layout in layouts for _ in range(layout.constants)])


def _batches(ready: ReadPrompts, numbers: Sequence[int]) -> Iterator[BridgeBatch]:
    """All these prompts, those of like length together."""
    texts = ready.prompts.texts
    ordered = sorted(numbers, key=lambda n: (len(texts[n]), n))
    for first in range(0, len(ordered), CHUNK):
        yield ready.batch(ordered[first : first + CHUNK])


def attended(rows: TeacherRows, masked: bool) -> Tensor:
    """Mark the rows that the model reads, (B, R) bool; a conditioning's mask leaves out padding."""
    if masked:
        return rows.seen & (rows.kinds != PADDING_ROW)
    return rows.seen


def _standardise(base: LinearBase, ready: ReadPrompts) -> None:
    spec, part_of = ready.config.teacher, parts_of(ready.config)
    count, adds = spec.constants, ready.config.add
    read = Statistics(ready.config.state_width, 1)
    rows = Statistics(spec.width, count + base.parts)  # the last are the text of each encoder
    pooled = Statistics(max(spec.pooled, 1), 1)
    for batch in _batches(ready, ready.learnt):
        assert batch.rows is not None
        kept = attended(batch.rows, spec.masked)
        if not adds:
            means = Bridge.entered_means(batch.students, batch.rows)[:, :-1][kept]
            read.add(means, torch.zeros(len(means), dtype=torch.int64))
        groups = batch.rows.constants.where(batch.rows.kinds != TEXT, count + batch.rows.parts)
        rows.add(batch.x[kept], groups[kept])
        if batch.pooled is not None:
            pooled.add(batch.pooled, torch.zeros(len(batch.pooled), dtype=torch.int64))
    every = torch.tensor([0])
    still = rows.still()
    still[count:] = False
    of_groups = torch.cat([part_of, torch.arange(base.parts)])
    found = [
        _standard(
            rows,
            ((of_groups == part) & ~still & (rows.count > 0)).nonzero().flatten(),
            spec.parts(part),
        )
        for part in range(base.parts)
    ]
    base.mean.copy_(_joined([mean for mean, _ in found], base))
    base.deviation.copy_(_joined([deviation for _, deviation in found], base))
    base.fixed.copy_(still[:count].float())
    if spec.pooled:
        base.pooled_mean.copy_(pooled.mean)
        base.pooled_deviation.copy_(floored(pooled.deviation(every), spec.pooled_parts))
    if not adds:
        base.mean_in.copy_(read.mean)
        base.deviation_in.copy_(floored(read.deviation(every), ready.config.state_parts))
        means, deviations = (torch.stack(list(each))[part_of] for each in zip(*found))
        standard = (rows.means[:count].float() - means) / deviations
        base.constants.copy_(standard * still[:count, None])


def _standard(rows: Statistics, groups: Tensor, taps: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of some groups' rows together."""
    mean = rows.sum[groups].sum(0) / rows.count[groups].sum().clamp(min=1)
    return mean.float(), floored(rows.deviation(groups), taps).float()


def _solved(base: LinearBase, ready: ReadPrompts):
    """The ridges of each encoder's text rows and other rows, and of the pooled vector."""
    texts, specials, pooled = _sums(base, ready, ready.learnt)
    apart = _sums(base, ready, ready.held_out)
    return (
        [solve(ours, theirs) for ours, theirs in zip(texts, apart[0])],
        [solve(ours, theirs) for ours, theirs in zip(specials, apart[1])],
        solve(pooled, apart[2]) if ready.config.teacher.pooled else None,
    )


def _sums(
    base: LinearBase, ready: ReadPrompts, numbers: Sequence[int]
) -> tuple[list[Sums], list[Sums], Sums]:
    """Sums of each encoder's text, of each one's other rows, and of the pooled vector."""
    spec, read, parts = ready.config.teacher, ready.config.state_width, range(base.parts)
    texts = [Sums(read, spec.width, 1) for _ in parts]
    specials = [Sums(read, spec.width, spec.constants) for _ in parts]
    pooled = Sums(read, max(spec.pooled, 1), 1)
    for batch in _batches(ready, numbers):
        assert batch.rows is not None
        rows, y = batch.rows, base.standardised(batch.x, batch.rows)
        entered = base.entered(Bridge.entered_means(batch.students, rows))
        each, whole = entered[:, :-1], entered[:, -1]
        special = attended(rows, spec.masked) & (rows.kinds >= SPECIAL) & ~base.is_fixed(rows)
        for part in parts:
            text, others = ((rows.parts == part) & k for k in (rows.kinds == TEXT, special))
            texts[part].add(each[text], y[text], torch.zeros(int(text.sum()), dtype=torch.int64))
            specials[part].add(each[others], y[others], rows.constants[others])
        if batch.pooled is not None:
            wanted = base.standardised_pooled(batch.pooled)
            pooled.add(whole, wanted, torch.zeros(len(wanted), dtype=torch.int64))
    return texts, specials, pooled

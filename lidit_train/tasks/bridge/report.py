"""How well a bridge does on prompts that are held out, beside its linear base alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lidit_core.bridge.base import LinearBase
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.resampler import Predicted
from lidit_core.bridge.rows import SPECIAL, TeacherRows

from .batches import BridgeBatch, PreparedBridge
from .learner import BridgeLearner
from .start import CHUNK


@dataclass(frozen=True)
class BridgeReport:
    """Figures in the teacher's standardised space; rows are weighed as they are in the loss."""

    prompts: int
    cosine: float  # mean over prompts
    worst_row: float  # mean cosine of the worst place, of those that one prompt in ten has
    end_of_text: float | None  # cosine of the last row before the padding, where it varies
    pooled: float | None  # cosine of the pooled vector
    r2: float  # share of the squared error about the mean that is explained

    def line(self) -> str:
        """One line of text."""
        parts = {
            "cosine": self.cosine,
            "worst row": self.worst_row,
            "end of text": self.end_of_text,
            "pooled": self.pooled,
            "R²": self.r2,
        }
        return ", ".join(
            f"{name} {value:.4f}" for name, value in parts.items() if value is not None
        )

    def to_dict(self) -> dict:
        return asdict(self)


class _Sums:
    """Sums over prompts that are held out."""

    def __init__(self) -> None:
        self.prompts, self.cosine, self.error, self.about = 0, 0.0, 0.0, 0.0
        self.rows: dict[int, list[float]] = {}  # by place: sum of cosines, count
        self.ends: list[float] = []
        self.pooled: list[float] = []

    def add(self, learner: BridgeLearner, batch: BridgeBatch, out: Predicted) -> None:
        rows, base = batch.rows, learner.bridge.base
        assert rows is not None
        wanted, weights = base.standardised(batch.x, rows), learner.weights(batch)
        cosines = F.cosine_similarity(out.sequence, wanted, dim=-1)
        self.prompts += len(batch)
        self.cosine += float((cosines * weights).sum())
        self.error += float(((out.sequence - wanted).square().mean(-1) * weights).sum())
        self.about += float((wanted.square().mean(-1) * weights).sum())
        self._add_rows(cosines, weights > 0)
        last = _last_special(rows)
        ends = torch.where(last.any(1), last.int().argmax(1), -1)
        for n, place in enumerate(ends.tolist()):
            if place >= 0 and weights[n, place] > 0:
                self.ends.append(float(cosines[n, place]))
        if out.pooled is not None and batch.pooled is not None:
            theirs = base.standardised_pooled(batch.pooled)
            self.pooled += F.cosine_similarity(out.pooled, theirs, dim=-1).tolist()

    def _add_rows(self, cosines: Tensor, counted: Tensor) -> None:
        for place in range(cosines.shape[1]):
            of_place = cosines[:, place][counted[:, place]]
            known = self.rows.setdefault(place, [0.0, 0.0])
            known[0] += float(of_place.sum())
            known[1] += len(of_place)

    def report(self) -> BridgeReport:
        often = [s / n for s, n in self.rows.values() if n >= max(1.0, self.prompts / 10)]
        return BridgeReport(
            self.prompts,
            self.cosine / self.prompts,
            min(often, default=0.0),
            _mean(self.ends),
            _mean(self.pooled),
            1 - self.error / max(self.about, 1e-12),
        )


def _last_special(rows: TeacherRows) -> Tensor:
    """Mark each prompt's last row that is neither text nor padding, if after text: (B, R) bool."""
    special = rows.kinds == SPECIAL
    last = special.flip(1).cumsum(1).flip(1) == 1
    return special & last & (rows.spans[..., 1] > 0)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


@torch.no_grad()
def reports(learner: BridgeLearner, ready: PreparedBridge) -> dict[str, BridgeReport]:
    """The figures of the bridge, and of its base: ridge, or the encoder that it adds to."""
    bridge, device = learner.bridge, learner.bridge.base.mean.device
    base = "encoder" if bridge.config.add else "ridge"
    sums = {"bridge": _Sums(), base: _Sums()}
    for first in range(0, len(ready.held_out), CHUNK):
        batch = ready.batch(ready.held_out[first : first + CHUNK]).to(device)
        assert batch.rows is not None
        sums["bridge"].add(learner, batch, bridge(batch.students, batch.rows, own=batch.own))
        sums[base].add(learner, batch, linear(bridge.base, batch))
    return {name: found.report() for name, found in sums.items()}


def linear(base: LinearBase, batch: BridgeBatch) -> Predicted:
    """What the base alone makes of a batch."""
    assert batch.rows is not None
    if batch.own is not None:
        own = batch.own.pooled
        pooled = None if own is None else base.standardised_pooled(own)
        return Predicted(base.standardised(batch.own.tokens.states.hidden, batch.rows), pooled)
    entered = base.entered(Bridge.entered_means(batch.students, batch.rows))
    pooled = None if batch.pooled is None else base.read_pooled(entered[:, -1])
    return Predicted(base(entered[:, :-1], batch.rows), pooled)

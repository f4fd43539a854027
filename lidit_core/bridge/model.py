"""A bridge: LLM states → token refiners → resampler, on a linear base → a teacher's conditioning.

The refiners are LI-DiT's (`lidit_core.model`), without a timestep, so that the result is plain
conditioning.

Shapes: B prompts, R rows, L tokens, X the LLMs' widths together, D the width, C the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import LiDiTError, check
from ..model.attention import AttentionFunction, key_bias, scaled_dot_product
from ..model.collaborative import CollaborativeRefiner
from ..model.config import RefinerConfig
from ..model.layers import GELU, Modulation
from ..model.lists import ListOf
from ..model.refiners import LinguisticTokenRefiner
from ..precision import without_autocast
from ..text.spec import LLMSpec
from .base import LinearBase
from .config import BridgeConfig
from .overlap import means, shares
from .resampler import Predicted, Refined, Resampler
from .rows import OwnRows, StudentTokens, TeacherRows


class Bridge(nn.Module):
    """Maps the LLMs' states of prompts to standardised rows, which `base` restores."""

    def __init__(self, config: BridgeConfig, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        self.config = config
        self.base = LinearBase(config, device)
        if config.residual == "attention":
            self.reader = TokenReader(config, **layer)
            self.resampler = Resampler(config, **layer)
        elif config.residual == "mlp":
            self.mlp = TokenByToken(config, **layer)

    def forward(
        self,
        students: Sequence[StudentTokens],
        rows: TeacherRows,
        attention: AttentionFunction = scaled_dot_product,
        own: OwnRows | None = None,
    ) -> Predicted:
        """Standardised rows and pooled vector.

        Args:
            students: one for each of the configuration's LLMs, in order.
            own: what the encoder wrote that the bridge adds to; None where it adds to none.
        """
        if self.config.add:
            added = self.added(students, rows, own, attention)
            assert own is not None  # as `added` has seen
            sequence = self.base.standardised(own.tokens.states.hidden, rows) + added.sequence
            if added.pooled is None or own.pooled is None:
                return Predicted(sequence, None)
            return Predicted(sequence, self.base.standardised_pooled(own.pooled) + added.pooled)
        self._check(students)
        entered = self.base.entered(self.entered_means(students, rows))  # (B, R + 1, X)
        each, whole = entered[:, :-1], entered[:, -1]
        linear = self.base(each, rows) if self.config.base else each.new_zeros(())
        pooled = None
        if self.config.teacher.pooled:
            pooled = self.base.read_pooled(whole) if self.config.base else each.new_zeros(())
        added = self._residual(students, rows, entered, attention)
        if added is None:
            return Predicted(linear, pooled)
        if pooled is not None and added.pooled is not None:
            return Predicted(linear + added.sequence, pooled + added.pooled)
        return Predicted(linear + added.sequence, None)

    def added(
        self,
        students: Sequence[StudentTokens],
        rows: TeacherRows,
        own: OwnRows | None,
        attention: AttentionFunction = scaled_dot_product,
    ) -> Predicted:
        """What is added to an encoder's rows and pooled vector, standardised; 0 in a new bridge.

        Rows that vary with no prompt stay as the encoder has them.
        """
        self._check(students)
        if own is None:
            raise LiDiTError(
                f"this bridge adds to what {self.config.teacher.name} writes, and that is not "
                "here; encode the prompt with that text encoder too"
            )
        standard = self.base.standardised(own.tokens.states.hidden, rows)
        branch = StudentTokens(own.tokens.states.with_hidden(standard), own.tokens.spans)
        read = self.reader([*students, branch], rows, attention)
        out = self.resampler(read, rows, attention)
        still = self.base.is_fixed(rows)[..., None]
        return Predicted(out.sequence.masked_fill(still, 0.0), out.pooled)

    @staticmethod
    def entered_means(students: Sequence[StudentTokens], rows: TeacherRows) -> Tensor:
        """The mean of the states that share a row's characters, (B, R + 1, X); last that of all."""
        each = torch.cat([means(rows, tokens) for tokens in students], dim=-1)
        kept = [tokens.kept.float()[:, None] for tokens in students]
        with without_autocast(each.device):
            whole = [
                k / k.sum(-1, keepdim=True).clamp(min=1) @ tokens.states.hidden.float()
                for k, tokens in zip(kept, students)
            ]
        return torch.cat([each, torch.cat(whole, dim=-1)], dim=1)

    def _residual(self, students, rows, entered, attention) -> Predicted | None:
        if self.config.residual == "attention":
            return self.resampler(self.reader(students, rows, attention), rows, attention)
        if self.config.residual == "mlp":
            return self.mlp(entered)
        return None

    def _check(self, students: Sequence[StudentTokens]) -> None:
        llms = self.config.llms
        check(
            len(students) == len(llms),
            f"states of {len(students)} LLMs came to a bridge of {len(llms)}; expected one each of "
            f"{', '.join(llm.name for llm in llms)}",
        )
        for llm, tokens in zip(llms, students):
            check(
                tokens.states.width == llm.state_width,
                f"the LLM's states are {tokens.states.width} wide, and this bridge was trained on "
                f"{llm.name} ({llm.state_width}); load that LLM",
            )

    @torch.no_grad()
    def initialise(self) -> Bridge:
        """Weights before training: the residual adds nothing, so that the bridge is its base."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, Modulation):
                nn.init.zeros_(module.linear.weight)
        for last in self._last():
            nn.init.zeros_(last.weight)
        return self

    def _last(self) -> list[nn.Linear]:
        """The maps whose output is added to the base."""
        of = {"attention": "resampler", "mlp": "mlp"}.get(self.config.residual)
        part = getattr(self, of) if of else None
        maps = (getattr(part, "out", None), getattr(part, "out_pooled", None))
        return [layer for layer in maps if layer is not None]


class TokenReader(nn.Module):
    """Every LLM's linguistic refiner, and the collaborative refiner over several."""

    def __init__(self, config: BridgeConfig, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        blocks, joint = config.refiner_blocks, config.collaborative_blocks
        options = RefinerConfig(blocks=blocks, collaborative_blocks=joint, gates="none")
        sizes = config.width, config.heads, options
        read = [*config.llms, *([own_branch(config)] if config.add else [])]
        self.linguistic = ListOf(LinguisticTokenRefiner(llm, *sizes, **layer) for llm in read)
        self.collaborative = CollaborativeRefiner(len(read), *sizes, **layer)

    def forward(
        self, students: Sequence[StudentTokens], rows: TeacherRows, attention: AttentionFunction
    ) -> Refined:
        """The instruction's tokens are read by the refiners, and by the resampler no more."""
        dtype = students[0].states.hidden.dtype
        time = students[0].spans.new_zeros(len(rows.ids))
        branches = {
            i: refiner(tokens.states, time, dtype, attention)
            for i, (refiner, tokens) in enumerate(zip(self.linguistic, students))
        }
        branches = self.collaborative(branches, attention)
        kept = torch.cat([tokens.kept for tokens in students], dim=1)
        bias = key_bias(kept, dtype, all_seen=False)
        assert bias is not None  # as not all are known to be seen
        return Refined(
            torch.cat([branches[i].tokens for i in range(len(students))], dim=1),
            bias,
            torch.cat([tokens.spans.mean(-1) for tokens in students], dim=1),
            torch.cat([shares(rows, tokens) for tokens in students], dim=2),
        )


def own_branch(config: BridgeConfig) -> LLMSpec:
    """The encoder that a bridge adds to, as the refiners take an LLM."""
    return LLMSpec(config.teacher.name, config.teacher.width)


class TokenByToken(nn.Module):
    """The residual that others have: an MLP on what shares a row's characters, for comparison."""

    def __init__(self, config: BridgeConfig, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        bare, width = {"dtype": dtype, "device": device}, 4 * config.width
        self.entry = operations.Linear(config.state_width, width, **bare)
        self.hidden = operations.Linear(width, width, **bare)
        self.act = GELU()
        self.out = operations.Linear(width, config.teacher.width, **bare)
        self.out_pooled = None
        if config.teacher.pooled:
            self.out_pooled = operations.Linear(width, config.teacher.pooled, **bare)

    def forward(self, entered: Tensor) -> Predicted:
        """Map entered means (B, R + 1, X) to what is added to the base.

        The last of them is that of the whole prompt.
        """
        x = self.act(self.hidden(self.act(self.entry(entered))))
        pooled = None if self.out_pooled is None else self.out_pooled(x[:, -1])
        return Predicted(self.out(x[:, :-1]), pooled)

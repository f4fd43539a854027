"""Runs an LLM over prompts; the instruction, the same for all of them, runs once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import LiDiTError, first_line
from ..llm.blocks import EVERY_BLOCK, shown_block
from ..llm.compat import cache_argument, cached_layers, can_reuse, new_cache
from ..llm.encoders import is_encoder
from ..llm.loading import LLM
from .cache import PromptStates
from .differences import check_differences, difference_states
from .outputs import block_outputs
from .renderer import PromptRenderer, PromptTokens
from .states import PADDING, LLMStates
from .templates import InstructionTemplate, find_template

MISCALLED = (AssertionError, AttributeError, KeyError, NotImplementedError, TypeError)
BATCH_TOKENS = 4096  # padded tokens that are run at once


@dataclass(frozen=True, eq=False)
class Prefix:
    """The first tokens of every prompt, run once: their keys and values, and their states."""

    kind: tuple  # device and dtype that it was computed in
    layers: list[tuple[Tensor, Tensor]]  # keys and values of every block, (1, heads, P, head width)
    hidden: Tensor  # (P, C)

    def rows(self, count: int, length: int) -> object:
        """A cache of `count` equal rows of the first `length` tokens that a forward may extend."""
        cache = new_cache()
        for index, pair in enumerate(self.layers):
            keys, values = (tensor[:, :, :length].expand(count, -1, -1, -1) for tensor in pair)
            cache.update(keys, values, index)
        return cache


@torch.inference_mode()
def run_decoder(
    module: nn.Module,
    texts: Sequence[Sequence[int]],
    device: torch.device,
    cache: object | None = None,
    past: int = 0,
    every_block: bool = False,
    taps: Sequence[int] = (),
) -> Tensor:
    """Run token ids (B rows of any length) after `past` cached ones: states (B, L, C).

    With `every_block` C is (blocks + 1) x width: the embeddings, then every block's output. With
    `taps` it is len(taps) x width: the outputs of these blocks.
    """
    length = max(map(len, texts))
    ids = torch.zeros(len(texts), length, dtype=torch.long)
    mask = torch.zeros(len(texts), past + length, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : past + len(text)] = 1
    options = {}
    if not is_encoder(module.config):  # which counts for itself, and keeps nothing
        positions = torch.arange(past, past + length).expand(len(texts), -1)
        options = {"position_ids": positions.to(device), "use_cache": cache is not None}
        options[cache_argument(module)] = cache
    with block_outputs(module, taps, every_block) as outputs, _one_sentence(module):
        module(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            return_dict=True,
            **options,
        )
    return torch.cat([states.to(device) for states in outputs.states], -1)


@contextmanager
def _one_sentence(module: nn.Module) -> Iterator[None]:
    """What a class says of the way that it is called; other errors, as of memory, go on."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, MISCALLED) and "must match the size" not in str(error):
            raise
        raise LiDiTError(
            f"a {type(module).__name__} cannot be run as a decoder is "
            f"({type(error).__name__}: {first_line(error)}); choose an LLM of another kind"
        ) from error


class LLMEncoder:
    """Encodes prompts with a loaded LLM; the instruction runs once and is reused.

    `device` is where the LLM computes, for hosts that offload its weights elsewhere.
    `differences` asks for the block differences of an LLM that was loaded with block "all"; one
    that was loaded with "differences" always gives them.
    """

    def __init__(
        self,
        llm: LLM,
        template: str | InstructionTemplate = "paper",
        token_budget: int = 256,
        device: torch.device | str | None = None,
        reuse: bool = True,
        differences: bool = False,
    ):
        self.llm, self.template = llm, find_template(template)
        ends = is_encoder(llm.module.config)
        self.renderer = PromptRenderer(
            llm.tokenizer, self.template, token_budget, llm.context, ends
        )
        self._device, self.reuse = device, reuse
        self.differences = differences or llm.block == "differences"
        self._prefix: Prefix | None = None
        if self.differences:
            check_every_block(llm)

    @property
    def device(self) -> torch.device:
        return torch.device(self._device) if self._device else self.llm.device

    def forget(self) -> None:
        """Drop the reused instruction: for hosts that count memory, or change the weights."""
        self._prefix = None

    def encode(self, prompts: Sequence[str]) -> LLMStates:
        """States (B, L, C) of the prompts, padded on the right to the longest."""
        return pad_states(self.encode_rows(prompts))

    @torch.inference_mode(False)  # hosts run in it, and such tensors could not be trained on
    @torch.no_grad()
    def encode_rows(self, prompts: Sequence[str]) -> list[PromptStates]:
        """States of every prompt, unpadded."""
        if isinstance(prompts, str):
            raise LiDiTError(f"prompts are the one text {prompts[:40]!r}; expected a list of texts")
        tokens = {prompt: self.renderer(prompt) for prompt in prompts}
        self.llm.check_tokens(token for text in tokens.values() for token in text.ids)
        rows: dict[str, PromptStates] = {}
        for start, group in self._batches(tokens):
            texts = [tokens[prompt].ids for prompt in group]
            for prompt, hidden in zip(group, self._run(texts, start), strict=True):
                rows[prompt] = self._states(tokens[prompt], hidden)
        return [rows[prompt] for prompt in prompts]

    def _batches(self, tokens: dict[str, PromptTokens]) -> Iterator[tuple[int, list[str]]]:
        """Prompts of similar length together, with the number of tokens that they reuse."""
        shared = {prompt: self._shared(text.ids) for prompt, text in tokens.items()}
        batch: list[str] = []
        for prompt in sorted(tokens, key=lambda p: (shared[p], len(tokens[p].ids), p)):
            size = (len(tokens[prompt].ids) - shared[prompt]) * (len(batch) + 1)
            if batch and (shared[prompt] != shared[batch[0]] or size > BATCH_TOKENS):
                yield shared[batch[0]], batch
                batch = []
            batch.append(prompt)
        if batch:
            yield shared[batch[0]], batch

    def _shared(self, ids: tuple[int, ...]) -> int:
        """How many first tokens of a text are taken from the prefix; one is left to run."""
        if not self.reuse or not can_reuse(self.llm.module, len(ids)):
            return 0
        pairs = zip(ids[:-1], self.renderer.prefix)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _run(self, texts: list[tuple[int, ...]], start: int) -> list[Tensor]:
        """States (L, C) of every text, of which the first `start` tokens are reused."""
        prefix = self._reusable() if start else None
        cache = prefix.rows(len(texts), start) if prefix else None
        rest = [text[start:] for text in texts]
        hidden = self._forward(rest, cache, start)
        rows = [row[: len(text)] for row, text in zip(hidden, rest, strict=True)]
        return [torch.cat([prefix.hidden[:start], row]) for row in rows] if prefix else rows

    def _reusable(self) -> Prefix:
        """The first tokens' keys, values and states, computed once per device and dtype."""
        known, kind = self._prefix, (self.device, self.llm.dtype)
        if known is None or known.kind != kind:
            cache = new_cache()
            hidden = self._forward([self.renderer.prefix], cache, 0)
            self._prefix = known = Prefix(kind, cached_layers(cache), hidden[0])
        return known

    def _forward(self, texts: Sequence[Sequence[int]], cache: object | None, past: int) -> Tensor:
        """States (B, L, C) of texts after `past` cached tokens."""
        decoder = self.llm.module
        run = functools.partial(run_decoder, decoder, texts, self.device, cache, past)
        if self.differences:
            return difference_states(decoder, run)
        return run(every_block=self.llm.block == "all", taps=self.llm.taps)

    def _states(self, tokens: PromptTokens, hidden: Tensor) -> PromptStates:
        if not torch.isfinite(hidden).all():
            raise LiDiTError(
                f"the LLM {self.llm.name} gave states that are not finite in {self.llm.dtype}; "
                "load it in float32 or check its files"
            )
        roles = torch.tensor(tokens.roles, dtype=torch.int32, device=hidden.device)
        counts = tokens.used, tokens.total, self.renderer.budget
        offsets = torch.tensor(tokens.offsets, dtype=torch.int32).reshape(-1, 2)
        return PromptStates(hidden.clone(), roles, tokens.span, *counts, offsets=offsets)


def check_every_block(llm: LLM) -> None:
    """Raise a LiDiTError unless the LLM can give block differences."""
    if llm.block not in EVERY_BLOCK:
        raise LiDiTError(
            f"the LLM {llm.name} was loaded up to block {shown_block(llm.block)}; expected "
            "every block for differences, so load it with block 'differences'"
        )
    check_differences(llm.module, llm.name)


@torch.inference_mode(False)
def pad_states(rows: Sequence[PromptStates]) -> LLMStates:
    """One padded batch of prompts that were encoded alone."""
    if not rows:
        raise LiDiTError("no prompt was given; expected at least one, and it may be empty")
    hidden = nn.utils.rnn.pad_sequence([row.hidden for row in rows], batch_first=True)
    roles = nn.utils.rnn.pad_sequence([row.roles for row in rows], True, float(PADDING))
    emphasis = None
    if any(row.emphasis is not None for row in rows):
        ones = (torch.ones_like(row.roles, dtype=torch.float32) for row in rows)
        each = [r.emphasis if r.emphasis is not None else o for r, o in zip(rows, ones)]
        emphasis = nn.utils.rnn.pad_sequence(each, True, 1.0)
    return LLMStates(hidden, roles, emphasis=emphasis)

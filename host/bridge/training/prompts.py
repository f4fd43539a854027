"""What LLMs make of recorded prompts, read once and kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.utils
import torch
from comfy import model_management

from ....lidit_core.bridge.file import LoadedBridge
from ....lidit_core.bridge.recorded import RecordedPrompts
from ....lidit_core.bridge.rows import StudentTokens
from ....lidit_core.dtypes import torch_dtype
from ....lidit_core.io.conditioning import Entry
from ....lidit_core.text.spec import LLMSpec
from ....lidit_core.text.states import LLMStates
from ...llm.reader import reader_of
from ...node_notes import note, report
from ..readers import NO_LLM, read_each

FEW = 8  # prompts that an LLM reads at once


@dataclass(eq=False)
class Prompts:
    """A recording's prompts as a bridge and a model read them."""

    recorded: RecordedPrompts
    loaded: LoadedBridge
    clips: Sequence[Any]  # in the order of the bridge's LLMs
    states: dict[int, list[StudentTokens]] = field(default_factory=dict)  # by prompt, on the CPU
    used: dict[int, list[int]] = field(default_factory=dict)  # tokens that each LLM read, by prompt

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which states are kept: that of the bridge's training."""
        return torch_dtype(self.loaded.bridge.config.dtype)

    def entry(self, number: int) -> Entry:
        """What the encoder that is learnt from wrote of a prompt, as float32."""
        return self._entry(self.recorded, number)

    def own_entry(self, number: int) -> Entry | None:
        """The same of the encoder that the bridge adds to; None where it adds to none."""
        own = self.recorded.own
        return None if own is None else self._entry(own, number)

    def trained_on(self, numbers: Sequence[int]) -> tuple[LLMSpec, ...]:
        """The bridge's LLMs as a file records them that learnt from these prompts by these CLIPs.

        Their longest prompt is that of all runs; not known where it was not before.
        """
        found = []
        for branch, (spec, clip) in enumerate(zip(self.loaded.bridge.config.llms, self.clips)):
            llm = reader_of(clip, NO_LLM).llm
            read = [self.used[number][branch] for number in set(numbers)]
            known = spec.longest_prompt
            longest = None if known is None else max(known, *read)
            fingerprint, storage = llm.fingerprint or spec.fingerprint, llm.storage or spec.storage
            found.append(
                replace(spec, fingerprint=fingerprint, storage=storage, longest_prompt=longest)
            )
        return tuple(found)

    def _entry(self, recorded: RecordedPrompts, number: int) -> Entry:
        sequence, values = recorded.recording.prompt(number).entries[0]
        exact = {
            k: v.float() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
            for k, v in values.items()
        }
        return sequence.float(), exact

    def prepare(self, numbers: Sequence[int]) -> None:
        """Let every LLM read some prompts that it has not read yet."""
        wanted = sorted(set(numbers) - set(self.states))
        texts = self.recorded.texts
        found: dict[int, list[StudentTokens]] = {number: [] for number in wanted}
        used: dict[int, list[int]] = {number: [] for number in wanted}
        for spec, clip in zip(self.loaded.bridge.config.llms, self.clips):
            bar, cut = comfy.utils.ProgressBar(max(1, len(wanted))), 0
            for first in range(0, len(wanted), FEW):
                model_management.throw_exception_if_processing_interrupted()
                part = wanted[first : first + FEW]
                report(f"{spec.name} reads prompt {first + 1} of {len(wanted)}")
                with torch.inference_mode():
                    read = read_each(spec, clip, [texts[number] for number in part])
                for number, (tokens, row) in zip(part, read):
                    found[number].append(self._kept(tokens))
                    used[number].append(row.used)
                    cut += row.used < row.total
                bar.update(len(part))
            if cut:
                note(
                    f"{cut} of {len(wanted)} prompts have more tokens than {spec.name} reads, and "
                    "what is cut off is not learnt; raise token_budget in the node that loads it"
                )
        self.states |= found
        self.used |= used

    def _kept(self, tokens: StudentTokens) -> StudentTokens:
        """The same on the CPU, and outside inference mode, in which no gradient is known."""
        hidden = tokens.states.hidden.to("cpu", self.dtype).clone()
        states = LLMStates(hidden, tokens.states.roles.cpu().clone())
        return StudentTokens(states, tokens.spans.cpu().clone())

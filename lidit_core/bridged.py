"""An LLM of a LI-DiT whose states a bridge writes, by what other LLMs make of a prompt.

`--llm gemma-3-270m=bridge.safetensors` has another LLM read for a branch that was trained on Gemma.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch

from .bridge.config import BridgeConfig, TeacherSpec
from .bridge.encode import conditioning
from .bridge.file import BRIDGE_KEY, load_bridge, read_bridge_config
from .bridge.layout import RowMaker
from .bridge.rows import TEXT, StudentTokens, student_tokens
from .errors import LiDiTError, check
from .io.tensors import opened
from .llm.blocks import shown_block
from .llm.locate import check_present
from .text.cache import PromptStates
from .text.encoder import pad_states
from .text.notes import notes_of_reading
from .text.prompt_encoder import PromptEncoder
from .text.spec import LLMSpec
from .text.states import INSTRUCTION, PROMPT


def is_bridge(source: str) -> bool:
    """Whether a source of an LLM is the file of a bridge."""
    path = Path(source).expanduser()
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    with opened(path) as file:
        return BRIDGE_KEY in (file.metadata() or {})


def written_for(source: str) -> str:
    """The name of the LLM whose states a bridge writes."""
    return read_bridge_config(Path(source).expanduser()).teacher.name


def _check_read_alike(path: Path, teacher: TeacherSpec, spec: LLMSpec) -> None:
    """Refuse a bridge for another LLM than a branch reads, or for that one read otherwise.

    Numbers of a state tell neither. How the recorded LLM was read older files do not say.
    """
    known = teacher.llm
    same = teacher.name == spec.name or (known is not None and spec.is_read_by(known.fingerprint))
    advice = "expected a bridge from `lidit record` of that LLM for this LI-DiT"
    check(
        bool(same),
        f"the bridge {path} writes states of {teacher.name}, and the branch reads those of "
        f"{spec.name}; {advice}",
    )
    if known is None:
        return
    check(
        known.block == spec.block,
        f"the bridge {path} writes states of {teacher.name} at layer {shown_block(known.block)}, "
        f"and the branch reads layer {shown_block(spec.block)}; {advice}",
    )
    check(
        replace(known.template, name="") == replace(spec.template, name=""),
        f"the bridge {path} writes states of {teacher.name} under the template "
        f"{known.template.name}, and the branch reads them under {spec.template.name}, of other "
        f"words; {advice}",
    )


class BridgeReaders:
    """The LLMs that a bridge reads, each as the bridge was trained on it.

    Args:
        sources: where LLMs are that are not found under their names.
        disk_cache: folder of states that outlive the process; None for none.
    """

    def __init__(
        self,
        config: BridgeConfig,
        sources: Mapping[str, str] | None = None,
        device: torch.device | str | None = None,
        device_map: str | dict | None = None,
        disk_cache: str | Path | None = None,
    ) -> None:
        self.specs, known = config.llms, sources or {}
        found = [known.get(llm.name, llm.name) for llm in self.specs]
        for source in found:
            check_present(source)
        options = {"device": device, "device_map": device_map, "disk_cache": disk_cache}
        self.encoders = [
            PromptEncoder(source, llm.template, llm.block, llm.token_budget, **options)
            for source, llm in zip(found, self.specs)
        ]

    def read(self, prompts: Sequence[str]) -> list[list[StudentTokens]]:
        """What each LLM makes of each prompt, a batch of one; by prompt."""
        each = [encoder.encode_rows(prompts, offsets=True) for encoder in self.encoders]
        return [
            [student_tokens(pad_states([row]), [row], [len(prompt)]) for row in rows]
            for prompt, rows in zip(prompts, zip(*each))
        ]

    def notes(self) -> list[str]:
        """What is to be told of the LLMs, whose specs are the bridge's own.

        Before a prompt is read, their weights are not compared.
        """
        return [n for spec, own in zip(self.specs, self.encoders) for n in own.llm_notes(spec)]

    def prompt_notes(self, prompts: Sequence[str]) -> list[str]:
        """What is to be told of how each LLM read prompts, which are kept from when they were."""
        return [
            note
            for spec, encoder in zip(self.specs, self.encoders)
            for prompt, row in zip(prompts, encoder.encode_rows(prompts))
            for note in notes_of_reading(prompt, row, spec)
        ]


def llms_beside(path: Path, config: BridgeConfig) -> dict[str, str]:
    """LLMs of a bridge that lie in folders of their names beside its file."""
    folders = {llm.name: path.parent / llm.name for llm in config.llms}
    return {name: str(folder) for name, folder in folders.items() if folder.is_dir()}


class BridgedPrompts(PromptEncoder):
    """The states of an LLM that is not here, by a bridge and the LLMs that this reads.

    Args:
        source: the bridge's file. Its LLMs are found under the names that it has for them, and
            first of all as folders beside it.
        spec: the LLM that the branch was trained on.
        disk_cache: folder of states that outlive the process; None for none.
    Raises:
        LiDiTError: the file is no bridge, adds to an encoder, or writes otherwise than the branch
            reads; or one of its LLMs is not there.
    """

    def __init__(
        self,
        source: str,
        spec: LLMSpec,
        device: torch.device | str | None = None,
        device_map: str | dict | None = None,
        disk_cache: str | Path | None = None,
    ) -> None:
        made = spec.template, spec.block, spec.token_budget
        super().__init__(source, *made, None, device, device_map, disk_cache)
        self.path, self.keep_tail = Path(source).expanduser(), spec.template.keep_tail
        self.bridge = load_bridge(self.path, self.device)
        self.rows = self._checked_rows(spec)
        config = self.bridge.bridge.config
        beside = llms_beside(self.path, config)
        self.readers = BridgeReaders(config, beside, device, device_map, disk_cache)

    def _checked_rows(self, spec: LLMSpec) -> RowMaker:
        """What makes the rows of a prompt."""
        config = self.bridge.bridge.config
        teacher, rows = config.teacher, self.bridge.rows
        check(
            not config.add,
            f"the bridge {self.path} adds to what {teacher.name} writes, which is not here; "
            "expected one that writes in its place",
        )
        check(
            teacher.width == spec.state_width and isinstance(rows, RowMaker),
            f"the bridge {self.path} writes rows of {teacher.name}, {teacher.width} wide, and the "
            f"branch reads states of {spec.name}, {spec.state_width} wide; expected a bridge that "
            "was trained on a recording of that LLM (lidit record)",
        )
        assert isinstance(rows, RowMaker)
        _check_read_alike(self.path, teacher, spec)
        layout = rows.layout
        check(
            not layout.window and 0 < layout.most <= spec.token_budget,
            f"the bridge {self.path} writes chunks of {layout.window} rows, or prompts of up to "
            f"{layout.most} tokens, and {spec.name} is read here as one text of up to "
            f"{spec.token_budget}; expected a bridge from `lidit record`",
        )
        return rows

    def llm_notes(self, spec: LLMSpec) -> list[str]:
        """What is to be told of the LLMs that the bridge reads, whose specs are its own."""
        return self.readers.notes()

    def encoder(self) -> NoReturn:
        """Refuse what is asked of an LLM itself."""
        raise LiDiTError(f"{self.path} is a bridge and holds no LLM; expected an LLM here")

    def weights_identity(self) -> list:
        """The bridge's file, and all that its LLMs' states depend on."""
        stat = self.path.stat()
        file = [self.path.name, stat.st_size, stat.st_mtime_ns]
        return [*file, *(encoder.identity() for encoder in self.readers.encoders)]

    def _compute(self, prompts: list[str]) -> list[PromptStates]:
        return [self._states(*each) for each in zip(prompts, self.readers.read(prompts))]

    def _states(self, prompt: str, students: Sequence[StudentTokens]) -> PromptStates:
        """What the bridge writes of one prompt."""
        hidden = conditioning(self.bridge, prompt, students)[0][0].float().cpu()
        rows = self.rows(prompt)
        text = (rows.kinds == TEXT).nonzero()[:, 0]
        first = int(text[0]) if len(text) else min(self.rows.around(prompt)[0], len(hidden))
        span = first, first + len(text)
        roles = torch.full((len(hidden),), PROMPT, dtype=torch.int32)
        roles[:first] = INSTRUCTION
        if not self.keep_tail:
            roles[span[1] :] = INSTRUCTION
        if not bool((roles == PROMPT).any()):
            roles[-1] = PROMPT  # the template's last token stands for an empty prompt
        whole = RowMaker(replace(self.rows.layout, most=0), self.rows.tokenizer)(prompt)
        total = int((whole.kinds == TEXT).sum())
        offsets = rows.spans[text].to(torch.int32)
        counts = len(text), total, self.rows.layout.most or self.token_budget
        return PromptStates(hidden, roles, span, *counts, offsets=offsets)

"""Prompts are encoded to states through the caches; the LLM is loaded when it must run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..errors import check, shown
from ..llm.blocks import Block, plain_block
from ..llm.compat import transformers_version
from ..llm.gguf.convert import copy_identity
from ..llm.hub import downloaded_commit
from ..llm.loading import default_dtype, intended_device, load_llm, source_storage
from ..llm.locate import LLMSource, locate
from ..llm.single.file import digest
from .cache import MEMORY, DiskCache, PromptStates, StateCaches
from .encoder import LLMEncoder, pad_states
from .spec import LLMSpec
from .states import LLMStates
from .templates import InstructionTemplate, find_template

STATES_VERSION = 4  # raise it when the same input comes to give other states
IDENTITY_SUFFIXES = (".json", ".safetensors", ".model", ".jinja", ".txt")


class PromptEncoder:
    """One LLM, one template, and the states of every prompt that was encoded before.

    Args:
        source: see `locate`.
        template: a template, or the name of one.
        block: see `load_llm`.
        token_budget: tokens of a prompt that are read at most, the template's not counted.
        disk_cache: folder of states that outlive the process; None for none.
        open_encoder: gives the encoder where a host manages the LLM. It is asked whenever the LLM
            must run, and what it gives is the host's: nothing is loaded here. Template,
            block, budget, dtype, device and `weights_identity` must be those of the encoder that
            it gives: they tell its states apart in the caches.
    """

    def __init__(
        self,
        source: str | Path,
        template: str | InstructionTemplate = "paper",
        block: Block = -3,
        token_budget: int = 256,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        device_map: str | dict | None = None,
        disk_cache: str | Path | None = None,
        open_encoder: Callable[[], LLMEncoder] | None = None,
    ):
        self.source, self.template = source, find_template(template)
        self.block, self.token_budget = plain_block(block), token_budget
        self.device = intended_device(device, device_map)
        self.dtype = dtype or default_dtype(self.device)
        self.caches = StateCaches(MEMORY, DiskCache(disk_cache) if disk_cache else None)
        self.device_map, self.open_encoder = device_map, open_encoder
        self._encoder: LLMEncoder | None = None
        self._files: list = []  # what the LLM was loaded from

    @property
    def loaded(self) -> bool:
        """Whether an LLM of our own is in memory."""
        return self._encoder is not None

    def encode(self, prompts: Sequence[str]) -> LLMStates:
        """States (B, L, C) of the prompts, on the CPU, padded on the right to the longest."""
        return pad_states(self.encode_rows(prompts))

    def encode_rows(self, prompts: Sequence[str], offsets: bool = False) -> list[PromptStates]:
        """States of every prompt, unpadded, with how it was read; cached ones are not computed.

        Each is computed alone, as in a batch its last bits would depend on the others. They are the
        caller's own: what is written into them is not found in the caches later.

        Args:
            offsets: whether the places of the tokens in the prompt are needed, which the files of
                older versions lack: the states of those are then computed anew.
        """
        check(
            not isinstance(prompts, str) and all(isinstance(prompt, str) for prompt in prompts),
            f"prompts are {shown(prompts)}; expected a list of texts, as ['a frog']",
        )
        rows = self.caches.states(prompts, self.identity, self._compute, offsets)
        return [states.copied() for states in rows]

    def encoder(self) -> LLMEncoder:
        """The encoder behind the caches; loads the LLM, again if its files have changed."""
        if self.open_encoder:
            return self.open_encoder()
        if self._encoder is None or self._files != file_identity(locate(self.source)):
            where = self.device, self.device_map
            llm = load_llm(self.source, self.block, self.dtype, *where, one_block=None)
            self._encoder = LLMEncoder(llm, self.template, self.token_budget)
            self._files = file_identity(locate(self.source))
        return self._encoder

    def llm_notes(self, spec: LLMSpec) -> list[str]:
        """What is to be told of our own LLM where another was trained on.

        Before it is loaded, as where all prompts are cached, its weights are not compared.

        Args:
            spec: the LLM that was trained on.
        """
        if self._encoder:
            llm = self._encoder.llm
            name, known, stored = llm.name, llm.fingerprint, llm.storage
        else:
            name, known = locate(self.source).name, ""
            stored = source_storage(self.source, self.block) if spec.storage else ""
        notes = spec.weights_note(name, known), spec.storage_note(name, stored)
        return [note for note in notes if note]

    def weights_identity(self) -> list:
        """What tells the LLM's weights from others: its files as they are now."""
        return file_identity(locate(self.source))

    def identity(self) -> str:
        """All that can change the states but the prompt."""
        parts = [
            STATES_VERSION,
            torch.__version__,
            transformers_version(),
            self.weights_identity(),
            self.template.to_json(),
            self.block,
            self.token_budget,
            str(self.dtype),
            self.device.type,
        ]
        return json.dumps(parts)

    def _compute(self, prompts: list[str]) -> list[PromptStates]:
        encoder = self.encoder()
        return [encoder.encode_rows([prompt])[0].cpu() for prompt in prompts]


def file_identity(found: LLMSource) -> list:
    """Place, size and time of every file that makes an LLM; of one on the hub, its commit."""
    if found.folder is None:
        return [found.repo, downloaded_commit(found.repo)]
    if found.weights:  # the folder is named after all that its states depend on
        return [found.folder.name, digest(found.weights, found.tokenizer)]
    if found.converted and (copy := copy_identity(found.folder)):
        return copy
    if found.converted:  # once a prompt, also of one in the cache: pathlib would take twice as long
        places = {os.path.abspath(found.folder)}
        with os.scandir(found.folder) as entries:
            files = [(e.name, e.stat()) for e in entries if e.name.endswith(IDENTITY_SUFFIXES)]
    else:
        places = {os.path.abspath(path.parent) for path in found.parts}
        files = [(path.name, path.stat()) for path in found.parts]
    # where they are counts too, for archives may set the times of all files alike
    place = hashlib.sha256("\0".join(sorted(places)).encode()).hexdigest()[:12]
    return [place, *sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)]

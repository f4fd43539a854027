"""What every LLM makes of the captions: read from a cache, computed into it, or as training goes.

The cache is the folder format that `lidit generate --cache` and the nodes keep prompts in. Its keys
hold all that changes a state but by rounding, so that another LLM, template or block never meets
old states; captions are read in batches, and a state's last bits are those of the batch.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from accelerate import Accelerator
from torch import Tensor

from lidit_core.bridge.rows import spans_of
from lidit_core.dtypes import torch_dtype
from lidit_core.errors import LiDiTError
from lidit_core.io.atomic import replacing
from lidit_core.llm.hub import model_folder
from lidit_core.llm.loading import source_fingerprint, source_storage
from lidit_core.llm.locate import locate
from lidit_core.text.cache import DiskCache, PromptStates, StateCaches, states_key
from lidit_core.text.encoder import pad_states
from lidit_core.text.prompt_encoder import PromptEncoder
from lidit_core.text.spec import LLMSpec
from lidit_core.text.states import LLMStates

from ..memory import give_back, is_full
from ..recipe import Cache

log = logging.getLogger(__name__)

CHUNK = 128  # captions that an LLM reads at once, and that are kept then


@dataclass(frozen=True, eq=False)
class CaptionStates:
    """What one LLM makes of some captions."""

    states: LLMStates  # (B, L, C) in the dtype that is kept, padded to the longest
    used: tuple[int, ...]  # tokens of each caption that are read, the template's not counted
    spans: Tensor | None = None  # (B, L, 2) float32: characters of the tokens, where they are read


class CaptionReader:
    """One branch's LLM and the states of the captions that it has read.

    Args:
        folder: of the cache; None = nothing is kept and the LLM stays loaded.
        given: the cache was made elsewhere and is all there is: the LLM is not looked for.
        dtype: of the states that are kept, "float32" or "bf16".
        llm: where the LLM is, if not under its name.
    """

    def __init__(
        self,
        spec: LLMSpec,
        folder: Path | None,
        dtype: str = "bf16",
        device: torch.device | str = "cpu",
        given: bool = False,
        llm: str = "",
    ) -> None:
        self.spec, self.dtype = spec, dtype if folder else "float32"
        self.encoder = None if given else _encoder(spec, llm, device)
        self.source = None if given else llm or spec.name
        self._fingerprint = self._storage = ""
        self.disk = DiskCache(folder, max_bytes=1 << 62) if folder else None
        self.caches = StateCaches(None, self.disk)  # a memory would be full at once
        if self.encoder is None:
            assert folder is not None  # what is given lies there
            self.identity, self._fingerprint, self._storage = _noted(folder, spec)
        else:
            self.identity = self._identify(folder, self.encoder)
        if spec.is_read_by(self.fingerprint) is False:
            log.warning(
                "the LLM %s has other weights than the one of that name that the checkpoint was "
                "trained on; its branch learns anew to read them",
                spec.name,
            )
        if told := spec.storage_note(spec.name, self.storage):
            log.warning("%s, or let the training go on to this one", told)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the LLM's weights; "" = not known, as before a first conversion."""
        if self.source is not None and not self._fingerprint:
            self._fingerprint = source_fingerprint(self.source)
        return self._fingerprint

    @property
    def storage(self) -> str:
        """The class of numbers that its weights are stored in; "" = not known, as above."""
        if self.source is not None and not self._storage:
            self._storage = source_storage(self.source, self.spec.block)
        return self._storage

    def _identify(self, folder: Path | None, encoder: PromptEncoder) -> str:
        """The LLM's identity as it will be once loaded, noted beside what is kept.

        Of the same LLM the note tells the rest, for which its configuration would have to be read.
        """
        if folder is None:
            return ""
        model_folder(locate(encoder.source))  # a conversion would change the identity
        identity = encoder.identity()
        if torch_dtype(self.dtype) != encoder.dtype:
            identity += f"\0{self.dtype}"
        note = _note(folder, self.spec)
        noted = _read_note(note)
        if noted.get("identity") == identity:
            self._fingerprint = noted.get("fingerprint", "")
            self._storage = noted.get("storage", "")
        said = {"llm": self.spec.name, "identity": identity, "fingerprint": self.fingerprint}
        said["storage"] = self.storage
        if noted != said:
            with replacing(note) as beside:
                beside.write_text(json.dumps(said))
        return identity

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The texts whose states are not kept yet, each once, the shortest first."""
        if self.disk is None:
            return []
        keys = {text: self._key(text) for text in texts}
        absent = [text for text, key in keys.items() if key not in self.disk]
        return sorted(absent, key=len)

    def prepare(self, texts: Sequence[str]) -> None:
        """Keep the states of these texts; what is there already is not read again.

        Runs that begin at once and share a folder take its parts in orders of their own, and leave
        out those that another has kept meanwhile.
        """
        absent, disk = self.missing(texts), self.disk
        if disk is None:
            return
        if absent and self.encoder is None:
            raise LiDiTError(
                f"the given states of {self.spec.name} lack {len(absent)} captions, the first "
                f"{absent[0][:60]!r}; make them where the LLM is, or leave cache.given out"
            )
        parts = [absent[first : first + CHUNK] for first in range(0, len(absent), CHUNK)]
        Random(os.getpid()).shuffle(parts)
        done = 0
        for part in parts:
            if lacking := self.missing(part):
                self._states(lacking)
            done += len(part)
            log.info("%s: %d of %d captions read", self.spec.name, done, len(absent))
        if absent and self.missing(absent):
            raise LiDiTError(
                f"the states of {len(self.missing(absent))} captions could not be kept in "
                f"{disk.folder}; make room on its disk, or set cache.states to false"
            )

    def files(self, texts: Sequence[str]) -> list[Path]:
        """The files that hold the states of these texts, or would hold them."""
        return [] if self.disk is None else [self.disk.path(self._key(text)) for text in texts]

    def unload(self) -> None:
        """Let go of the LLM: from here on everything comes from the cache."""
        self.encoder = None
        give_back()

    def tokens(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """How many tokens of each text are read, and how many it has; kept ones that are there."""
        if self.disk is not None:
            kept = (self.disk.tokens(self._key(text)) for text in texts)
            return [counts for counts in kept if counts is not None]
        assert self.encoder is not None  # as nothing is kept
        rendered = map(self.encoder.encoder().renderer, texts)
        return [(tokens.used, tokens.total) for tokens in rendered]

    def read(self, texts: Sequence[str]) -> LLMStates:
        """Float32 states (B, L, C) of the texts, padded to the longest."""
        return self.read_counted(texts).states.to(dtype=torch.float32)

    def read_counted(self, texts: Sequence[str], characters: bool = False) -> CaptionStates:
        """The states of the texts, and how many tokens of each are read.

        Args:
            characters: whether those of each token are told too.
        """
        rows = self.read_rows(texts, characters)
        states, used = pad_states(rows), tuple(row.used for row in rows)
        if not characters:
            return CaptionStates(states, used)
        return CaptionStates(states, used, spans_of(rows, [len(text) for text in texts]))

    def read_rows(self, texts: Sequence[str], characters: bool = True) -> list[PromptStates]:
        """The states of each text by itself, with the characters of its tokens."""
        distinct, known = list(dict.fromkeys(texts)), {}
        for first in range(0, len(distinct), CHUNK):
            part = distinct[first : first + CHUNK]
            known |= dict(zip(part, self._states(part, characters)))
        return [known[text] for text in texts]

    def _states(self, texts: list[str], characters: bool = False) -> list[PromptStates]:
        return self.caches.states(texts, lambda: self.identity, self._compute, characters)

    def _compute(self, texts: list[str]) -> list[PromptStates]:
        if self.encoder is None:
            raise LiDiTError(
                f"the cache has no states of {texts[0][:60]!r} from {self.spec.name}; it was "
                "changed while training, so start the same command again"
            )
        try:
            rows = self.encoder.encoder().encode_rows(texts)
        except Exception as error:
            if len(texts) == 1 or not is_full(error):
                raise
            rows = None  # halves are read outside of the handler, which holds what has failed
        if rows is None:
            half = len(texts) // 2
            return [*self._compute(texts[:half]), *self._compute(texts[half:])]
        dtype = torch_dtype(self.dtype)
        return [replace(row.cpu(), hidden=row.hidden.cpu().to(dtype)) for row in rows]

    def _key(self, text: str) -> str:
        return states_key(self.identity, text)


def open_readers(
    llms: Mapping[int, LLMSpec],
    folder: Path | None,
    kept: Cache,
    accelerator: Accelerator,
    places: Mapping[str, str],
) -> dict[int, CaptionReader]:
    """A reader for each branch, in every process at once; only the first converts or downloads.

    Args:
        folder: of the cache; None = nothing is kept.
        places: where LLMs are that are not found under their names.
    """
    named = {i: (spec, places.get(spec.name, "")) for i, spec in llms.items()}
    with accelerator.main_process_first():
        for spec, place in () if kept.given else named.values():
            model_folder(locate(place or spec.name))
    given = Path(kept.given) if kept.given else None
    options = given or folder, kept.dtype, accelerator.device, given is not None
    return {i: CaptionReader(spec, *options, place) for i, (spec, place) in named.items()}


def _encoder(spec: LLMSpec, llm: str, device) -> PromptEncoder:
    return PromptEncoder(
        llm or spec.name, spec.template, spec.block, spec.token_budget, device=device
    )


def _note(folder: Path, spec: LLMSpec) -> Path:
    return folder / f"{spec.name}.json"


def _read_note(note: Path) -> dict[str, str]:
    """What a note says; nothing where it is not there or is damaged."""
    try:
        said = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _noted(folder: Path, spec: LLMSpec) -> tuple[str, str, str]:
    """The LLM's identity; its fingerprint and storage, which older caches do not tell."""
    try:
        said = json.loads(_note(folder, spec).read_text())
        return said["identity"], said.get("fingerprint", ""), said.get("storage", "")
    except (OSError, ValueError, KeyError) as error:
        raise LiDiTError(
            f"{folder} holds no states of {spec.name} ({error}); expected the cache of a run that "
            f"read its captions with that LLM, with {spec.name}.json in it"
        ) from error

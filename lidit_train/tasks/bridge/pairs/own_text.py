"""What the checkpoint's own text encoder makes of captions, to which a bridge adds.

A caption that the recipe's recording of that encoder holds is taken from there. Of others the
encoder in the checkpoint, which has to write what was recorded, makes it once, into the cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from lidit_core.bridge.encode import POOLED
from lidit_core.bridge.recorded import ALIKE, RecordedPrompts, Target
from lidit_core.bridge.rows import TEXT, OwnRows, TeacherRows
from lidit_core.dtypes import torch_dtype
from lidit_core.errors import LiDiTError, check
from lidit_core.io.conditioning import (
    EncodedPrompt,
    EncodedPrompts,
    Entry,
    distance,
    read_encoded,
    write_encoded,
)
from lidit_core.text.cache import states_key

from ....data.room import STORED_BYTES, free_disk
from ....memory import give_back
from ....units import as_bytes
from ...adapter.base_text import BaseText, entry_of, lacking_text, read_base_text
from ...adapter.target import UNetTarget
from ..batches import own_rows

log = logging.getLogger(__name__)

FOLDER = "own"  # in the cache
TOLD = 1000  # captions between two lines of the log
REMEDY = (
    "record a file that has every caption as a line with the checkpoint's own encoder (Record "
    "Conditioning), and name that recording as bridge.add"
)


@dataclass(frozen=True, eq=False)
class OwnCaptions:
    """What the encoder that is added to wrote of texts.

    Args:
        recorded: the recording of it.
        places: the numbers of the texts that it holds.
        folder: of what was computed of others, a file each.
        dtype: of these, "float32" or "bf16".
    """

    recorded: RecordedPrompts
    places: Mapping[str, int]
    folder: Path
    dtype: str

    @staticmethod
    def of(recorded: RecordedPrompts, unet: UNetTarget, cache: Path, dtype: str) -> OwnCaptions:
        """Look for a recording's texts.

        Args:
            unet: in whose checkpoint the encoder may lie.
            cache: the folder of the run's caches.
        """
        unread = set(recorded.teacher.unread)  # in which the host read more than plain text
        places = {text: n for n, text in enumerate(recorded.texts) if n not in unread}
        return OwnCaptions(recorded, places, cache / FOLDER / _identity(recorded, unet), dtype)

    def path(self, text: str) -> Path:
        """The file of a text that is computed."""
        return self.folder / f"{states_key(self.dtype, text)}.safetensors"

    def computed(self, texts: Sequence[str]) -> list[str]:
        """The texts that the recording does not hold and of which something is read."""
        rows, absent = self.recorded.teacher.rows, [t for t in texts if t not in self.places]
        return [text for text in absent if bool((rows(text).kinds == TEXT).any())]

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The texts that have to be computed and were not yet."""
        return [text for text in self.computed(texts) if not self.path(text).is_file()]

    def target(self, text: str) -> Target:
        """What the encoder wrote of a text; of one without anything to read, as of the empty one.

        Raises:
            LiDiTError: it is not there any more.
        """
        if (place := self.places.get(text)) is not None:
            return self.recorded.target(place)
        rows = self.recorded.teacher.rows(text)
        if not bool((rows.kinds == TEXT).any()):
            return _target(self.recorded.empty)
        path = self.path(text)
        check(
            path.is_file(),
            f"the cache has no conditioning of {text[:60]!r} by the checkpoint's own encoder; it "
            "was changed while training, so start the same command again",
        )
        found = _target(read_encoded(path).prompts[0].entries[0])
        check(
            len(found.sequence) == len(rows.ids),
            f"{path} holds {len(found.sequence)} rows of {text[:60]!r}, and {len(rows.ids)} were "
            "expected; delete it, and start the same command again",
        )
        return found

    def own(self, texts: Sequence[str], rows: TeacherRows) -> OwnRows:
        """The same of a batch of texts, in their rows (B, R)."""
        found = [self.target(text) for text in texts]
        return own_rows(found, rows, self.recorded.teacher.spec.masked)

    def prepare(self, unet: UNetTarget, texts: Sequence[str], accelerator: Accelerator) -> None:
        """Compute what is missing, every process its share.

        Raises:
            LiDiTError: the checkpoint has no encoder that writes what was recorded, or the disk has
                no room.
        """
        missing = self.missing(texts)
        if missing:
            encoder = self._encoder(unet, len(missing), missing[0])
            self._check_room(missing)
            encoder.to(accelerator.device)
            self._compute(encoder, missing[accelerator.process_index :: accelerator.num_processes])
            del encoder
            give_back()
        accelerator.wait_for_everyone()

    @torch.no_grad()
    def _compute(self, encoder: BaseText, texts: Sequence[str]) -> None:
        rows, dtype = self.recorded.teacher.rows, torch_dtype(self.dtype)
        for done, text in enumerate(texts, 1):
            sequence, values = entry_of(encoder, text, rows(text))
            kept = {name: value.to("cpu", dtype) for name, value in values.items()}
            encoded = EncodedPrompt([(sequence.to("cpu", dtype), kept)], text)
            write_encoded(self.path(text), EncodedPrompts([encoded]))
            if done % TOLD == 0 or done == len(texts):
                told = "%s: %d of %d captions read, which the recording does not hold"
                log.info(told, self.recorded.teacher.spec.name, done, len(texts))

    def _encoder(self, unet: UNetTarget, count: int, first: str) -> BaseText:
        """The checkpoint's encoder, once it is seen to write what was recorded."""
        folder, name = self.recorded.recording.folder, self.recorded.teacher.spec.name
        absent = f"{folder}, whose encoder is added to, lacks {count} captions, as {first[:60]!r}"
        lacking = lacking_text(unet, unet.base)
        check(not lacking, f"{absent}, and {unet.base} holds no {lacking} to read them; {REMEDY}")
        encoder = read_base_text(unet.base, bool(unet.shape.adm)).requires_grad_(False).eval()
        try:
            far = self._distance(encoder)
        except LiDiTError as error:
            raise LiDiTError(f"{absent}; {error}: {REMEDY}") from error
        check(
            far <= ALIKE,
            f"{absent}, and the encoder in {unet.base} is not the {name} that was recorded: what "
            f"it writes is {far:.2g} off, and {ALIKE:g} at most was expected; {REMEDY}",
        )
        return encoder

    @torch.no_grad()
    def _distance(self, encoder: BaseText) -> float:
        """How far the encoder is from the recorded one, by the recording's probes."""
        rows, probes = self.recorded.teacher.rows, self.recorded.recording.probes().prompts
        made = [(entry_of(encoder, p.text, rows(p.text)), p.entries[0]) for p in probes]
        return max(distance(theirs, ours) for ours, theirs in made)

    def _check_room(self, missing: Sequence[str]) -> None:
        spec, rows = self.recorded.teacher.spec, self.recorded.teacher.rows
        numbers = sum(len(rows(text).ids) * spec.width + spec.pooled for text in missing)
        needed, free = numbers * STORED_BYTES[self.dtype], free_disk(self.folder)
        check(
            needed <= free,
            f"what {spec.name} makes of {len(missing):,} captions would take about "
            f"{as_bytes(needed)}, and {as_bytes(free)} are free in {self.folder}; make room there, "
            "or name another cache.folder",
        )


def _target(entry: Entry) -> Target:
    pooled = entry[1].get(POOLED)
    return Target(entry[0][0].float(), None if pooled is None else pooled[0].float())


def _identity(recorded: RecordedPrompts, unet: UNetTarget) -> str:
    """A hash of all that what is computed depends on: the checkpoint's files, the rows' layout."""
    base = unet.base
    files = [base] if base.is_file() else sorted(base.glob("text_encoder*/*.safetensors"))
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    rows = recorded.teacher.rows
    layouts = [asdict(maker.layout) for maker in rows.makers]
    tokenizers = [maker.tokenizer.to_str() for maker in rows.makers]
    told = json.dumps([stats, layouts, tokenizers])
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]

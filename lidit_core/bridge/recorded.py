"""A recording as a bridge learns from it: what each of its rows stands for, and what they hold."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..errors import check
from ..io.conditioning import EncodedPrompt, Entry, distance
from ..io.recording import Recording, open_recording
from ..paths import at_home
from .config import TeacherSpec
from .encode import MASK, POOLED
from .layout import AnyRows
from .rows import TeacherRows
from .teacher import Teacher, read_teacher

MOST = 500  # held out prompts: more would tell little more
ALIKE = 0.05  # distance of empty prompts above which an encoder is told to be another; it tells two
# of one tokenizer and width apart, such as a CLIP and one that was trained further


@dataclass(frozen=True, eq=False)
class Target:
    """What the teacher made of one prompt."""

    sequence: Tensor  # (R, C) float32
    pooled: Tensor | None  # (P,) float32


@dataclass(frozen=True, eq=False)
class RecordedPrompts:
    """A recording, and what each of its rows stands for."""

    recording: Recording
    teacher: Teacher
    own: RecordedPrompts | None = None  # of the encoder that a bridge adds to, the same prompts

    @staticmethod
    def open(path: str, add: str = "") -> RecordedPrompts:
        """Open a recording's folder.

        Args:
            add: that of the encoder to be added to; "" = none.
        Raises:
            LiDiTError: it is no whole recording, or does not say what its rows stand for.
        """
        folder = at_home(path)
        recording = open_recording(folder)
        recording.check_whole()  # before the teacher, which is written at last
        found = RecordedPrompts(recording, read_teacher(folder))
        return replace(found, own=_added_to(RecordedPrompts.open(add), found)) if add else found

    @property
    def written(self) -> Teacher:
        """The encoder in whose form the bridge writes: the one that it adds to."""
        return self.teacher if self.own is None else self.own.teacher

    @cached_property
    def texts(self) -> list[str]:
        return self.recording.texts()

    @cached_property
    def empty(self) -> Entry:
        """The empty prompt's conditioning by the encoder in whose form the bridge writes.

        What it holds beside sequence, pooled vector and mask is every prompt's.
        """
        if self.own is not None:
            return self.own.empty
        probes = self.recording.probes().prompts
        entries = [self._entry(probe) for probe in probes]
        check_beside(entries, f"the recording {self.recording.folder}")
        return entries[0] if self.teacher.empty is None else self.teacher.empty

    def rows(self, number: int) -> TeacherRows:
        return self.teacher.rows(self.texts[number])

    def target(self, number: int) -> Target:
        """What is learnt of a prompt.

        Raises:
            LiDiTError: it is not what the layout of the rows says.
        """
        sequence, values = self._entry(self.recording.prompt(number))
        spec, text = self.teacher.spec, self.texts[number]
        expected = (1, len(self.rows(number).ids), spec.width)
        check(
            tuple(sequence.shape) == expected,
            f"the recording {self.recording.folder} has {tuple(sequence.shape)} of prompt "
            f"{text[:60]!r}; expected {expected} by the layout of its teacher: record with the "
            "tokenizer that the teacher has",
        )
        pooled = values.get(POOLED)
        found = 0 if pooled is None else pooled.shape[-1]
        check(
            found == spec.pooled,
            f"the recording {self.recording.folder} has a pooled vector of {found} numbers; "
            f"expected {spec.pooled} by its teacher",
        )
        return Target(sequence[0].float(), None if pooled is None else pooled[0].float())

    def _entry(self, prompt: EncodedPrompt) -> Entry:
        check(
            len(prompt.entries) == 1 and prompt.entries[0][0].ndim == 3,
            f"the recording {self.recording.folder} has {len(prompt.entries)} entries of "
            f"{prompt.text[:60]!r}, or several layers in one; expected one sequence a prompt",
        )
        return prompt.entries[0]

    def split(self, share: float, seed: int) -> tuple[list[int], list[int]]:
        """The numbers of the prompts that are learnt from, and of those that are held out.

        A text that is held out is learnt from nowhere, and of equal texts one is taken. Those whose
        rows are not known are neither: the encoder read more than plain text in them.
        """
        unread = {*self.teacher.unread, *self.written.unread}
        read = [(text, n) for n, text in enumerate(self.texts) if text and n not in unread]
        distinct = list(dict(read).values())
        check(
            len(distinct) > 1,
            f"the recording {self.recording.folder} holds {len(distinct)} prompts to learn from; "
            "expected two or more: record a whole collection of plain text",
        )
        order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
        count = min(MOST, max(1, round(share * len(distinct))))
        shuffled = [distinct[n] for n in order.tolist()]
        return sorted(shuffled[count:]), sorted(shuffled[:count])


def form(spec: TeacherSpec, rows: AnyRows) -> tuple:
    """How an encoder lays its rows out, by which tokenizers, and how wide they are."""
    read = [maker.tokenizer.to_str() for maker in rows.makers]
    return spec.layouts, spec.width, spec.pooled, spec.masked, read


def _added_to(own: RecordedPrompts, target: RecordedPrompts) -> RecordedPrompts:
    """The recording of an encoder that a bridge adds to, with something to be added."""
    ours, theirs, folder = own.teacher, target.teacher, own.recording.folder
    check(
        own.recording.prompts_hash == target.recording.prompts_hash,
        f"{folder}, whose encoder is added to, holds other prompts than {target.recording.folder}; "
        "record the same file of prompts with both encoders",
    )
    check(
        form(ours.spec, ours.rows) == form(theirs.spec, theirs.rows),
        f"{folder}, whose encoder is added to, is of {ours.spec.name}, rows of {ours.spec.width}, "
        f"and what is learnt of {theirs.spec.name}, rows of {theirs.spec.width}, which lays its "
        "rows out otherwise; expected two encoders with the same tokenizer, rows and pooled vector",
    )
    made = [[e for p in r.recording.probes().prompts for e in p.entries] for r in (own, target)]
    check(
        any(distance(a, b) for a, b in zip(*made)),
        f"{folder}, whose encoder is added to, writes what {target.recording.folder} does, so that "
        "there is nothing to add; expected recordings of two encoders, the checkpoint's own and a "
        "better one",
    )
    return own


def check_beside(entries: Sequence[Entry], whose: str) -> None:
    """Refuse an encoder that gives more of each prompt than a bridge would write.

    Args:
        entries: of different prompts.
        whose: the beginning of the sentence.
    """
    check(
        len({_beside(values) for _, values in entries}) == 1,
        f"{whose} has more than {POOLED} and {MASK} that changes with the prompt "
        f"({', '.join(sorted(entries[0][1]))}), which no bridge writes yet; record a text "
        "encoder whose conditioning has no more",
    )


def _beside(values) -> str:
    """All that an entry has beside what a bridge writes, as text that is equal where it is."""
    return repr([_shown(values[name]) for name in sorted(values) if name not in (POOLED, MASK)])


@functools.singledispatch
def _shown(value) -> object:
    return value


@_shown.register
def _(value: Tensor) -> object:
    return str(value.dtype), value.tolist()


@_shown.register
def _(value: dict) -> object:
    return [(key, _shown(inner)) for key, inner in sorted(value.items())]


@_shown.register
def _(value: list) -> object:
    return [_shown(inner) for inner in value]


def lengths(texts: Sequence[str]) -> list[int]:
    """Characters of each text."""
    return [len(text) for text in texts]

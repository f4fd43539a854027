"""What a recording has to say of a CLIP of the host, so that a bridge can be trained from it.

A CLIP has one tokenizer or several. The one whose tokens are as many as the rows of the sequence
says what each row stands for; others that give the same tokens add their tables. What is worked out
is compared with the host's own tokens before it is believed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...lidit_core.bridge.config import TeacherSpec
from ...lidit_core.bridge.encode import POOLED
from ...lidit_core.bridge.layout import AnyRows, RowMaker, joined
from ...lidit_core.bridge.recorded import check_beside
from ...lidit_core.bridge.rows import PADDING_ROW, TEXT, TeacherRows
from ...lidit_core.bridge.teacher import Teacher, seeds_of
from ...lidit_core.errors import LiDiTError, check, first_line
from ...lidit_core.io.conditioning import Entry
from ...lidit_core.io.recording import Encode
from ..llm.host_tokenizer import text_parts
from ..llm.reader import PromptReader
from .host_texts import PREFIX, PROBES, HostTexts, rows_of_host
from .padding import is_masked

WEIGHTED = "a (cat:1.5)"
QUOTED = 'a shop sign that says "open"'  # in which some tokenizers have a part that else is absent


def teacher_of(clip: Any, encode: Encode) -> HostTeacher:
    """A CLIP without its weights.

    Args:
        encode: gives the CLIP's entries of a prompt.
    Raises:
        LiDiTError: it is no encoder that a bridge can stand in for yet.
    """
    model = clip.cond_stage_model
    check(
        not isinstance(model, PromptReader),
        "this CLIP is an LLM that LI-DiTs read, which a bridge reads and does not write; `lidit "
        "record` records one to be written",
    )
    with _known(type(model).__name__):
        return _teacher(clip, encode, type(model).__name__)


@contextmanager
def _known(name: str) -> Iterator[None]:
    """Tell in one sentence of an encoder that is built in another way than those known here."""
    try:
        yield
    except LiDiTError:
        raise
    except Exception as error:  # the host's classes change from release to release
        raise LiDiTError(
            f"{name} is built in a way that is not known here "
            f"({type(error).__name__}: {first_line(error)[:120]}); record another text encoder"
        ) from error


@dataclass(frozen=True, eq=False)
class HostTeacher:
    """A CLIP as a teacher, with what makes its tokens."""

    every: Sequence[HostTexts]  # of each text model whose rows the teacher writes
    described: Teacher

    def of(self, prompts: Sequence[str]) -> Teacher:
        """The teacher of a recording of these prompts.

        Those in which the host reads more than plain text, such as (word:1.3) or an embedding, are
        `Teacher.unread`.

        Raises:
            LiDiTError: as of `teacher_of`.
        """
        makers, model = self.described.rows.makers, self.every[0].clip.cond_stage_model
        with _known(type(model).__name__):
            unread = (n for n, text in enumerate(prompts) if not _agree(self.every, makers, text))
            return replace(self.described, unread=tuple(unread))


def _agree(every: Sequence[HostTexts], makers: Sequence[RowMaker], text: str) -> bool:
    """Whether each encoder's rows are the host's tokens of a prompt."""
    return all(texts.agree(maker, text) for texts, maker in zip(every, makers))


def _teacher(clip: Any, encode: Encode, name: str) -> HostTeacher:
    entries = [_only(encode(probe), name) for probe in PROBES]
    _check_quoted(name, entries[0], _only(encode(QUOTED), name))
    check_beside(entries, name)
    parts = dict(text_parts(clip.tokenizer))
    for every in (*_candidates(clip, parts, entries), *_pairs(clip, parts, entries)):
        makers = [rows_of_host(texts, parts.get(texts.part)) for texts in every]
        found = [maker for maker in makers if maker is not None]
        if len(found) == len(every) and _begin(joined(found), entries):
            of = list(parts) or [every[0].part]
            return HostTeacher(every, _described(every, found, entries, of))
    raise LiDiTError(
        f"the rows that {name} writes, {entries[0][0].shape[1]} of an empty prompt, are not the "
        f"tokens of its {' or '.join(parts) or 'tokenizer'} one by one; a bridge writes those of "
        "text encoders whose tokens are, such as CLIP's, T5's and plain LLMs'"
    )


def _candidates(
    clip: Any, parts: dict[str, Any], entries: Sequence[Entry]
) -> Iterator[list[HostTexts]]:
    """The texts of a CLIP's models whose tokens are as many as its rows, or as many more."""
    if hasattr(clip.cond_stage_model, "bridge_rows"):  # one of ours, which says it itself
        yield [HostTexts(clip, next(iter(clip.tokenize(""))))]
    for part, tokenizer in parts.items():
        paddings = (None, int(tokenizer.pad_token)) if _pads_left(tokenizer) else (None,)
        for padding in paddings:
            texts = HostTexts(clip, part, padding)
            more = {
                len(texts.tokens(probe)) - entry[0].shape[1]
                for probe, entry in zip(PROBES, entries)
            }
            if len(more) == 1 and min(more) >= 0:
                yield [replace(texts, dropped=min(more))]


def _pairs(clip: Any, parts: dict[str, Any], entries: Sequence[Entry]) -> Iterator[list[HostTexts]]:
    """Two models' texts whose tokens together are as many as the rows: of SD3 CLIP's and T5's."""
    counts = [entry[0].shape[1] for entry in entries]
    for pair in itertools.permutations(parts, 2):
        every = [HostTexts(clip, part) for part in pair]
        if counts == [sum(len(texts.tokens(probe)) for texts in every) for probe in PROBES]:
            yield every


def _pads_left(part: Any) -> bool:
    return bool(getattr(part, "pad_left", False))


def _begin(rows: AnyRows, entries: Sequence[Entry]) -> bool:
    """Whether each encoder's first row of text is where it is thought to be: it varies there.

    Of one that keeps back no row, and has the sequence for itself, nothing else can be.
    """
    if isinstance(rows, RowMaker) and not rows.layout.dropped:
        return True
    pair = [(rows(probe), entry[0][0]) for probe, entry in list(zip(PROBES, entries))[1:3]]
    (made, row), (other, another) = pair
    return not any(
        torch.allclose(row[_first(made, part)], another[_first(other, part)])
        for part in range(len(rows.makers))
    )


def _first(rows: TeacherRows, part: int) -> int:
    """An encoder's first row of text."""
    return int(((rows.kinds == TEXT) & (rows.parts == part)).int().argmax())


def _only(entries: Sequence[Entry], name: str) -> Entry:
    check(
        len(entries) == 1 and entries[0][0].ndim == 3,
        f"{name} gives {len(entries)} entries a prompt, or several layers in one; a bridge writes "
        "one sequence",
    )
    return entries[0]


def _check_quoted(name: str, empty: Entry, quoted: Entry) -> None:
    """Refuse an encoder that gives more of some prompts, of which a bridge would write nothing."""
    more = sorted(set(quoted[1]) - set(empty[1]))
    check(
        not more,
        f"of prompts with words in quotes {name} gives {' and '.join(more)} too, which no bridge "
        "writes yet; load the CLIP without the encoder of that, or record another text encoder",
    )


def _described(
    every: Sequence[HostTexts],
    makers: Sequence[RowMaker],
    entries: Sequence[Entry],
    names: list[str],
) -> Teacher:
    """Describe the teacher, once the layouts of its rows are known.

    Args:
        entries: of `PROBES`.
    """
    sequence, values = entries[0]
    pooled: Any = values.get(POOLED)
    made, seeds, joins = [], [], []
    for texts, maker in zip(every, makers):
        layout = replace(maker.layout, first_id=sum(map(len, seeds)))
        made.append(RowMaker(layout, maker.tokenizer))
        widths, own = _seeds(texts, maker, names)
        seeds.append(own)
        joins.append(widths)
    width, rows = sequence.shape[-1], joined(made)
    count = pooled.shape[-1] if isinstance(pooled, Tensor) else 0
    parts = [rows(probe).parts for probe in PROBES]
    taps = [
        _taps(widths, [entry[0][0, own == part] for own, entry in zip(parts, entries)])
        for part, widths in enumerate(joins)
    ]
    spec = TeacherSpec(
        type(every[0].clip.cond_stage_model).__name__,
        width,
        sum(map(len, seeds)),
        made[0].layout,
        count,
        taps[0],
        masked=is_masked(every[0].clip.cond_stage_model, values),
        more=tuple(maker.layout for maker in made[1:]),
        weights=any(weight != 1 for _, weight in every[0].tokens(WEIGHTED)),
        tokenizers=tuple(texts.key for texts in every),
        more_taps=tuple(taps[1:]),
        pooled_taps=next((tuple(w) for w in joins if len(w) > 1 and sum(w) == count), ()),
    )
    return Teacher(spec, rows, torch.cat(seeds), (sequence, values))


def _seeds(texts: HostTexts, rows: RowMaker, names: list[str]) -> tuple[list[int], Tensor]:
    """The widths of the tables of all that read the same tokens, and the seeds of those joined."""
    alike = [name for name in names if _same_text(texts, replace(texts, part=name), rows)]
    tables = [_table(texts.clip.cond_stage_model, name) for name in alike]
    ids = min(len(table) for table in tables)
    seeds = seeds_of(torch.cat([table[:ids] for table in tables], dim=1))
    return [table.shape[1] for table in tables], seeds


def _same_text(texts: HostTexts, other: HostTexts, rows: RowMaker) -> bool:
    """Whether another of the tokenizers gives the same tokens, but for padding."""
    for probe in PROBES:
        own, others, made = texts.ids(probe), other.ids(probe), rows(probe)
        if own is None or others is None or len(own) != len(others):
            return False
        kept = (made.kinds != PADDING_ROW).tolist()
        if any(keep and a != b for keep, a, b in zip(kept, own, others)):
            return False
    return True


def _taps(widths: list[int], rows: Sequence[Tensor]) -> tuple[int, ...]:
    """The parts that a row is joined of: several encoders', or several layers of one.

    Args:
        widths: of the encoders that read the same tokens.
        rows: of one encoder (N, width), of each probe. SD3 fills CLIP's up with zeros.
    """
    width, own = rows[0].shape[-1], sum(widths)
    if own <= width and not any(bool(probe[:, own:].any()) for probe in rows):
        return tuple(widths) if len(widths) > 1 or own < width else ()
    if width > widths[0] and width % widths[0] == 0:
        return (widths[0],) * (width // widths[0])
    return ()


def _table(model: Any, name: str) -> Tensor:
    """The token embeddings of one text model, (ids, width) float32 on the CPU."""
    part = getattr(model, name, None) or getattr(model, name.removeprefix(PREFIX), None)
    transformer: Any = getattr(part, "transformer", model)
    check(
        hasattr(transformer, "get_input_embeddings"),
        f"{type(model).__name__} has no token embeddings for its {name}; record another encoder",
    )
    weight = transformer.get_input_embeddings().weight
    weight = weight.dequantize() if _is_packed(weight) else weight
    return weight.detach().to("cpu", torch.float32)


def _is_packed(weight: Tensor) -> bool:
    """Whether the host keeps it in a form of its own."""
    return type(weight) not in (Tensor, torch.nn.Parameter) and hasattr(weight, "dequantize")

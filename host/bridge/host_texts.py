"""What the host's tokenizers make of prompts, and what of ours gives the same tokens."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Tokenizer

from ...lidit_core.bridge.layout import RowMaker, TokenLayout, fitted
from ...lidit_core.text.renderer import PromptRenderer
from ...lidit_core.text.templates import InstructionTemplate
from ..llm.host_tokenizer import readable_tokenizer

PROBES = ("", "a cat", "two red cars, left of 3 small blue birds!", "猫", "a small word " * 60)
PREFIX = (
    "clip_"  # that the host puts before the names of some tokenizers and models, and not others
)
HOLE = "{}"  # where a host's template has the prompt
ENOUGH = 1 << 20  # tokens, more than any prompt has


@dataclass(frozen=True)
class HostTexts:
    """What the host's tokenizer makes of prompts for one of a CLIP's text models."""

    clip: Any
    part: str  # the text model
    padding: int | None = None  # id of padding before the text that gets no row; None = none
    dropped: int = 0  # first tokens, of a template, that get no row

    def tokens(self, text: str) -> list[tuple]:
        """The (token, weight) of every row, all chunks one after the other.

        There are none of a part that the host gives for other prompts alone.
        """
        found = self.clip.tokenize(text)
        key = self._key(found)
        pieces = [(piece[0], piece[1]) for chunk in found.get(key, ()) for piece in chunk]
        if self.padding is not None:
            pieces = list(itertools.dropwhile(lambda p: p[0] == self.padding, pieces))
        return pieces[self.dropped :]

    @property
    def key(self) -> str:
        """The name that the host's tokens have for it, such as l, t5xxl or gemma3_12b."""
        return self._key(self.clip.tokenize(""))

    def _key(self, found: Mapping[str, Any]) -> str:
        return self.part if self.part in found else self.part.removeprefix(PREFIX)

    def ids(self, text: str) -> list[int] | None:
        """The rows' token ids; None where one has a weight, or is no token of the vocabulary."""
        tokens = self.tokens(text)
        plain = all(isinstance(token, int) and weight == 1 for token, weight in tokens)
        return [int(token) for token, _ in tokens] if plain else None

    def agree(self, rows: RowMaker, text: str) -> bool:
        ids = self.ids(text)
        return ids is not None and ids == (rows(text).ids - rows.layout.first_id).tolist()


def rows_of_host(texts: HostTexts, part: Any) -> RowMaker | None:
    """What gives the host's tokens of every probe, without those that get no row."""
    model = texts.clip.cond_stage_model
    rows = model.bridge_rows() if part is None else _rows(replace(texts, dropped=0), part)
    if rows is None or texts.dropped > rows.layout.heads:
        return None
    made = RowMaker(replace(rows.layout, dropped=texts.dropped), rows.tokenizer)
    return made if all(texts.agree(made, probe) for probe in PROBES) else None


def _rows(texts: HostTexts, part: Any) -> RowMaker | None:
    """What gives the host's tokens of every probe; None where nothing does."""
    wrapped = readable_tokenizer(texts.clip.tokenizer, texts.part, "")
    for layout in _layouts(texts, part, wrapped):
        core = Tokenizer.from_str(wrapped.backend_tokenizer.to_str())  # one of our own
        core.no_padding()
        core.no_truncation()
        rows = RowMaker(fitted(layout, core), core)
        if all(texts.agree(rows, probe) for probe in PROBES):
            return rows
    return None


def _layouts(texts: HostTexts, part: Any, wrapped: Any) -> Iterator[TokenLayout]:
    """The layouts that may be a tokenizer's: as it stands, and in the template that it has."""
    start, end = (
        () if token is None else (int(token),) for token in (part.start_token, part.end_token)
    )
    window = int(part.max_length) if part.pad_to_max_length else 0
    layout = TokenLayout(start, end, window=window, pad=int(part.pad_token))
    empty = texts.ids("") or []
    yield layout if window else replace(layout, least=len(empty))
    template = getattr(texts.clip.tokenizer, "llama_template", None)
    if not window and isinstance(template, str) and template.count(HOLE) == 1:
        before, after = template.split(HOLE)
        asked = InstructionTemplate("host", layout=f"{before}{{prompt}}{after}", chat=False)
        around = PromptRenderer(wrapped, asked, ENOUGH, 2 * ENOUGH)
        head, tail = tuple(around.head_ids), (*around.tail_ids, *end)
        head = head if head[: len(start)] == start else (*start, *head)
        told = replace(layout, start=head, end=tail, before=around.before, after=around.after)
        for least in (0, len(empty)):
            yield replace(told, least=least)

"""How a text encoder lays a prompt's tokens out in rows: what each row of its sequence stands for.

CLIP has 77 rows: a start token, the prompt, an end token, padding; a longer prompt goes on in
another such chunk, and a word is not parted where it fits into the next. T5 has as many rows as
tokens. An LLM has its template around the prompt, tokenised together with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch

from ..errors import check
from ..text.renderer import offsets_in, prompt_span
from ..text.words import WORD, word_number
from .rows import PADDING_ROW, SPECIAL, TEXT, TeacherRows

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class TokenLayout:
    """The rows of one encoder."""

    start: tuple[int, ...] = ()  # ids before each chunk's text
    end: tuple[int, ...] = ()  # ids after it
    before: str = ""  # text that is tokenised with the prompt, before it
    after: str = ""
    window: int = 0  # rows of a chunk, padding included; 0 = one chunk of any length
    least: int = 0  # rows that a sequence is padded to where it has no window
    pad: int = 0  # id of padding
    word: int = (
        0  # tokens of a word that stays in one chunk where it has no more; 0 = any is parted
    )
    most: int = 0  # tokens of a prompt that are read; 0 = all
    numbers: int = 0  # that words share, see `text/words.py`; 0 = each token has its own
    first_id: int = 0  # added to each id, in a table of several tokenizers
    dropped: int = 0  # first rows, of a template, that are kept back from the sequence
    heads: int = 0  # rows before the prompt, those of `before` too
    tails: int = 0  # rows after it, up to the padding

    def __post_init__(self) -> None:
        for name in (
            "window",
            "least",
            "word",
            "most",
            "numbers",
            "first_id",
            "dropped",
            "heads",
            "tails",
        ):
            value = getattr(self, name)
            check(value >= 0, f"the rows' layout has {name}={value}; expected 0 or more")
        object.__setattr__(self, "heads", max(self.heads, len(self.start)))
        object.__setattr__(self, "tails", max(self.tails, len(self.end)))
        check(
            not self.window or self.window > self.heads + self.tails,
            f"the rows' layout has window={self.window}, and {self.heads + self.tails} rows of it "
            "are not the prompt's; expected more",
        )
        check(
            not (self.window and (self.before or self.after)),
            "the rows' layout has a window and text around the prompt; expected one of both",
        )

        check(
            self.dropped <= self.heads,
            f"the rows' layout has dropped={self.dropped}, and {self.heads} rows stand before the "
            "prompt; expected no more",
        )

    @property
    def constants(self) -> int:
        """The number of kinds of rows that are no text: heads, tails, and padding by its place."""
        return self.heads + self.tails + max(self.window, self.least, 1)


@dataclass(frozen=True)
class _Token:
    id: int
    start: int  # characters of the prompt
    stop: int
    word: int | None = None  # its number among the prompt's words


class RowMaker:
    """Makes the rows of prompts.

    Args:
        tokenizer: of the encoder; special tokens written in a prompt are read as text.
    """

    def __init__(self, layout: TokenLayout, tokenizer: Tokenizer) -> None:
        self.layout, self.tokenizer = layout, tokenizer
        tokenizer.encode_special_tokens = True

    def __call__(self, prompt: str) -> TeacherRows:
        """The rows of one prompt, without a dimension for the batch."""
        head, text, tail = self._tokens(prompt)
        rows = [
            (*row, place, chunk)
            for chunk, part in enumerate(self._chunks(text))
            for place, row in enumerate(self._chunk(head, part, tail, len(prompt)))
        ]
        columns = zip(*rows[self.layout.dropped :])
        ids, starts, stops, kinds, constants, places, chunks = columns
        return TeacherRows(
            torch.tensor(ids) + self.layout.first_id,
            torch.tensor([starts, stops], dtype=torch.float32).T.contiguous(),
            torch.tensor(kinds),
            torch.tensor(constants),
            torch.tensor(places),
            torch.tensor(chunks),
            torch.zeros(len(ids), dtype=torch.int64),
        )

    @property
    def makers(self) -> tuple[RowMaker, ...]:
        return (self,)

    def around(self, prompt: str) -> tuple[int, int]:
        """How many rows stand before a prompt, and after it up to the padding."""
        head, _, tail = self._tokens(prompt)
        return len(self.layout.start) + len(head), len(tail) + len(self.layout.end)

    def _tokens(self, prompt: str) -> tuple[list[_Token], list[_Token], list[_Token]]:
        """Tokens of the text before the prompt, of the prompt, and of the text after it."""
        layout, before = self.layout, len(self.layout.before)
        whole = layout.before + prompt + layout.after
        encoded = self.tokenizer.encode(whole, add_special_tokens=False)
        ids = encoded.ids
        if layout.numbers:
            ids = [word_number(whole[slice(*place)], layout.numbers) for place in encoded.offsets]
        first, stop = prompt_span(encoded.offsets, before, before + len(prompt))
        first = 0 if prompt and not layout.before else first
        stop = len(ids) if prompt and not layout.after else max(first, stop)
        places = offsets_in(encoded.offsets, first, stop, before, len(prompt))
        text = [
            _Token(ids[n], *place, encoded.word_ids[n])
            for n, place in zip(range(first, stop), places)
        ]
        head = [_Token(id, 0, 0) for id in ids[:first]]
        tail = [_Token(id, len(prompt), len(prompt)) for id in ids[stop:]]
        return head, text[: layout.most or None], tail

    def _chunks(self, text: list[_Token]) -> list[list[_Token]]:
        layout = self.layout
        if not layout.window:
            return [text]
        room, chunks = layout.window - layout.heads - layout.tails, [[]]
        for word in _words(text):
            left = room - len(chunks[-1])
            if len(word) > left and len(word) < layout.word:
                chunks.append([])
            for token in word:
                if len(chunks[-1]) == room:
                    chunks.append([])
                chunks[-1].append(token)
        return chunks

    def _chunk(self, head, text: list[_Token], tail, length: int) -> Iterator[tuple[int, ...]]:
        """Id, characters, kind and constant of each row of a chunk."""
        layout = self.layout
        fore = [*(_Token(id, 0, 0) for id in layout.start), *head]
        aft = [*tail, *(_Token(id, length, length) for id in layout.end)]
        for n, token in enumerate(fore):
            yield token.id, 0, 0, SPECIAL, max(0, min(n, layout.heads - 1))
        for token in text:
            yield token.id, token.start, token.stop, TEXT, -1
        for n, token in enumerate(aft):
            left = min(len(aft) - 1 - n, layout.tails - 1)
            yield token.id, length, length, SPECIAL, layout.heads + max(0, left)
        filled = len(fore) + len(text) + len(aft)
        for place in range(filled, max(layout.window or layout.least, not filled)):
            constant = layout.heads + layout.tails + place
            yield layout.pad, length, length, PADDING_ROW, constant


class JoinedRows:
    """Makes the rows of encoders that follow on one another in one sequence, as in SD3.

    Args:
        makers: of each, in order; constants and chunks are numbered on from one to the next.
    """

    def __init__(self, makers: Sequence[RowMaker]) -> None:
        self.makers = tuple(makers)

    def __call__(self, prompt: str) -> TeacherRows:
        """The rows of one prompt, without a dimension for the batch."""
        made, constants, chunks = [], 0, 0
        for part, maker in enumerate(self.makers):
            rows = maker(prompt)
            shifted = rows.constants.where(rows.constants < 0, rows.constants + constants)
            made.append(
                replace(
                    rows, constants=shifted, chunks=rows.chunks + chunks, parts=rows.parts + part
                )
            )
            constants += maker.layout.constants
            chunks += int(rows.chunks.max()) + 1
        columns = (torch.cat([getattr(m, f.name) for m in made]) for f in fields(TeacherRows))
        return TeacherRows(*columns)


AnyRows = RowMaker | JoinedRows


def joined(makers: Sequence[RowMaker]) -> AnyRows:
    """The rows of one encoder, or of several."""
    return makers[0] if len(makers) == 1 else JoinedRows(makers)


def word_rows(numbers: int, length: int) -> RowMaker:
    """The rows of a bag of words: as many of any prompt, a number for each word, then padding."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    core = Tokenizer(models.WordLevel({"": 0}, unk_token=""))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    return RowMaker(TokenLayout(window=length, most=length, numbers=numbers), core)


def fitted(layout: TokenLayout, tokenizer: Tokenizer) -> TokenLayout:
    """The layout with as many heads and tails as prompts have around them."""
    sides = [RowMaker(layout, tokenizer).around(probe) for probe in ("", "a cat", ".", "\n", "猫")]
    heads, tails = (max(counts) for counts in zip(*sides))
    return replace(layout, heads=heads, tails=tails)


def _words(text: Sequence[_Token]) -> Iterator[list[_Token]]:
    """The tokens word by word; those of no word each by itself."""
    word: list[_Token] = []
    for token in text:
        if word and (token.word is None or token.word != word[-1].word):
            yield word
            word = []
        word.append(token)
    if word:
        yield word

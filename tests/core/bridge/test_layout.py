"""From prompts to a teacher's rows. Run: pytest tests/core/bridge/test_layout.py"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_bridge import CLIP, END, PROMPTS, START, maker, students, tokenizer
from tiny_llm import plain_tokenizer, save_llm

from lidit_core.bridge.layout import RowMaker, TokenLayout, fitted, word_rows
from lidit_core.bridge.overlap import means, shares
from lidit_core.bridge.rows import ABSENT, PADDING_ROW, SPECIAL, TEXT, TeacherRows, stack_rows
from lidit_core.errors import LiDiTError


def test_a_window_holds_start_text_end_and_padding():
    found, text = maker()("two bees"), tokenizer().encode("two bees", add_special_tokens=False)
    count = len(text.ids)
    padding = [END] * (14 - count)
    assert found.ids.tolist() == [START, *text.ids, END, *padding]
    kinds = [SPECIAL, *[TEXT] * count, SPECIAL, *[PADDING_ROW] * len(padding)]
    assert found.kinds.tolist() == kinds
    assert found.places.tolist() == list(range(16)) and found.chunks.unique().tolist() == [0]


def test_the_characters_of_text_rows_are_the_prompt():
    for prompt in (*PROMPTS, "  two  bees ", "猫 and a 🍎"):
        found = maker(TokenLayout())(prompt)
        covered = "".join(prompt[int(a) : int(b)] for a, b in found.spans.tolist())
        assert set(covered) == set(prompt) and len(found.ids) == found.kinds.eq(TEXT).sum()


@pytest.mark.parametrize("make", [maker(), maker(TokenLayout(before="x ")), word_rows(16, 8)])
def test_half_a_surrogate_pair_is_a_question_mark(make):
    """A saved workflow's JSON may hold one, and tokenizers take none."""
    text = "a \ud83d cat, \udc31 \ud83d\ude00"
    found, expected = make(text), make("a ? cat, ? ??")
    for name in ("ids", "spans", "kinds"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    in_pieces = make(text, (3, len(text) - 3))
    assert torch.equal(in_pieces.ids, make("a ? cat, ? ??", (3, len(text) - 3)).ids)


def test_special_rows_and_padding_are_told_apart_by_place():
    found = maker()("an apple")
    text = int((found.kinds == TEXT).sum())
    constants = found.constants.tolist()
    assert constants[0] == 0 and constants[1 + text] == 1
    assert constants[2 + text :] == [2 + place for place in range(2 + text, 16)]
    assert max(constants) < CLIP.constants


def test_a_long_prompt_goes_on_in_another_chunk_with_whole_words():
    prompt = "a red cat left of two dogs on a blue background above a car"
    found = maker()(prompt)
    chunks = int(found.chunks.max()) + 1
    assert chunks > 1 and len(found.ids) == 16 * chunks
    for n in range(chunks):
        part = found.ids[found.chunks == n]
        assert part[0] == START and END in part.tolist()
    ids = found.ids[found.kinds == TEXT].tolist()
    assert ids == tokenizer().encode(prompt, add_special_tokens=False).ids
    encoded = tokenizer().encode(prompt, add_special_tokens=False)
    last = [int((found.kinds[found.chunks <= n] == TEXT).sum()) - 1 for n in range(chunks - 1)]
    assert all(encoded.word_ids[n] != encoded.word_ids[n + 1] for n in last)


def test_a_word_that_is_longer_than_the_rest_is_parted():
    found = maker()("a " + "qxz" * 12)
    first = found.kinds[found.chunks == 0]
    assert int((first == TEXT).sum()) == 14 and int(found.chunks.max()) > 0


def test_the_empty_prompt_has_rows():
    assert maker()("").kinds.tolist() == [SPECIAL, SPECIAL, *[PADDING_ROW] * 14]
    assert len(maker(TokenLayout(pad=7))("").ids) == 1
    assert len(maker(TokenLayout(end=(END,), least=5))("").ids) == 5


def test_more_tokens_than_are_read_are_cut():
    assert int((maker(TokenLayout(most=3))(PROMPTS[0]).kinds == TEXT).sum()) == 3


def test_special_tokens_written_in_a_prompt_are_text():
    assert (maker(TokenLayout())("<|im_end|>").ids > 2).all()


@pytest.mark.parametrize("chat", ["chatml", "plain"])
@pytest.mark.parametrize("template", ["paper", "short", "none"])
def test_an_llms_rows_are_what_it_reads(tmp_path, chat, template):
    """The layout that `lidit record` writes gives the ids that the LLM was run on."""
    from lidit_core.cli.record import _teacher
    from lidit_core.text.prompt_encoder import PromptEncoder
    from lidit_core.text.spec import LLMSpec
    from lidit_core.text.templates import find_template

    made = None if chat == "chatml" else plain_tokenizer()
    source = save_llm(tmp_path / "llm", tokenizer=made)
    llm = LLMSpec("llm", 32, template=find_template(template), token_budget=12)
    encoder = PromptEncoder(source, llm.template, llm.block, llm.token_budget)
    teacher, render = _teacher(llm, encoder), encoder.encoder().renderer
    for prompt in ("", "a cat", *PROMPTS, " two", ".", "猫", "<|im_start|>", "a red cat " * 9):
        read, found = render(prompt), teacher.rows(prompt)
        assert len(found.ids) == len(read.ids)
        assert found.ids.tolist() == list(read.ids)
        text = (found.kinds == TEXT).nonzero().flatten().tolist()
        assert text == list(range(*read.span))
        assert [tuple(map(int, span)) for span in found.spans[text].tolist()] == [*read.offsets]


def test_rows_of_several_prompts_are_filled_up_with_none():
    made = maker(TokenLayout())
    batch = stack_rows([made(prompt) for prompt in PROMPTS])
    for n, prompt in enumerate(PROMPTS):
        alone = made(prompt)
        assert torch.equal(batch.ids[n][batch.seen[n]], alone.ids)
        assert batch.kinds[n][~batch.seen[n]].unique().tolist() in ([], [ABSENT])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"window": 2, "start": (1,), "end": (2,)}, "are not the prompt's; expected more"),
        ({"window": 9, "before": "x"}, "a window and text around the prompt"),
        ({"most": -1}, "most=-1; expected 0 or more"),
    ],
)
def test_layouts_that_cannot_be_are_told(changes, sentence):
    with pytest.raises(LiDiTError, match=sentence):
        TokenLayout(**changes)


def test_heads_and_tails_are_counted():
    layout = fitted(TokenLayout(start=(1,), before="see a ", after=" !"), tokenizer())
    made = RowMaker(layout, tokenizer())
    kinds = made("zzz").kinds.tolist()
    assert kinds.index(TEXT) <= layout.heads and layout.tails >= 1
    assert max(made("zzz").constants.tolist()) < layout.heads + layout.tails


def spans_of(*spans: tuple[float, float]) -> TeacherRows:
    count = len(spans)
    kinds = torch.tensor([[TEXT] * (count - 1) + [SPECIAL]])
    other = torch.zeros(1, count, dtype=torch.int64)
    return TeacherRows(other, torch.tensor([spans]), kinds, other, other, other, other)


def test_a_row_takes_the_mean_of_what_shares_its_characters():
    tokens = students(["abcdefghi"])  # tokens of abc, def, ghi, after two of an instruction
    h = tokens.states.hidden[0, 2:]
    found = means(spans_of((0, 3), (2, 5), (20, 22), (9, 9)), tokens)[0]
    assert torch.allclose(found[0], h[0], atol=1e-6)
    assert torch.allclose(found[1], h[0] / 3 + 2 * h[1] / 3, atol=1e-6)
    assert torch.allclose(found[2], h.mean(0), atol=1e-6)  # of none
    assert torch.allclose(found[3], h.mean(0), atol=1e-6)  # no text
    share = shares(spans_of((0, 3), (2, 5), (20, 22), (9, 9)), tokens)[0]
    assert share[:, :2].eq(0).all() and torch.allclose(share[1, 2:4], torch.tensor([1 / 3, 2 / 3]))


def test_pieces_are_tokenised_each_by_itself():
    """As ComfyUI does between marks of weights; the characters are those of the whole prompt."""
    prompt, pieces = "two bees on a book", (6, 2, 10)
    found = maker(TokenLayout())(prompt, pieces)
    starts = (0, 6, 8)
    parts = [prompt[a : a + n] for a, n in zip(starts, pieces)]
    encoded = [tokenizer().encode(part, add_special_tokens=False) for part in parts]
    assert found.ids.tolist() == [id for each in encoded for id in each.ids]
    spans = [(a + x, a + y) for a, each in zip(starts, encoded) for x, y in each.offsets]
    assert [tuple(map(int, span)) for span in found.spans.tolist()] == spans
    assert found.ids.tolist() != maker(TokenLayout())(prompt).ids.tolist()
    whole = maker()(prompt, (len(prompt),))
    assert torch.equal(whole.ids, maker()(prompt).ids)
    around = TokenLayout(before="see a ", after=" !")
    told = maker(around)(prompt, pieces)
    first, last = (
        maker(TokenLayout())(text).ids.tolist() for text in ("see a two be", " on a book !")
    )
    assert told.ids.tolist() == [*first, *encoded[1].ids, *last]


def test_a_short_piece_stays_in_one_chunk_where_any_word_is_parted():
    """ComfyUI parts those of eight tokens and more."""
    layout = replace(CLIP, word=0)
    text, length = "a red cat left of two dogs on a blue background", 3
    first = next(n for n in range(1, 99) if _tokens(text[:n]) == 13)
    pieces = (first, length, len(text) - first - length)
    piece = _tokens(text[first : first + length])
    assert 1 < piece < 8
    found = maker(layout)(text, pieces)
    texts = [int((found.kinds[found.chunks == n] == TEXT).sum()) for n in range(2)]
    assert texts[0] == 13 and int((maker(layout)(text).chunks == 0).sum()) == 16
    plain = maker(layout)(text)
    assert int((plain.kinds[plain.chunks == 0] == TEXT).sum()) == 14


def _tokens(text: str) -> int:
    return len(tokenizer().encode(text, add_special_tokens=False).ids)

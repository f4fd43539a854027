"""Weights that a prompt gives its words. Run: pytest tests/core/text/test_emphasis.py"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_llm import chat_tokenizer, metaspace_tokenizer, plain_tokenizer, save_llm

from lidit_core.errors import LiDiTError
from lidit_core.text.cache import MEMORY, DiskCache, states_key
from lidit_core.text.emphasis import encode_emphasised, read_emphasis, token_weight
from lidit_core.text.encoder import pad_states
from lidit_core.text.notes import prompt_notes
from lidit_core.text.prompt_encoder import PromptEncoder
from lidit_core.text.renderer import PromptRenderer
from lidit_core.text.states import LLMStates, stack_states
from lidit_core.text.templates import PRESETS, find_template

TOKENIZERS = {
    "chat": chat_tokenizer,
    "plain": plain_tokenizer,
    "metaspace": metaspace_tokenizer,
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_llm(tmp_path_factory.mktemp("llm") / "tiny-llama")


@pytest.fixture
def encoder(llama, tmp_path):
    MEMORY.clear()
    return PromptEncoder(llama, "short", disk_cache=tmp_path)


@pytest.mark.parametrize(
    "prompt, text, weights",
    [
        ("a (cat:1.3)", "a cat", [1, 1, 1.3, 1.3, 1.3]),
        ("(a)", "a", [1.1]),
        ("((a))", "a", [1.1 * 1.1]),
        ("(a (b:0.5))", "a b", [1.1, 1.1, 0.5]),
        ("[a]", "[a]", [1, 1, 1]),
        (r"\(a\)", "(a)", [1, 1, 1]),
        ("(a:x)", "a:x", [1.1] * 3),
        ("(a", "(a", [1, 1]),
        ("", "", []),
        ("()", "", []),
    ],
)
def test_marks_are_read(prompt, text, weights):
    read = read_emphasis(prompt)
    assert read.text == text
    assert read.weights == pytest.approx(weights)


@pytest.mark.parametrize("weight", ["-1", "-0.001", "nan", "inf", "1e7"])
def test_a_weight_that_is_none_gets_one_sentence(weight):
    with pytest.raises(LiDiTError, match="the prompt gives 'dog' the weight") as error:
        read_emphasis(f"a (dog:{weight})")
    assert "\n" not in str(error.value)


def test_a_bridge_reads_weights_below_0():
    read = read_emphasis("a (dog:-0.5) (cat)", below_0=True)
    assert read.text == "a dog cat" and not read.plain
    assert read.weights == pytest.approx([1, 1, -0.5, -0.5, -0.5, 1, 1.1, 1.1, 1.1])
    for weight in ("nan", "inf", "-inf", "1e7", "-1e7"):
        with pytest.raises(LiDiTError, match="the weight .*; expected -1e\\+06 to 1e\\+06$"):
            read_emphasis(f"a (dog:{weight})", below_0=True)


def test_parentheses_too_deep_get_one_sentence():
    assert read_emphasis("(" * 3000).text == "(" * 3000
    with pytest.raises(LiDiTError, match="more than 100 pairs"):
        read_emphasis("(" * 3000 + "a" + ")" * 3000)


@pytest.mark.parametrize("template", PRESETS)
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize(
    "prompt", ["two cats and (a dog:0.25)", "两只猫和(一个苹果:0.25)", "🍎 (🐱:0.25)"]
)
def test_weights_lie_on_the_words_tokens_for_every_tokenizer(tokenizer, template, prompt):
    """Every character of the text is in a token, and tokens of the word alone have its weight."""
    read = read_emphasis(prompt)
    renderer = PromptRenderer(TOKENIZERS[tokenizer](), find_template(template), 256, 512)
    tokens = renderer(read.text)
    assert len(tokens.offsets) == tokens.used
    covered = {place for a, b in tokens.offsets for place in range(a, b)}
    assert covered >= {n for n, char in enumerate(read.text) if not char.isspace()}
    found = [token_weight(read, *place) for place in tokens.offsets]
    assert found == sorted(found, reverse=True) and found[0] > 0.25
    first = read.weights.index(0.25)
    for (start, _), weight in zip(tokens.offsets, found, strict=True):
        if start >= first:
            assert weight == 0.25


def test_a_token_across_a_border_has_the_mean_of_its_letters():
    read = read_emphasis("(ab:3)cd (e:2)")
    assert token_weight(read, 0, 4) == 2
    assert token_weight(read, 4, 6) == 2  # the blank does not count
    assert token_weight(read, 4, 5) == 1  # it is alone
    assert token_weight(read, 99, 99) == 1


def test_the_states_are_those_of_the_text_without_marks(encoder):
    row = encode_emphasised(encoder, "two cats and (a dog:1.5)")
    (plain,) = encoder.encode_rows(["two cats and a dog"])
    assert torch.equal(row.hidden, plain.hidden) and plain.emphasis is None
    first, stop = row.span
    inside = row.emphasis[first:stop]
    assert set(inside.tolist()) == {1.0, 1.5} and inside[-1] == 1.5
    assert (row.emphasis[:first] == 1).all() and (row.emphasis[stop:] == 1).all()


@pytest.mark.parametrize(
    "prompt, words",
    [
        ("two cats (a dog:1)", ""),
        ("two cats", ""),
        ("(two cats:1.3)", "the weight 1.3 over the whole prompt has no effect"),
        ("(two (cats:1.3):1.3)", "the weight 1.3 over the whole prompt has no effect"),
        ("two " * 200 + "(cats:1.3)", "no word with a weight is among the tokens"),
    ],
)
def test_what_has_no_effect_is_nothing_and_told(llama, prompt, words):
    MEMORY.clear()
    row = encode_emphasised(PromptEncoder(llama, "short", token_budget=24), prompt)
    assert row.emphasis is None and pad_states([row]).emphasis is None
    notes = [note for note in prompt_notes(prompt, row, emphasis=True) if "no effect" in note]
    assert len(notes) == bool(words) and words in "".join(notes)
    assert not any("plain text" in note for note in prompt_notes(prompt, row, emphasis=True))


def test_states_of_an_older_file_are_computed_anew_only_where_places_are_needed(encoder):
    text = "two cats and a dog"
    key = states_key(encoder.identity(), text)
    (new,) = encoder.encode_rows([text])
    old = replace(new, offsets=None, hidden=new.hidden + 1)
    MEMORY.clear()
    encoder.caches.disk.put(key, old)
    (row,) = encoder.encode_rows([text])
    assert row.cached and torch.equal(row.hidden, old.hidden)
    row = encode_emphasised(encoder, "two cats and (a dog:2)")
    assert not row.cached and torch.equal(row.hidden, new.hidden) and row.emphasis is not None
    MEMORY.clear()
    assert torch.equal(DiskCache(encoder.caches.disk.folder).get(key).offsets, new.offsets)
    assert encode_emphasised(encoder, "two cats and (a dog:2)").cached


def test_weights_go_along_with_all_that_is_done_to_states(encoder):
    prompts = ["two cats and (a dog:1.5)", "two", "(a:0) bee"]
    batch = pad_states([encode_emphasised(encoder, prompt) for prompt in prompts])
    rows = [encode_emphasised(encoder, prompt) for prompt in prompts]
    for n, row in enumerate(rows):
        expected = torch.ones(len(row.roles)) if row.emphasis is None else row.emphasis
        for of in (
            batch[n : n + 1].trimmed(),
            batch[[n]].padded(60).trimmed(),
            batch[torch.tensor([n])].to(dtype=torch.bfloat16).trimmed(),
            stack_states([pad_states([row]), batch])[:1].trimmed(),
            batch.with_hidden(batch.hidden * 2)[[n]].trimmed(),
        ):
            given = of.emphasis if of.emphasis is not None else torch.ones(of.roles.shape)
            assert torch.equal(given[0], expected)
    plain = LLMStates(batch.hidden, batch.roles)
    assert batch.emptied().emphasis is None and stack_states([plain] * 2).emphasis is None
    with pytest.raises(LiDiTError, match="for each token"):
        replace(batch, emphasis=batch.emphasis[:, 1:])

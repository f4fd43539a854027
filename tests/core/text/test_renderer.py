"""Token ids, roles and spans of rendered prompts. Run: pytest tests/core/text/test_renderer.py"""

from __future__ import annotations

import pytest
from tiny_llm import IN_PARTS, NO_SYSTEM, chat_tokenizer, metaspace_tokenizer, plain_tokenizer

from lidit_core.errors import LiDiTError
from lidit_core.text.notes import literal_notes
from lidit_core.text.renderer import PromptRenderer, prompt_span
from lidit_core.text.states import INSTRUCTION, PROMPT
from lidit_core.text.templates import PRESETS, InstructionTemplate, find_template

TOKENIZERS = {
    "chat": chat_tokenizer(),
    "plain": plain_tokenizer(),
    "no system": plain_tokenizer(NO_SYSTEM),
}
PROMPTS = [
    "a red cat left of two dogs",
    "",
    " ",
    "  two spaces",
    "a cat.\n\nA dog  ",
    "两只猫和一个苹果",
    "🍎🐱👩‍👩‍👧 é e\u0301",
    "<|im_end|><bos> <end>",
    "(cat:1.3) BREAK embedding:x",
    ": a cat",
    "'s",
    "\u0301x",
]


def renderer(tokenizer: str, template="paper", budget=256, context=512) -> PromptRenderer:
    return PromptRenderer(TOKENIZERS[tokenizer], find_template(template), budget, context)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", PRESETS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_prompt(name, template, prompt):
    """The span covers the prompt and little else; something is always kept; the prefix holds."""
    render = renderer(name, template)
    tokenizer, text = TOKENIZERS[name], render(prompt)
    start, stop = text.span
    covered = tokenizer.decode(text.ids[start:stop])
    assert prompt in covered or not prompt.strip()
    assert prompt.strip() == "" or covered.replace(prompt, "", 1) in _border_texts(render)
    assert PROMPT in text.roles and set(text.roles) <= {INSTRUCTION, PROMPT}
    assert all(role == PROMPT for role in text.roles[start:stop])
    assert text.used == text.total == stop - start
    if name == "chat":  # the others merge whole phrases, so that a prompt may change any token
        assert text.ids[: len(render.prefix)] == render.prefix
        assert len(render.prefix) <= start


def _border_texts(render: PromptRenderer) -> set[str]:
    """What a token across a border may bring along from the template: pieces next to the prompt."""
    before, after = render.before, render.after
    return {before[len(before) - i :] + after[:j] for i in range(len(before) + 1) for j in range(3)}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", ["paper", "none", "short"])
def test_whole_text_decodes_to_template_and_prompt(name, template):
    render = renderer(name, template)
    decoded = TOKENIZERS[name].decode(render("a red cat").ids)
    before, _ = render.template.user_turn()
    assert before + "a red cat" in decoded
    assert render.template.system in decoded


@pytest.mark.parametrize("tokenizer", [TOKENIZERS["chat"], metaspace_tokenizer()])
@pytest.mark.parametrize("prompt", ["a red cat", "", "两只猫 🍎"])
def test_as_the_tokenizer_itself_without_special_text(tokenizer, prompt):
    """For ordinary prompts the ids are those of the chat template's own rendering."""
    template = PRESETS["paper"]
    text = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": template.system},
            {"role": "user", "content": f"{template.instruction} {prompt}"},
        ],
        tokenize=False,
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert list(PromptRenderer(tokenizer, template, 256, 512)(prompt).ids) == ids


def test_a_chat_template_of_a_multimodal_checkpoint():
    tokenizer, paper = plain_tokenizer(IN_PARTS), PRESETS["paper"]
    ids = PromptRenderer(tokenizer, paper, 256, 512)("a red cat").ids
    assert ids[0] == tokenizer.bos_token_id
    said = f"SYSTEM: {paper.system} USER: {paper.instruction} a red cat "
    assert tokenizer.decode(ids[1:]) == said


def test_specials_of_the_template_are_ids_and_those_of_the_prompt_are_text():
    tokenizer = TOKENIZERS["chat"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    with_special = renderer("chat")("a <|im_end|> cat")
    without = renderer("chat")("a cat")
    assert with_special.ids.count(end) == without.ids.count(end) == 2
    assert "<|im_end|>" in tokenizer.decode(with_special.ids[slice(*with_special.span)])


def test_no_system_prompt_that_nobody_asked_for():
    decoded = TOKENIZERS["chat"].decode(renderer("chat", "short")("a cat").ids)
    assert "helpful" not in decoded


def test_todays_date_is_not_in_the_text():
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}: {{ messages[-1]['content'] }}"
    ids = PromptRenderer(tokenizer, find_template("short"), 256, 512)("a cat").ids
    assert tokenizer.decode(ids).startswith("26 Jul 2024: ")


def test_system_text_goes_to_the_user_where_there_is_no_system_role():
    decoded = TOKENIZERS["no system"].decode(renderer("no system")("a cat").ids)
    assert decoded.count(PRESETS["paper"].system) == 1 and decoded.startswith("<bos><start>user")


def test_beginning_of_text():
    """One BOS where the tokenizer puts one, and none twice."""
    bos = TOKENIZERS["plain"].bos_token_id
    for name, template in (("plain", "none"), ("plain", "paper"), ("no system", "paper")):
        ids = renderer(name, template)("a cat").ids
        assert ids[0] == bos and ids.count(bos) == 1


def test_empty_prompt_without_template():
    """A defined null: the BOS, or what the tokenizer has in its place."""
    assert renderer("plain", "none")("").ids == (TOKENIZERS["plain"].bos_token_id,)
    assert renderer("chat", "none")("").ids == (TOKENIZERS["chat"].eos_token_id,)
    for name in ("plain", "chat"):
        assert renderer(name, "none")("").roles == (PROMPT,)


def test_tokens_that_merge_across_the_border_count_as_prompt():
    """This BPE makes one token of `objects:` and what follows; the instruction ends before it."""
    tokenizer = TOKENIZERS["plain"]
    render = renderer("plain", "short")
    text = render("a cat")
    straddling = tokenizer.decode(text.ids[text.span[0]])
    assert straddling.strip() != "" and not "a cat".startswith(straddling)
    assert text.roles[text.span[0]] == PROMPT
    assert len(render.prefix) <= text.span[0]


def test_tail():
    kept = renderer("chat", InstructionTemplate("t", instruction="Draw:"))("a cat")
    dropped = renderer("chat", InstructionTemplate("t", instruction="Draw:", keep_tail=False))
    assert kept.roles[-2:] == (PROMPT, PROMPT)
    assert dropped("a cat").roles[-2:] == (INSTRUCTION, INSTRUCTION)
    assert dropped("a cat").ids == kept.ids
    assert PROMPT in dropped("").roles


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("budget", [1, 5, 8])
@pytest.mark.parametrize("prompt", ["a red cat left of two dogs on a blue car", "🍎两只猫" * 9])
def test_too_long_a_prompt_is_cut_and_the_template_never(name, budget, prompt):
    render = renderer(name, "{prompt}. Draw that!", budget)
    text, whole = render(prompt), renderer(name, "{prompt}. Draw that!")(prompt)
    assert text.used <= budget < text.total == whole.used
    decoded = TOKENIZERS[name].decode(text.ids)
    assert ". Draw that!" in decoded and "�" not in decoded
    kept = TOKENIZERS[name].decode(text.ids[slice(*text.span)])
    assert prompt.startswith(kept.rstrip(".�")) or kept.startswith(".")


def test_context_bounds_the_budget():
    assert renderer("chat", "short", 10_000, 100).budget < 100
    assert len(renderer("chat", "short", 10_000, 100)("a cat " * 99).ids) <= 100
    with pytest.raises(LiDiTError, match="fills"):
        renderer("chat", "long", 256, 30)
    with pytest.raises(LiDiTError, match="token budget"):
        renderer("chat", "long", 0)


def test_half_a_surrogate_pair():
    assert renderer("chat", "short")("a \ud83c cat").used > 0


@pytest.mark.parametrize(
    "prompt, count",
    [("(word:1.3)", 1), ("embedding:x", 1), ("a BREAK b", 1), ("(a:1) BREAK", 2)]
    + [("at 10:30 (sic)", 0), ("a breakfast", 0), ("a cat", 0)],
)
def test_syntax_of_others_is_mentioned(prompt, count):
    assert len(literal_notes(prompt)) == count


@pytest.mark.parametrize(
    "offsets, start, stop, expected",
    [
        ([(0, 2), (2, 5), (5, 9)], 2, 5, (1, 2)),
        ([(0, 3), (3, 5), (5, 9)], 2, 5, (0, 2)),  # straddles the beginning
        ([(0, 2), (2, 6), (6, 9)], 2, 5, (1, 2)),  # straddles the end
        ([(0, 2), (3, 5), (6, 9)], 3, 5, (1, 2)),  # blanks trimmed off the offsets
        ([(0, 2), (2, 3), (2, 3), (2, 3)], 2, 3, (1, 4)),  # bytes of one character
        ([(0, 4)], 2, 2, (0, 1)),  # merged across an empty prompt
        ([(0, 2), (2, 4)], 2, 2, (1, 1)),  # an empty prompt
    ],
)
def test_span_from_offsets(offsets, start, stop, expected):
    assert prompt_span(offsets, start, stop) == expected

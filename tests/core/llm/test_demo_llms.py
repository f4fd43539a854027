"""The two demo LLMs, where they are there. Run: pytest tests/core/llm/test_demo_llms.py"""

from __future__ import annotations

import pytest
import torch
from tiny_llm import relative_error

from lidit_core.llm.loading import load_llm
from lidit_core.llm.locate import available, locate
from lidit_core.text.encoder import LLMEncoder

pytestmark = pytest.mark.llm
PROMPTS = [
    "a red cat left of two dogs on a blue background",
    "",
    "两只猫和🍎",
    "three bees",
    "(<|im_end|>:1.3) <bos> and a very large yellow rocket above a small green turtle",
]
LLMS = {"SmolLM2-135M-Instruct": (30, 576), "gemma-3-270m": (18, 640)}


@pytest.fixture(scope="module", params=LLMS)
def llm(request):
    if not available(request.param):
        pytest.skip(f"{request.param} is not on this machine; get it with `lidit fetch`")
    return load_llm(request.param, dtype=torch.float32)


@pytest.fixture(scope="module")
def theirs(llm):
    """transformers' whole model with the same converted weights.

    With its head: by the names in the file 4.50 leaves Gemma 3 random without it.
    """
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(locate(llm.name).folder).float().eval()


@pytest.mark.parametrize("template", ["paper", "none"])
def test_equal_to_transformers(llm, theirs, template):
    assert LLMS[llm.name] == (llm.blocks + 2, llm.width)  # cut after the third-to-last
    reused = LLMEncoder(llm, template)
    plain = LLMEncoder(llm, template, reuse=False)
    batches = [encoder.encode(PROMPTS) for encoder in (reused, plain)]
    for row, prompt in enumerate(PROMPTS):
        ids = reused.renderer(prompt).ids
        with torch.no_grad():
            out = theirs(torch.tensor([ids]), output_hidden_states=True)
        expected = out.hidden_states[-3][0]
        alone = [encoder.encode([prompt]) for encoder in (reused, plain)]
        for states in [batch[row : row + 1] for batch in batches] + alone:
            assert relative_error(states.hidden[0, : len(ids)], expected) <= 1e-5


def test_a_prompt_is_read_in_words(llm):
    """Some releases of transformers made of Gemma's GGUF a tokenizer that reads letters."""
    text = "a cat to the left of a dog"
    read = llm.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [llm.tokenizer.decode([i]).strip() for i in read] == text.split()


def test_instruction_is_reused_whole(llm):
    """All but at most one token before the prompt, in every language."""
    for template in ("paper", "short"):
        render = LLMEncoder(llm, template).renderer
        for prompt in PROMPTS[:4]:
            text = render(prompt)
            assert text.ids[: len(render.prefix)] == render.prefix
            assert text.span[0] - len(render.prefix) <= 1


def test_short_template_is_short(llm):
    render = LLMEncoder(llm, "short").renderer
    assert len(render("").ids) <= 20

"""A cut LLM writes what the whole one does. Run: pytest tests/core/text/test_expansion.py"""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llm import chat_tokenizer, plain_tokenizer, reference_model, save_llm

from lidit_core.cli import main
from lidit_core.errors import LiDiTError
from lidit_core.llm.loading import load_llm
from lidit_core.llm.locate import available
from lidit_core.llm.writer import writer
from lidit_core.text.encoder import LLMEncoder
from lidit_core.text.expansion import (
    Expanded,
    Expansion,
    continued,
    expand,
    finished,
    reply_renderer,
)
from lidit_core.text.renderer import PromptRenderer
from lidit_core.text.templates import find_template

SMOLLM2 = "SmolLM2-135M-Instruct"
TURNS = (  # as Gemma's: a system role is refused, and the LLM's turns are called model
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('no') }}{% endif %}{{ '<start>' }}"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}"
    "{{ '\n' + m['content'] | trim + '<end>\n' }}{% endfor %}"
)
LIKELIEST = Expansion(temperature=0, max_tokens=12)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_llm(tmp_path_factory.mktemp("llm") / "llama")


def reference(folder, llm, prompt: str, how: Expansion) -> list[int]:
    """What transformers' own whole model writes after the same tokens."""
    renderer = reply_renderer(llm, how)
    ids = torch.tensor([renderer(prompt).ids])
    options = {"max_new_tokens": how.max_tokens, "do_sample": False, "pad_token_id": 0}
    written = reference_model(folder).generate(
        ids, attention_mask=torch.ones_like(ids), eos_token_id=renderer.stops(), **options
    )
    return written[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("block", [-3, "all", 1, (1, -3)])
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Gemma3Text", "Phi3"])
def test_equal_to_transformers(family, block, tmp_path):
    """Of every block that may have been loaded, with a head of its own and with a tied one."""
    tokenizer = plain_tokenizer(TURNS) if family.startswith("Gemma") else chat_tokenizer()
    tied = {"tie_word_embeddings": family in ("Gemma3Text", "Qwen2")}
    folder = save_llm(tmp_path / family, family, tokenizer, "40KB", **tied)
    llm = load_llm(folder, block, dtype=torch.float32)
    expected = reference(folder, llm, "a red cat", LIKELIEST)
    found = expand(llm, folder, "a red cat", LIKELIEST)
    assert found.tokens == len(expected)
    assert found == finished(llm.tokenizer, expected, [], found)
    whole, cut = (
        sum(p.nbytes for p in m.parameters()) for m in (reference_model(folder), llm.module)
    )
    assert (
        found.added == whole - cut >= 0
    )  # nothing where all blocks lie there and the head is tied


@pytest.mark.parametrize("template", ["short", "none"])
@pytest.mark.parametrize("family", ["Llama", "Gemma3Text"])
def test_what_comes_next_is_what_transformers_writes(family, template, tmp_path, capsys):
    """Of a tokenizer with a chat template and of one without, by function and by command."""
    from tiny_lidit import lidit_config, save_lidit_files

    tokenizer = plain_tokenizer() if family == "Gemma3Text" else chat_tokenizer()
    folder = save_llm(tmp_path / "one", family, tokenizer)
    llm = load_llm(folder, dtype=torch.float32)
    ids = PromptRenderer(llm.tokenizer, find_template(template), 99, 99)("a red cat").ids
    given = torch.tensor([ids])
    written = reference_model(folder).generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=9, do_sample=False,
        eos_token_id=llm.tokenizer.eos_token_id, pad_token_id=0,
    )  # fmt: skip
    expected = llm.tokenizer.decode(written[0, len(ids) :])
    assert continued(llm, folder, "a red cat", template, 9) == expected
    if template == "short":
        config = lidit_config("one")
        spec = replace(config.llms[0], template=find_template(template), width=llm.width)
        model = save_lidit_files(tmp_path, replace(config, llms=(spec,)))
        words = ["encode", "a red cat", "--model", str(model), "--llm", f"one={folder}"]
        assert main([*words, "--next", "9", "--device", "cpu"]) == 0
        told = capsys.readouterr().out
        assert f"next     'short': {expected!r}\n" in told and "next     'none': " in told
        assert main([*words, "--next", "0"]) == 2
        assert "--next is 0; expected 1 to 4096" in capsys.readouterr().err


def test_the_llm_reads_as_before_and_nothing_is_kept(llama):
    llm = load_llm(llama, dtype=torch.float32)
    before = LLMEncoder(llm).encode(["a cat"]).hidden
    names = set(llm.module.state_dict())
    told: list[int] = []
    with writer(llm, llama, make_room=told.append) as made:
        model, added = weakref.ref(made.model), made.added
    del made
    gc.collect()
    assert model() is None and told == [added]
    assert set(llm.module.state_dict()) == names
    assert torch.equal(LLMEncoder(llm).encode(["a cat"]).hidden, before)


def test_a_seed_writes_one_text_and_draws_from_nobody_elses(llama):
    llm = load_llm(llama, dtype=torch.float32)
    state = torch.get_rng_state()
    texts = [expand(llm, llama, "a cat", Expansion(seed=seed)).text for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_asked_ends_where_the_reply_begins(llama):
    llm = load_llm(llama, dtype=torch.float32)
    renderer = reply_renderer(llm, Expansion("Describe {prompt} now."))
    said = llm.tokenizer.decode(renderer("a cat<|im_end|>").ids)
    asked = "<|im_start|>user\nDescribe a cat<|im_end|> now.<|im_end|>\n<|im_start|>assistant\n"
    assert said.endswith(asked)
    ids = list(renderer("a cat<|im_end|>").ids)
    end = llm.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == list(renderer("a cat").ids).count(end)  # a prompt's stays text
    assert renderer.stops() == [end]


def test_a_reply_that_is_stopped_ends_with_a_whole_sentence(llama):
    tokenizer = chat_tokenizer()

    def read(text: str, stop: bool) -> Expanded:
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [end] * stop
        return finished(tokenizer, ids, [end], Expanded("", 0, 0))

    assert read("A cat. It sits\non a", False).text == "A cat."
    assert read("A cat. It sits\non a", False).cut
    assert read("A cat. It sits\non a", True).text == "A cat. It sits on a"
    assert read("A cat on", False).text == "A cat on"
    assert read("<think>A dog?</think> A cat.", True).text == "A cat."
    with pytest.raises(LiDiTError, match="wrote nothing"):
        read("<think>A dog", False)


def test_a_base_model_and_a_template_without_replies_are_declined(tmp_path, llama):
    base = save_llm(tmp_path / "base", "Gemma3Text", plain_tokenizer())
    with pytest.raises(LiDiTError, match="base has no chat template: it is a base model"):
        expand(load_llm(base), base, "a cat")
    deaf = chat_tokenizer()
    deaf.chat_template = "{{ messages[-2]['content'] if messages|length > 1 else 'a' }}"
    folder = save_llm(tmp_path / "deaf", tokenizer=deaf)
    with pytest.raises(LiDiTError, match="where a reply goes"):
        expand(load_llm(folder), folder, "a cat")
    with pytest.raises(LiDiTError, match="the prompt is empty"):
        expand(load_llm(llama), llama, " \n")


def test_files_without_a_head_are_named(tmp_path):
    folder = save_llm(tmp_path / "headless")
    file = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if k != "lm_head.weight"}, file)
    with pytest.raises(LiDiTError, match="the files of headless hold no lm_head.weight"):
        expand(load_llm(folder), folder, "a cat")


@pytest.mark.parametrize(
    "options",
    [
        {"seed": -1},
        {"seed": 1.5},
        {"temperature": float("nan")},
        {"temperature": 3},
        {"top_p": 0},
        {"max_tokens": 0},
        {"max_tokens": 1 << 20},
    ],
)
def test_settings_out_of_range(options):
    (name,) = options
    with pytest.raises(LiDiTError, match=f"{name} is .*; expected a"):
        Expansion(**options)


def test_on_the_command_line(llama, capsys):
    words = ["expand", "a cat", "--llm", str(llama), "--device", "cpu", "--max-tokens", "8"]
    assert main([*words, "--seed", "3"]) == 0
    written = capsys.readouterr().out
    llm = load_llm(llama, device="cpu")
    assert written == expand(llm, llama, "a cat", Expansion(seed=3, max_tokens=8)).text + "\n"
    assert main([*words, "--temperature", "9"]) == 2
    assert "temperature is 9.0; expected a number from 0 to 2" in capsys.readouterr().err


def test_the_demo_llm_from_its_gguf_writes_as_transformers_does():
    if not available(SMOLLM2):
        pytest.skip(f"{SMOLLM2} is not on this machine; get it with `lidit fetch smollm2`")
    from lidit_core.paths import llm_folder

    llm = load_llm(SMOLLM2, dtype=torch.float32)
    how = Expansion(temperature=0, max_tokens=10)
    found = expand(llm, SMOLLM2, "a red car", how)
    expected = reference(llm_folder(SMOLLM2), llm, "a red car", how)
    assert found == finished(llm.tokenizer, expected, reply_renderer(llm, how).stops(), found)

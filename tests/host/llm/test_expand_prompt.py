"""LI-DiT Expand Prompt: what the LLM writes, in which memory. Run: see conftest.py"""

from __future__ import annotations

import pytest
from clip_kit import fresh_loader, save_llms, states
from host_clip_kit import Bench
from tiny_llm import plain_tokenizer, save_llm

HOW = {"edited": "", "expand": True, "seed": 0, "instruction": "", "max_tokens": 12}
LIKELIEST = {**HOW, "temperature": 0.0, "top_p": 0.9}


@pytest.fixture
def load(host, pack):
    save_llms(host)
    return fresh_loader(pack)


@pytest.fixture
def core(pack):
    return pack.module("lidit_core.text.expansion")


def written(pack, clip, text: str = "a red cat", **options) -> str:
    return pack.run("LiDiTExpandPrompt", clip=clip, text=text, **{**LIKELIEST, **options})[0]


def expected(pack, core, folder, **options) -> str:
    """What the library writes with the LLM of a folder."""
    llm = pack.module("lidit_core.llm.loading").load_llm(folder, device="cpu")
    return core.expand(llm, folder, "a red cat", core.Expansion(**options)).text


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Phi3"])
def test_the_node_writes_what_the_library_writes(host, pack, load, core, family):
    folder = host.base / "models" / "llm" / "tiny" / family
    clip = load(family)
    before = states(clip).clone()
    text = expected(pack, core, folder, temperature=0, max_tokens=12)
    assert written(pack, clip) == text
    drawn = expected(pack, core, folder, seed=5, max_tokens=12)
    assert written(pack, clip, seed=5, temperature=0.7) == drawn
    pack.module("lidit_core.text.cache").MEMORY.clear()
    assert (states(clip) == before).all()


def test_room_is_asked_for_what_is_added(pack, load, monkeypatch):
    from comfy import model_management

    clip, asked = load(), []
    real = model_management.load_models_gpu

    def load_models(models, memory_required=0, **options):
        asked.append(memory_required)
        return real(models, memory_required=memory_required, **options)

    monkeypatch.setattr(model_management, "load_models_gpu", load_models)
    written(pack, clip)
    decoder = clip.cond_stage_model.llm.module
    block = sum(p.nbytes for p in decoder.layers[0].parameters())
    assert asked and asked[0] > 2 * block


def test_a_patched_llm_writes_with_its_patch(pack, load):
    import torch

    clip = load()
    plain = written(pack, clip)
    key = "transformer.layers.0.mlp.up_proj.weight"
    changed = clip.clone()
    shape = clip.patcher.model.state_dict()[key].shape
    assert changed.add_patches({key: ("diff", (torch.full(shape, 2.0),))}) == [key]
    assert written(pack, changed) != plain
    assert written(pack, clip) == plain


def test_what_is_edited_or_switched_off_is_handed_on(pack, load, monkeypatch):
    from comfy import model_management

    clip = load()
    told = lambda *_, **__: pytest.fail("the LLM was loaded")  # noqa: E731
    monkeypatch.setattr(model_management, "load_models_gpu", told)
    assert written(pack, clip, edited=" two dogs\n") == "two dogs"
    assert written(pack, clip, edited="two dogs", expand=False) == "two dogs"
    assert written(pack, clip, expand=False) == "a red cat"


def test_a_base_model_and_other_clips_are_declined(host, pack, load):
    folder = host.base / "models" / "llm" / "tiny" / "base"
    if not folder.is_dir():
        save_llm(folder, "Gemma3Text", plain_tokenizer())
    error = pack.module("lidit_core.errors").LiDiTError
    with pytest.raises(error, match="has no chat template: it is a base model"):
        written(pack, load("base"))
    with pytest.raises(error, match="this CLIP holds NoneType, which is not read as an LLM"):
        written(pack, object())


@pytest.mark.parametrize("name", ["qwen3", "qwen2.5", "llama"])
def test_an_llm_of_the_hosts_own_loader_writes_with_the_hosts_code(host, pack, core, name):
    bench = Bench(host, pack)
    folder, _, _ = bench.saved(name)
    clip = bench.read(bench.theirs(name))
    (_, transformer), *_ = pack.module("host.llm.host_decoder").text_models(
        clip.cond_stage_model.model
    )
    next_words = {"clip": clip, "text": "a red cat", "max_tokens": 12}
    if not hasattr(transformer, "generate"):
        with pytest.raises(bench.error, match="writes no text with its own text encoders"):
            written(pack, clip)
        with pytest.raises(bench.error, match="writes no text with its own text encoders"):
            pack.run("LiDiTContinuePrompt", **next_words)
        return
    tied = pack.module("lidit_core.llm.loading").load_llm(save_tied(folder), device="cpu")
    how = core.Expansion(temperature=0, max_tokens=12)
    ours = core.expand(tied, save_tied(folder), "a red cat", how).text
    assert written(pack, clip) == ours
    template = clip.cond_stage_model.settings.template
    told = [core.continued(tied, save_tied(folder), "a red cat", t, 12) for t in (template, "none")]
    assert pack.run("LiDiTContinuePrompt", **next_words) == tuple(told)
    drawn = {"temperature": 0.9, "seed": 3}
    assert written(pack, clip, **drawn) == written(pack, clip, **drawn)


def save_tied(folder):
    """The same LLM whose head is its embeddings, as the host's tiny ones have it."""
    import json
    import shutil

    copy = folder.with_name(f"{folder.name}-tied")
    if not copy.is_dir():
        shutil.copytree(folder, copy)
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    return copy


def test_what_comes_next_is_the_librarys_with_the_instruction_and_without(
    host, pack, load, core, caplog
):
    """By the CLIP's own template, then by one of a node's; without any, both are the same."""
    folder = host.base / "models" / "llm" / "tiny" / "Llama"
    clip = load("Llama")
    before = states(clip).clone()
    llm = pack.module("lidit_core.llm.loading").load_llm(folder, device="cpu")
    short, paper, alone = (
        core.continued(llm, folder, "a red cat", name, 6) for name in ("short", "paper", "none")
    )
    given = {"clip": clip, "text": "a red cat", "max_tokens": 6}
    assert pack.run("LiDiTContinuePrompt", **given) == (short, alone)
    (template,) = pack.run("LiDiTInstructionTemplate", preset="paper", system="", instruction="")
    assert pack.run("LiDiTContinuePrompt", **given, template=template) == (paper, alone)
    assert len({short, paper, alone}) == 3
    same = pack.run("LiDiTContinuePrompt", **{**given, "clip": load("Llama", template="none")})
    assert same == (alone, alone) and "so both texts are the same" in caplog.text
    pack.module("lidit_core.text.cache").MEMORY.clear()
    assert (states(clip) == before).all()

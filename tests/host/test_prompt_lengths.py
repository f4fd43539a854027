"""Prompts longer than the weights have seen are told on the node that draws. See conftest.py"""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import pytest
from conftest import SHIPPED
from llmdiff_kit import adapter_config
from model_kit import fuse, save_small, small_config
from workflow_kit import ADAPTS, FIRST, changed, need_llms, node_of, only_picture, read

from lidit_core.checkpoints.lidit import read_config
from lidit_core.llmdiff.file import read_adapter_config

LONGEST = 6  # tokens, that the small model was trained on
TOLD = r"(\w+) tokens are read by (\S+), and these weights were trained on prompts of at most (\d+)"


def prompt(kit, used: int, llm: str = "alpha", **changes):
    """CONDITIONING of a prompt of which so many tokens were read."""
    read_by = kit.text.BranchText(llm, kit.read(llm, **changes), used=used)
    return [kit.cond.entry_of(kit.text.PromptText((read_by,)))]


@pytest.fixture(scope="module")
def short_lived(kit, tmp_path_factory):
    """A small LI-DiT whose branches were trained on prompts of different lengths."""
    path = tmp_path_factory.mktemp("short") / "short.safetensors"
    alpha, beta = small_config().llms
    llms = (replace(alpha, longest_prompt=LONGEST), replace(beta, longest_prompt=LONGEST + 10))
    return kit.model.load_model(save_small(path, llms=llms))


def told(caplog) -> list[str]:
    messages = [r.getMessage() for r in caplog.records]
    return [text for text in messages if re.search(TOLD, text)]


def test_the_boundary_is_exact_and_both_prompts_are_looked_at(kit, short_lived, caplog):
    within, beyond = prompt(kit, LONGEST), prompt(kit, LONGEST + 1)
    for positive, negative, wanted in (
        (within, within, []),
        (beyond, within, ["positive prompt: 7"]),
        (within, beyond, ["negative prompt: 7"]),
        (beyond, beyond, ["negative prompt: 7", "positive prompt: 7"]),
    ):
        caplog.clear()
        kit.sample(short_lived, positive, negative)
        assert sorted(text.split(" tokens")[0] for text in told(caplog)) == wanted


def test_every_llm_is_measured_by_its_own_branch(kit, short_lived, caplog):
    long, other = prompt(kit, LONGEST + 1), prompt(kit, LONGEST + 1, "beta")
    kit.sample(short_lived, fuse(kit, long, other), prompt(kit, 1))
    assert [re.search(TOLD, text)[2] for text in told(caplog)] == ["alpha"]
    caplog.clear()
    kit.sample(short_lived, fuse(kit, long, prompt(kit, LONGEST + 11, "beta")), prompt(kit, 1))
    assert [re.search(TOLD, text)[2] for text in told(caplog)] == ["alpha", "beta"]


def test_nothing_is_told_of_text_that_is_not_read_or_where_nothing_is_known(
    kit, model, short_lived, caplog
):
    long, short = prompt(kit, 10 * LONGEST), prompt(kit, 1)
    zeroed = kit.stock("ConditioningZeroOut", conditioning=long)
    kit.sample(short_lived, short, zeroed)
    kit.sample(short_lived, fuse(kit, prompt(kit, 1, "beta"), long, weights=(1.0, 0.0)), short)
    kit.sample(model, long, short)  # an older checkpoint
    assert told(caplog) == []


def test_a_lora_may_reach_further(kit, short_lived, caplog):
    long, words = prompt(kit, LONGEST + 1), "a LoRA on this model may have been trained on longer"
    kit.sample(short_lived, long)
    assert words not in caplog.text
    patched = short_lived.clone()
    key = "diffusion_model.blocks.0.mlp.0.weight"
    weight = short_lived.model.state_dict()[key]
    assert patched.add_patches({key: (weight * 0.01,)}) == [key]
    kit.sample(patched, long)
    assert words in caplog.text


def test_an_exchanged_refiner_brings_its_own_record(kit, short_lived, tmp_path, caplog):
    files = kit.pack.module("lidit_core.checkpoints.refiner")
    source = short_lived.model.source[0]
    config, weights = kit.core.read_lidit(source)
    longer = replace(config, llms=(replace(config.llms[0], longest_prompt=99), config.llms[1]))
    kit.core.save_lidit(weights, longer, tmp_path / "longer.safetensors")
    files.save_refiner(tmp_path / "longer.safetensors", "alpha", tmp_path / "alpha.safetensors")
    exchanged = kit.model.with_refiner(short_lived, str(tmp_path / "alpha.safetensors"))
    kit.sample(exchanged, prompt(kit, 99))
    assert told(caplog) == []
    kit.sample(exchanged, prompt(kit, 100))
    assert [re.search(TOLD, text)[3] for text in told(caplog)] == ["99"]


def test_an_adapter_tells_once_a_sampling(diff_kit, unet, caplog):
    llm = replace(adapter_config().llm, longest_prompt=5)
    applied = diff_kit.apply(unet, diff_kit.adapter("short", llm=llm))
    read_as = {5: [], 6: ["6"]}
    for used, wanted in read_as.items():  # four tokens more are the instruction's
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            diff_kit.sample(applied, diff_kit.prompt(used + 4), diff_kit.prompt(5), steps=3, cfg=2)
        assert [re.search(TOLD, text)[1] for text in told(caplog)] == wanted
    caplog.clear()
    zeroed = diff_kit.stock(
        "ConditioningZeroOut", conditioning=diff_kit.prompt(30, own=diff_kit.own())
    )
    diff_kit.sample(applied, diff_kit.prompt(5), zeroed, cfg=2.0)
    assert told(caplog) == []


def words(count: int) -> str:
    """A prompt of so many tokens of SmolLM2."""
    return " ".join(["cat"] * count)


@pytest.fixture(scope="module")
def longest() -> int:
    """Of the weights that ship."""
    if not SHIPPED.exists():
        pytest.skip("needs the weights that ship")
    known = read_config(SHIPPED).llms[0].longest_prompt
    assert known is not None and known < 96, "the weights that ship say what they were trained on"
    return known


def on_sampler(run, api) -> list[str]:
    assert run.ending == "execution_success", run.events[-1]
    return run.texts.get(node_of(api, "KSampler"), [])


def test_it_stands_on_the_node_cached_or_not_until_it_holds_no_more(server, api, longest):
    quick = changed(api, "KSampler", steps=1)
    positive, negative = (quick[node_of(quick, "KSampler")]["inputs"][k][0]
                          for k in ("positive", "negative"))  # fmt: skip

    def draw(seed: int, text: str, other: str = "") -> tuple:
        made = changed(quick, "KSampler", seed=seed)
        made[positive]["inputs"]["text"] = text
        made[negative]["inputs"]["text"] = other
        run = server.draw(made)
        only_picture(run)
        return run, on_sampler(run, made)

    assert draw(101, words(longest))[1] == []
    before = len(server.log)
    run, (note,) = draw(102, words(longest + 1))
    found = re.search(TOLD, note)
    assert note.startswith("positive prompt: ")
    assert (found[1], found[3]) == (str(longest + 1), str(longest))
    assert server.log[before:].count(note) == 1
    run, again = draw(103, words(longest + 1))
    assert positive in run.cached and again == [note]
    _, both = draw(104, words(longest + 1), words(longest + 2))
    assert len(both) == 2 and set(both[-1].split(".\n")) >= {note}
    assert f"negative prompt: {longest + 2} tokens" in both[-1]
    _, (back,) = draw(105, words(longest))
    assert back == "What was noted here before no longer holds."
    assert draw(106, words(longest))[1] == []


def test_an_adapters_node_tells_too(server):
    _, api = read(ADAPTS)
    need_llms(api)
    name = api[node_of_any(api, "LLMDiffApply")]["inputs"]["adapter_name"]
    most = read_adapter_config(SHIPPED.with_name(name)).llm.longest_prompt
    assert most is not None
    prompts = changed(api, "PrimitiveStringMultiline", value=words(most + 1))
    run = server.draw(changed(prompts, "KSampler", steps=1))
    assert run.ending == "execution_success", run.events[-1]
    told_on = {i for i, texts in run.texts.items() if any(re.search(TOLD, t) for t in texts)}
    with_adapter = {
        i
        for i, node in api.items()
        if node["class_type"] == "KSampler"
        and api[node["inputs"]["model"][0]]["class_type"] == "LLMDiffApply"
    }
    assert told_on == with_adapter and len(with_adapter) == 2


def node_of_any(api, kind: str) -> str:
    return next(i for i, node in api.items() if node["class_type"] == kind)


PREVIEWED = """() => app.graph._nodes.filter(node => node.type === 'KSampler')
    .flatMap(node => (node.widgets ?? [])
    .filter(widget => widget.name === '$$node-text-preview')
    .map(widget => [node.type, widget.value]))"""


def test_the_browser_shows_it_on_the_sampler(browser, server, api, longest):
    ui, _ = read(FIRST)
    browser.open(ui)
    browser.set("LiDiTTextEncode", "text", words(longest + 3))
    browser.set("KSampler", "steps", 1)
    before = set(server.get("/history"))
    browser.run()
    (entry,) = server.wait_for_new(before)
    assert entry["status"]["status_str"] == "success"
    browser.page.wait_for_function(f"() => ({PREVIEWED})().length > 0", timeout=20_000)
    ((kind, text),) = browser.page.evaluate(PREVIEWED)
    assert kind == "KSampler" and f"{longest + 3} tokens are read" in text
    shown = browser.page.get_by_text(f"{longest + 3} tokens are read").first
    shown.wait_for(state="visible", timeout=20_000)

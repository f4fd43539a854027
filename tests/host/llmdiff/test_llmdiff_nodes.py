"""LLMDiff Encode and LLMDiff Apply: what they pass on, and what they complain of."""

from __future__ import annotations

import io
import re
import shutil
from dataclasses import replace

import pytest
import torch
from clip_kit import PROMPT, fresh_loader, save_llms
from llmdiff_kit import DiffKit, adapter_config, distance, noted, random_adapter, sentence

from lidit_core.llmdiff.file import write_adapter
from lidit_core.text.spec import LLMSpec
from lidit_core.text.templates import find_template

BLOCKS, WIDTH = 6, 32  # of tiny_llm's
ADAPTER = "nodes/tiny llama.safetensors"


@pytest.fixture(scope="module")
def kit(pack, host, tmp_path_factory) -> DiffKit:
    save_llms(host)
    kit = DiffKit(pack, host, tmp_path_factory.mktemp("llmdiff"))
    path = host.base / "models" / "llmdiff" / ADAPTER
    path.parent.mkdir(parents=True)
    llm = LLMSpec("Llama", WIDTH, "differences", find_template("short"), 96)
    config = adapter_config(llm=llm, blocks=BLOCKS)
    write_adapter(path, random_adapter(config).state_dict(), config)
    return kit


@pytest.fixture
def load(kit, pack):
    return fresh_loader(pack)


@pytest.fixture(scope="module")
def model(kit):
    return kit.unet()


def encode(pack, clip, text=PROMPT, base="SD1.5", **given) -> list:
    return pack.run("LLMDiffEncode", clip=clip, text=text, base=base, **given)[0]


def apply(pack, model, **changes):
    inputs = {"adapter_name": ADAPTER, "mode": "add", "strength": 1.0, "start_percent": 0.0}
    return pack.run("LLMDiffApply", model=model, **{**inputs, "end_percent": 1.0, **changes})[0]


def test_the_conditioning_is_the_blocks_differences(pack, load):
    from lidit_core.llm.loading import load_llm
    from lidit_core.text.encoder import LLMEncoder

    clip = load(layer="all")
    ((c0, values),) = encode(pack, clip)
    llm = load_llm(clip.cond_stage_model.settings.source, "differences", torch.float32)
    (row,) = LLMEncoder(llm, "short", 96).encode_rows([PROMPT])
    assert values["llmdiff_states"]["0"].shape == (1, len(row.roles), (BLOCKS + 1) * WIDTH)
    assert distance(values["llmdiff_states"]["0"][0], row.hidden) < 1e-5
    assert values["llmdiff_roles"]["0"].dtype == torch.int32
    assert torch.equal(values["llmdiff_roles"]["0"][0], row.roles)
    assert values["llmdiff_llm"] == {"0": "Llama"} and values["llmdiff_used"] == {"0": row.used}
    assert not c0.any() and c0.shape == (1, 77, 768)
    assert not values["pooled_output"].any() and values["pooled_output"].shape == (1, 1280)
    assert encode(pack, clip, base="SDXL")[0][0].shape == (1, 77, 2048)


def test_both_readings_of_one_clip_are_cached_apart(pack, load):
    from comfy import model_management

    clip = load(layer="all")
    with torch.inference_mode():
        states = clip.encode_from_tokens(clip.tokenize(PROMPT))
    first = encode(pack, clip)[0][1]["llmdiff_states"]["0"]
    assert first.shape == states.shape and not torch.equal(first, states)
    again = encode(pack, clip)[0][1]["llmdiff_states"]["0"]
    with torch.inference_mode():
        assert torch.equal(clip.encode_from_tokens(clip.tokenize(PROMPT)), states)
    assert torch.equal(again, first)
    model_management.unload_all_models()
    encode(pack, clip)
    assert model_management.current_loaded_models == []  # neither needs it any more
    encode(pack, clip, "a prompt that is new")
    assert [entry.model for entry in model_management.current_loaded_models] == [clip.patcher]


def test_joined_with_text_of_its_own_an_entry_keeps_all(pack, load, kit):
    own = kit.own(seed=1) + kit.own(seed=2)
    own[1][1] |= {"area": (4, 4, 0, 0), "strength": 0.5}
    joined = encode(pack, load(layer="all"), conditioning=own)
    assert len(joined) == 2
    for (c0, values), (old, kept) in zip(joined, own):
        assert values["llmdiff_own"] is old and kept.items() <= values.items()
        assert torch.allclose(c0, old, rtol=1e-6, atol=0)  # what lies beside it is marked there
        assert "llmdiff_states" in values and "llmdiff_states" not in kept
    other = encode(pack, load("Qwen2", layer="all"), conditioning=joined)
    assert other[0][1]["llmdiff_llm"] == {"0": "Llama", "1": "Qwen2"}
    with pytest.raises(ValueError, match="already holds what Llama reads"):
        encode(pack, load(layer="all"), conditioning=other)


def test_saved_and_loaded_it_guides_the_same(pack, load, kit, model):
    prompt = encode(pack, load(layer="all"), conditioning=kit.own())
    file = io.BytesIO()
    torch.save(prompt, file)
    file.seek(0)
    again = torch.load(file, weights_only=True)
    changed = apply(pack, model)
    assert torch.equal(kit.sample(changed, again), kit.sample(changed, prompt))
    blank = encode(pack, load(layer="all"))
    file = io.BytesIO()
    torch.save(blank, file)
    file.seek(0)
    (c0, values), cond = (
        torch.load(file, weights_only=True)[0],
        pack.module("host.llmdiff.conditioning"),
    )
    assert cond.what_became(c0, values) == cond.KEPT


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_from_prompt_to_picture(pack, load, kit, model, mode):
    clip, changed = load(layer="all"), apply(pack, model, mode=mode)
    a, b = (kit.sample(changed, encode(pack, clip, text)) for text in (PROMPT, "a dog"))
    assert distance(a, b) > 1e-4 and distance(a, kit.sample(model, kit.no_text())) > 1e-4
    wide = encode(pack, clip, base="SDXL")  # the adapter knows the model's width
    assert torch.equal(kit.sample(changed, wide), a)
    assert torch.isfinite(kit.sample(changed, encode(pack, clip, ""))).all()


def test_text_of_another_width_is_no_matter_where_the_adapter_is_not_active(pack, load, kit):
    sdxl, path = kit.unet("sdxl"), kit.adapter("still", family="sdxl")
    changed = kit.apply(sdxl, path, "replace", 0.0)
    assert torch.isfinite(kit.sample(changed, kit.prompt(), steps=1)).all()


def test_adapters_are_listed_by_their_names(pack, host, kit):
    files = pack.module("host.llmdiff.files")
    assert ADAPTER in files.adapters()
    assert files.find_adapter(ADAPTER.replace("/", "\\")).is_file()
    before = pack.LLMDiffApply.fingerprint_inputs(adapter_name=ADAPTER, model=None)
    path = files.find_adapter(ADAPTER)
    shutil.copy(path, path.with_name("other.safetensors"))
    assert pack.LLMDiffApply.fingerprint_inputs(adapter_name=ADAPTER, model=None) == before
    assert pack.LLMDiffApply.fingerprint_inputs(adapter_name=None, model=None) == ""


def test_a_clip_that_is_no_whole_llm(pack, load):
    with pytest.raises(ValueError, match="layer -3.*set the LLM loader's layer to 'all'") as told:
        encode(pack, load())
    sentence(told)
    with pytest.raises(ValueError, match="connect the LI-DiT LLM loader") as told:
        encode(pack, object())
    sentence(told)


@pytest.mark.parametrize("name", ["no-such.safetensors", "../secret.safetensors"])
def test_an_adapter_that_is_not_there(pack, kit, model, name):
    with pytest.raises(ValueError, match=re.escape(name)) as told:
        apply(pack, model, adapter_name=name)
    sentence(told)


def test_another_file(pack, kit, model):
    with pytest.raises(ValueError, match="no LLMDiff adapter") as told:
        apply(pack, model, adapter_name="stickers-vae.safetensors")
    sentence(told)


def test_a_damaged_file(pack, kit, model):
    config = adapter_config()
    weights = random_adapter(config).state_dict()
    missing = {k: w for k, w in weights.items() if k != "layers.3.q.weight"}
    misshapen = {**weights, "layers.3.q.weight": torch.zeros(3, 4)}
    for damaged in (missing, misshapen):
        write_adapter(kit.folder / "damaged.safetensors", damaged, config)
        with pytest.raises(ValueError, match="layers.3.q.weight") as told:
            kit.apply(model, kit.folder / "damaged.safetensors")
        sentence(told)


def test_another_family(pack, kit, model):
    with pytest.raises(ValueError, match="70 cross-attention layers.*and this.*16") as told:
        kit.apply(model, kit.adapter("sdxl", family="sdxl"))
    sentence(told)
    with pytest.raises(ValueError, match="16 cross-attention layers.*and this.*70") as told:
        kit.apply(kit.unet("sdxl"), kit.adapter("sd15"))
    sentence(told)
    narrow = replace(adapter_config(), context_width=1024)
    write_adapter(kit.folder / "n.safetensors", random_adapter(narrow).state_dict(), narrow)
    with pytest.raises(ValueError, match="1024 wide.*768 wide") as told:
        kit.apply(model, kit.folder / "n.safetensors")
    sentence(told)


@pytest.fixture(scope="module")
def lidit(pack, host, tmp_path_factory):
    from model_kit import Kit, save_small

    return Kit(pack, host, save_small(tmp_path_factory.mktemp("lidit") / "small.safetensors"))


def test_a_lidit_and_an_adapter(pack, kit, lidit):
    with pytest.raises(ValueError, match="HostModel, which has no U-Net") as told:
        kit.apply(lidit.load(), kit.adapter("sd15"))
    sentence(told)


def test_conditionings_in_each_others_models(pack, kit, lidit, model):
    with pytest.raises(ValueError, match="for a LI-DiT.*connect LLMDiff Encode") as told:
        kit.sample(kit.apply(model, kit.adapter("sd15")), lidit.prompt())
    sentence(told)
    with pytest.raises(ValueError, match="from LLMDiff Encode, which is for SD1.5") as told:
        lidit.sample(lidit.load(), kit.prompt())
    sentence(told)
    with pytest.raises(ValueError, match="for a LI-DiT.*and the model is another; connect") as told:
        kit.sample(model, lidit.prompt())
    sentence(told)
    with pytest.raises(ValueError, match="for a LI-DiT.*and the model is another; connect") as told:
        kit.sample(model, kit.own(), negative=lidit.prompt(), cfg=3.0)
    sentence(told)


def test_a_mode_that_the_adapter_was_not_trained_in(pack, kit, model):
    path = kit.adapter("add-only", modes=("add",))
    with pytest.raises(ValueError, match="'replace' was asked for.*trained for add") as told:
        kit.apply(model, path, "replace")
    sentence(told)
    assert kit.apply(model, path, "add")


WRONG = {
    "another LLM": ({"llm": "other"}, "what other reads.*trained on tiny"),
    "another width": ({"width": 8}, "32 wide.*trained on a tiny with 64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_llm(kit, model, case):
    changes, words = WRONG[case]
    with pytest.raises(ValueError, match=words) as told:
        kit.sample(kit.apply(model, kit.adapter("sd15")), kit.prompt(**changes))
    sentence(told)


def test_another_template(kit, model):
    prompt = kit.prompt()
    prompt[0][1]["llmdiff_reading"]["0"] = "differences {}"
    with pytest.raises(ValueError, match="choose template 'short'") as told:
        kit.sample(kit.apply(model, kit.adapter("sd15")), prompt)
    sentence(told)


NOTHING_READ = "the LLMDiff adapter does nothing"


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("negative_too", [True, False])
def test_no_llm_text_on_the_positive_is_told_once(kit, model, caplog, mode, negative_too):
    changed = kit.apply(model, kit.adapter("sd15"), mode)
    prompts = kit.own(), kit.own(seed=1) if negative_too else kit.prompt()
    if mode == "replace":
        with pytest.raises(ValueError, match=NOTHING_READ) as told:
            kit.sample(changed, *prompts, cfg=3.0)
        sentence(told)
        return
    drawn = kit.sample(changed, *prompts, cfg=3.0, steps=3)
    assert len(noted(caplog, NOTHING_READ)) == 1
    if negative_too:
        assert torch.equal(drawn, kit.sample(model, *prompts, cfg=3.0, steps=3))


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_an_adapter_beside_another_whose_llm_alone_has_read_is_told(kit, model, caplog, mode):
    """Each needs its own LLM's text, and one that had none did nothing without a word."""
    from lidit_core.text.spec import LLMSpec
    from lidit_core.text.templates import find_template

    llm = LLMSpec("other", 8, "differences", find_template("short"))
    other = kit.adapter("beside", seed=1, llm=llm, blocks=2)
    both = kit.apply(kit.apply(model, kit.adapter("sd15")), other, mode)
    prompt = kit.prompt(own=kit.own())
    drawn = kit.sample(both, prompt)
    assert len(noted(caplog, f"that other reads, so the{NOTHING_READ[3:]}")) == 1
    assert torch.equal(drawn, kit.sample(kit.apply(model, kit.adapter("sd15")), prompt))
    caplog.clear()
    kit.sample(both, kit.prompt(7, 4, prompt, llm="other", width=8, blocks=2))
    assert not noted(caplog, NOTHING_READ)


def test_a_part_of_sampling_that_ends_before_it_begins_is_refused(kit, model):
    with pytest.raises(ValueError, match="from 0.8 to 0.2 of the .*, which is nowhere") as told:
        kit.apply(model, kit.adapter("sd15"), start=0.8, end=0.2)
    sentence(told)


def test_a_model_without_an_adapter_says_that_it_lacks_one(kit, model, caplog):
    with pytest.raises(ValueError, match="no LLMDiff adapter.*put LLMDiff Apply") as told:
        kit.sample(model, kit.prompt())
    sentence(told)
    own = kit.own()
    drawn = kit.sample(model, kit.prompt(own=own), steps=3)
    assert len(noted(caplog, "no LLMDiff adapter")) == 3  # a script has no node to tell once
    assert distance(drawn, kit.sample(model, own, steps=3)) < 1e-6

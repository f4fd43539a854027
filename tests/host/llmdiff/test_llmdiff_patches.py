"""An adapter beside what others put into the same U-Net. Run: see conftest.py"""

from __future__ import annotations

import pytest
import torch
from llmdiff_kit import SHAPES, adapter_config, controlnet, distance, watched

from lidit_core.llmdiff.file import load_adapter
from lidit_core.text.states import LLMStates


def lora(rank: int = 2) -> dict:
    """On every output map of cross-attention of SD1.5, as trainers write it."""
    generator, weights = torch.Generator().manual_seed(3), {}
    for layer in adapter_config().layers:
        key = f"diffusion_model.{layer.name}.attn2.to_out.0"
        for part, shape in {"up": (layer.width, rank), "down": (rank, layer.width)}.items():
            noise = torch.randn(shape, generator=generator)
            weights[f"{key}.lora_{part}.weight"] = noise * layer.width**-0.5
    return weights


def with_lora(unet):
    import comfy.sd

    return comfy.sd.load_lora_for_models(unet, None, lora(), 1.0, 0.0)[0]


def test_a_lora_takes_effect_on_both_paths_in_any_order(diff_kit, unet, trained):
    prompt = diff_kit.prompt(own=diff_kit.own())
    before = diff_kit.sample(diff_kit.apply(with_lora(unet), trained), prompt)
    after = diff_kit.sample(with_lora(diff_kit.apply(unet, trained)), prompt)
    assert torch.equal(before, after)
    plain = diff_kit.sample(unet, prompt)
    alone = [
        diff_kit.sample(m, prompt) for m in (diff_kit.apply(unet, trained), with_lora(unet), unet)
    ]
    assert all(distance(before, other) > 1e-3 for other in alone)
    assert torch.equal(alone[2], plain)


def others_patches(unet, first: bool, diff_kit, path, mode):
    """With what other packs do: further tokens in the text (IPAdapter and kin), a patch after."""
    tokens = torch.randn(1, 3, 768, generator=torch.Generator().manual_seed(8))

    def more(n, context, value, options):
        grown = torch.cat([context, tokens.expand(len(context), -1, -1)], dim=1)
        return n, grown, torch.cat([value, tokens.expand(len(value), -1, -1)], dim=1)

    def louder(n, options):
        return n * 1.1

    changed = unet if first else diff_kit.apply(unet, path, mode)
    changed = changed.clone()
    changed.set_model_attn2_patch(more)
    changed.set_model_attn2_output_patch(louder)
    return diff_kit.apply(changed, path, mode) if first else changed


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_patches_of_other_packs_on_the_same_blocks_take_effect(diff_kit, unet, trained, mode):
    prompt = diff_kit.prompt(own=diff_kit.own())
    ours = diff_kit.sample(diff_kit.apply(unet, trained, mode), prompt)
    silent = diff_kit.adapter("silent", trained=False)
    theirs = diff_kit.sample(others_patches(unet, True, diff_kit, silent, "add"), prompt)
    for first in (True, False):
        both = diff_kit.sample(others_patches(unet, first, diff_kit, trained, mode), prompt)
        assert distance(both, ours) > 1e-3 and distance(both, theirs) > 1e-3


def test_tokens_of_other_packs_are_not_scaled(diff_kit, unet):
    """With a1 = 0 the checkpoint's own text falls silent, and theirs is heard as it is."""
    paths = diff_kit.pack.module("host.llmdiff.attention")
    value = torch.ones(2, 5, 4)
    call = paths.Call(None, {}, torch.tensor([True, False])[:, None, None], 3)
    scaled = paths._scaled(value, call, 0.0)
    assert scaled[0].sum(-1).tolist() == [0, 0, 0, 4, 4] and scaled[1].eq(1).all()


def test_a_replaced_attention_of_another_pack_goes_on(diff_kit, unet, trained):
    prompt, calls = diff_kit.prompt(own=diff_kit.own()), []

    def replace(q, k, v, options):
        calls.append(options["block"])
        return v.mean(dim=1, keepdim=True).expand_as(q)

    changed = diff_kit.apply(unet, trained)
    changed.set_model_attn2_replace(replace, "middle", 0)
    found = diff_kit.sample(changed, prompt)
    assert set(calls) == {("middle", 0)}
    assert distance(found, diff_kit.sample(diff_kit.apply(unet, trained), prompt)) > 1e-4


def test_two_adapters_work_at_once(diff_kit, unet, trained):
    prompt = diff_kit.prompt(own=diff_kit.own())
    half = diff_kit.apply(diff_kit.apply(unet, trained, strength=0.25), trained, strength=0.75)
    assert (
        distance(
            diff_kit.sample(half, prompt), diff_kit.sample(diff_kit.apply(unet, trained), prompt)
        )
        < 1e-4
    )
    from lidit_core.text.spec import LLMSpec
    from lidit_core.text.templates import find_template

    llm = LLMSpec("other", 8, "differences", find_template("short"))
    other = diff_kit.adapter("other", seed=1, llm=llm, blocks=2)
    joined = diff_kit.prompt(7, 4, prompt, llm="other", width=8, blocks=2)
    for modes in (("add", "add"), ("replace", "add"), ("replace", "replace")):
        both = diff_kit.apply(diff_kit.apply(unet, trained, modes[0]), other, modes[1])
        found = diff_kit.sample(both, joined)
        for path, mode in zip((trained, other), modes):
            assert distance(found, diff_kit.sample(diff_kit.apply(unet, path, mode), joined)) > 1e-4
        assert distance(diff_kit.sample(both, prompt), found) > 1e-4


def test_in_replace_sdxl_reads_the_pooled_map(diff_kit):
    path = diff_kit.adapter("pooled", family="sdxl")
    unet, calls = watched(diff_kit.apply(diff_kit.unet("sdxl"), path, "replace"))
    diff_kit.sample(unet, diff_kit.prompt(11, 1), diff_kit.own("sdxl"), cfg=4.0)
    guided = [call for call in calls if call["context"].shape[1] == 7]
    assert guided and {call["context"].shape[2] for call in calls} == {96}
    pooled, sizes = guided[0]["y"].split([1280, 1536], dim=1)
    assert pooled.abs().min() > 0
    own = next(call for call in calls if call["context"].shape[1] == 77)["y"]
    assert torch.equal(own[:, :1280], diff_kit.own("sdxl")[0][1]["pooled_output"])
    assert torch.equal(own[:, 1280:], sizes)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_controlnet_guides_and_reads_what_the_u_net_reads(diff_kit, family):
    base, path = diff_kit.unet(family), diff_kit.adapter("controlled", family=family)
    own = diff_kit.own(family)
    nothing = torch.full_like(own[0][0], -0.0)  # as LLMDiffEncode says that there is no such text
    alone = diff_kit.prompt(11, 1, [[nothing, {"pooled_output": torch.zeros(1, 1280)}]])
    control, read = controlnet(family)
    adapter = load_adapter(path)
    states = LLMStates(
        *(getattr(diff_kit.reading(11, 1).states, name) for name in ("hidden", "roles"))
    )
    with torch.no_grad():
        text = adapter.read(states, torch.tensor([999.0]))
        mine = {"context": adapter.context(text)}
        mine |= {"y": adapter.pooled(text)} if family == "sdxl" else {}
    theirs = {"context": own[0][0], "y": own[0][1]["pooled_output"]}
    for mode, prompt, expected in (
        ("add", diff_kit.prompt(own=own), theirs),
        ("replace", alone, mine),
    ):
        unet = diff_kit.apply(base, path, mode)
        plain = diff_kit.no_text(SHAPES[family].context_width) if prompt is alone else prompt
        controlled, plainly = (
            diff_kit.stock(
                "ControlNetApplyAdvanced",
                positive=positive,
                negative=own,
                control_net=control,
                image=torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4)),
                strength=1.0,
                start_percent=0.0,
                end_percent=1.0,
            )
            for positive in (prompt, plain)
        )
        read.clear()
        found, calls = diff_kit.sample(unet, controlled), list(read)
        assert distance(found, diff_kit.sample(unet, prompt)) > 1e-3
        assert distance(found, diff_kit.sample(base, plainly)) > 1e-3
        assert len(calls) == 2
        for call in calls:
            assert torch.allclose(call["context"], expected["context"], atol=1e-5)
            if family == "sdxl":
                assert torch.allclose(call["y"][:, :1280], expected["y"], atol=1e-5)

"""An adapter beside what others put into the same U-Net. Run: see conftest.py"""

from __future__ import annotations

import pytest
import torch
from llmdiff_kit import SHAPES, DiffKit, adapter_config, distance, fill, watched

from lidit_core.llmdiff.families import host_config
from lidit_core.llmdiff.file import load_adapter
from lidit_core.states import LLMStates


@pytest.fixture(scope="module")
def kit(pack, host, tmp_path_factory) -> DiffKit:
    return DiffKit(pack, host, tmp_path_factory.mktemp("llmdiff"))


@pytest.fixture(scope="module")
def model(kit):
    return kit.unet()


@pytest.fixture(scope="module")
def trained(kit):
    return kit.adapter("trained")


def lora(rank: int = 2) -> dict:
    """On every output map of cross-attention of SD1.5, as trainers write it."""
    generator, weights = torch.Generator().manual_seed(3), {}
    for layer in adapter_config().layers:
        key = f"diffusion_model.{layer.name}.attn2.to_out.0"
        for part, shape in {"up": (layer.width, rank), "down": (rank, layer.width)}.items():
            noise = torch.randn(shape, generator=generator)
            weights[f"{key}.lora_{part}.weight"] = noise * layer.width**-0.5
    return weights


def with_lora(model):
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, lora(), 1.0, 0.0)[0]


def test_a_lora_takes_effect_on_both_paths_in_any_order(kit, model, trained):
    prompt = kit.prompt(own=kit.own())
    before = kit.sample(kit.apply(with_lora(model), trained), prompt)
    after = kit.sample(with_lora(kit.apply(model, trained)), prompt)
    assert torch.equal(before, after)
    plain = kit.sample(model, prompt)
    alone = [kit.sample(m, prompt) for m in (kit.apply(model, trained), with_lora(model), model)]
    assert all(distance(before, other) > 1e-3 for other in alone)
    assert torch.equal(alone[2], plain)


def others_patches(model, first: bool, kit, path, mode):
    """With what other packs do: further tokens in the text (IPAdapter and kin), a patch after."""
    tokens = torch.randn(1, 3, 768, generator=torch.Generator().manual_seed(8))

    def more(n, context, value, options):
        grown = torch.cat([context, tokens.expand(len(context), -1, -1)], dim=1)
        return n, grown, torch.cat([value, tokens.expand(len(value), -1, -1)], dim=1)

    def louder(n, options):
        return n * 1.1

    changed = model if first else kit.apply(model, path, mode)
    changed = changed.clone()
    changed.set_model_attn2_patch(more)
    changed.set_model_attn2_output_patch(louder)
    return kit.apply(changed, path, mode) if first else changed


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_patches_of_other_packs_on_the_same_blocks_take_effect(kit, model, trained, mode):
    prompt = kit.prompt(own=kit.own())
    ours = kit.sample(kit.apply(model, trained, mode), prompt)
    silent = kit.adapter("silent", trained=False)
    theirs = kit.sample(others_patches(model, True, kit, silent, "add"), prompt)
    for first in (True, False):
        both = kit.sample(others_patches(model, first, kit, trained, mode), prompt)
        assert distance(both, ours) > 1e-3 and distance(both, theirs) > 1e-3


def test_tokens_of_other_packs_are_not_scaled(kit, model):
    """With a1 = 0 the checkpoint's own text falls silent, and theirs is heard as it is."""
    paths = kit.pack.module("host.llmdiff_attention")
    value = torch.ones(2, 5, 4)
    call = paths.Call(None, {}, torch.tensor([True, False])[:, None, None], 3)
    scaled = paths._scaled(value, call, 0.0)
    assert scaled[0].sum(-1).tolist() == [0, 0, 0, 4, 4] and scaled[1].eq(1).all()


def test_a_replaced_attention_of_another_pack_goes_on(kit, model, trained):
    prompt, calls = kit.prompt(own=kit.own()), []

    def replace(q, k, v, options):
        calls.append(options["block"])
        return v.mean(dim=1, keepdim=True).expand_as(q)

    changed = kit.apply(model, trained)
    changed.set_model_attn2_replace(replace, "middle", 0)
    found = kit.sample(changed, prompt)
    assert set(calls) == {("middle", 0)}
    assert distance(found, kit.sample(kit.apply(model, trained), prompt)) > 1e-4


def test_two_adapters_work_at_once(kit, model, trained):
    prompt = kit.prompt(own=kit.own())
    half = kit.apply(kit.apply(model, trained, strength=0.25), trained, strength=0.75)
    assert distance(kit.sample(half, prompt), kit.sample(kit.apply(model, trained), prompt)) < 1e-4
    from lidit_core.config import LLMSpec
    from lidit_core.text.templates import find_template

    llm = LLMSpec("other", 8, "differences", find_template("short"))
    other = kit.adapter("other", seed=1, llm=llm, blocks=2)
    joined = kit.prompt(7, 4, prompt, llm="other", width=8, blocks=2)
    for modes in (("add", "add"), ("replace", "add"), ("replace", "replace")):
        both = kit.apply(kit.apply(model, trained, modes[0]), other, modes[1])
        found = kit.sample(both, joined)
        for path, mode in zip((trained, other), modes):
            assert distance(found, kit.sample(kit.apply(model, path, mode), joined)) > 1e-4
        assert distance(kit.sample(both, prompt), found) > 1e-4


def test_in_replace_sdxl_reads_the_pooled_map(kit):
    path = kit.adapter("pooled", family="sdxl")
    model, calls = watched(kit.apply(kit.unet("sdxl"), path, "replace"))
    kit.sample(model, kit.prompt(11, 1), kit.own("sdxl"), cfg=4.0)
    guided = [call for call in calls if call["context"].shape[1] == 7]
    assert guided and {call["context"].shape[2] for call in calls} == {96}
    pooled, sizes = guided[0]["y"].split([1280, 1536], dim=1)
    assert pooled.abs().min() > 0
    own = next(call for call in calls if call["context"].shape[1] == 77)["y"]
    assert torch.equal(own[:, :1280], kit.own("sdxl")[0][1]["pooled_output"])
    assert torch.equal(own[:, 1280:], sizes)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_controlnet_guides_and_reads_what_the_u_net_reads(kit, family):
    base, path = kit.unet(family), kit.adapter("controlled", family=family)
    own = kit.own(family)
    nothing = torch.full_like(own[0][0], -0.0)  # as LLMDiffEncode says that there is no such text
    alone = kit.prompt(11, 1, [[nothing, {"pooled_output": torch.zeros(1, 1280)}]])
    control, read = controlnet(family)
    adapter = load_adapter(path)
    states = LLMStates(*(getattr(kit.reading(11, 1).states, name) for name in ("hidden", "roles")))
    with torch.no_grad():
        text = adapter.read(states, torch.tensor([999.0]))
        mine = {"context": adapter.context(text)}
        mine |= {"y": adapter.pooled(text)} if family == "sdxl" else {}
    theirs = {"context": own[0][0], "y": own[0][1]["pooled_output"]}
    for mode, prompt, expected in (("add", kit.prompt(own=own), theirs), ("replace", alone, mine)):
        model = kit.apply(base, path, mode)
        controlled = kit.stock(
            "ControlNetApplyAdvanced",
            positive=prompt,
            negative=own,
            control_net=control,
            image=torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4)),
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        )
        read.clear()
        found, calls = kit.sample(model, controlled), list(read)
        assert distance(found, kit.sample(model, prompt)) > 1e-3
        assert distance(found, kit.sample(base, controlled)) > 1e-3
        assert len(calls) == 2
        for call in calls:
            assert torch.allclose(call["context"], expected["context"], atol=1e-5)
            if family == "sdxl":
                assert torch.allclose(call["y"][:, :1280], expected["y"], atol=1e-5)


def controlnet(family: str) -> tuple:
    """The host's CONTROL_NET over random weights, and what each call of it reads."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    config = {k: v for k, v in host_config(SHAPES[family]).items() if k != "out_channels"}
    ours = {"hint_channels": 3, "operations": comfy.ops.disable_weight_init}
    network = comfy.cldm.cldm.ControlNet(**config, **ours, dtype=torch.float32).eval()
    fill(network)
    read, forward = [], network.forward

    def note(x, hint, timesteps, context, **given):
        read.append({"context": context, **given})
        return forward(x, hint, timesteps, context, **given)

    network.forward = note
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu")), read

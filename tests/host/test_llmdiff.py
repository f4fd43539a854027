"""LLMDiff adapters under the stock KSampler, on small random U-Nets. Run: see conftest.py"""

from __future__ import annotations

import pytest
import torch
from llmdiff_kit import FP8, LAYERS, DiffKit, distance, empty, watched

ROUNDING = 2e-5


@pytest.fixture(scope="module")
def kit(pack, host, tmp_path_factory) -> DiffKit:
    return DiffKit(pack, host, tmp_path_factory.mktemp("llmdiff"))


@pytest.fixture(scope="module")
def model(kit):
    return kit.unet()


@pytest.fixture(scope="module")
def trained(kit):
    return kit.adapter("trained")


KINDS = [("sd15", "eps", 4), ("sd15", "v", 4), ("sd15", "eps", 9), ("sdxl", "eps", 4),
         ("sdxl", "v", 4)]  # fmt: skip


STORED = [(torch.float16, None, 0.02), (FP8, torch.float32, 0.3)]


@pytest.mark.parametrize("family,kind,channels", KINDS)
def test_the_base_is_met_bit_for_bit(kit, family, kind, channels):
    base = kit.unet(family, kind, channels)
    prompt = kit.prompt(own=kit.own(family, 1))
    negative = kit.prompt(7, 1, own=kit.own(family, 2))
    trained = kit.adapter("kind", family=family)
    untrained = kit.adapter("untrained", family=family, trained=False)

    def drawn(model):
        return kit.sample(model, prompt, negative, cfg=7.0)

    plain = drawn(base)
    assert torch.isfinite(plain).all()
    for mode in ("add", "replace"):
        assert torch.equal(drawn(kit.apply(base, trained, mode, 0.0)), plain)
        assert torch.equal(drawn(kit.apply(base, trained, mode, end=0.0)), plain)
        assert distance(drawn(kit.apply(base, trained, mode)), plain) > 1e-3
        assert torch.equal(drawn(base), plain)  # after the node is removed
    assert torch.equal(drawn(kit.apply(base, untrained)), plain)


@pytest.mark.parametrize("family", LAYERS)
def test_every_layer_gets_its_path(kit, family):
    found = kit.pack.module("host.llmdiff_unet").found_layers
    layers = found(kit.unet(family).model.diffusion_model)
    assert len(layers) == LAYERS[family]
    from llmdiff_kit import adapter_config

    theirs = [(x.layer.name, x.layer.width, x.layer.heads) for x in layers]
    assert theirs == [(x.name, x.width, x.heads) for x in adapter_config(family).layers]


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("family", LAYERS)
def test_a_layer_computes_the_papers_formula(kit, family, mode):
    """f by hand, with the library's adapter and PyTorch's attention, for the deepest layer."""
    from lidit_core.attention import scaled_dot_product as attn
    from lidit_core.llmdiff.file import load_adapter
    from lidit_core.states import LLMStates

    base, path = kit.unet(family), kit.adapter("formula", family=family)
    seen = []
    model = kit.apply(base, path, mode, 0.7)

    def note_input(n, context, value, options):
        seen.append([options["block"], n, context])
        return n, context, value

    def note_output(n, options):
        seen[-1].append(n)
        return n

    model.set_model_attn2_patch(note_input)
    model.set_model_attn2_output_patch(note_output)
    own = kit.own(family)
    prompt = kit.prompt(11, 3, own=own)
    kit.sample(model, prompt, steps=1)
    (place, x, context, found) = next(call for call in seen if call[0] == ("middle", 0))
    adapter = load_adapter(path)
    read = kit.reading(11, 3).states
    with torch.no_grad():
        text = adapter.read(LLMStates(read.hidden, read.roles), torch.tensor([999.0]))
        c0 = adapter.context(text) if mode == "replace" else own[0][0]
        assert torch.allclose(context, c0, atol=1e-5)
        names = [layer.name for layer in adapter.config.layers]
        added = adapter.layers[names.index("middle_block.1.transformer_blocks.0")]
        layer = base.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2
        heads = layer.heads
        first = attn(layer.to_q(x), layer.to_k(c0), layer.to_v(c0), heads)
        if mode == "replace":
            first = added.a1 * added.b1.exp() * first
        second = attn(added.q(x), added.k(text.tokens), added.v(text.tokens), heads)
        f = first + 0.7 * added.a2 * added.b2.exp() * second
        assert distance(found, layer.to_out(f)) < 1e-5
        assert distance(found, layer.to_out(first)) > 1e-2


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_prompts_of_any_length_run_together_as_alone(kit, model, trained, mode):
    changed, calls = watched(kit.apply(model, trained, mode))
    own = (kit.own(seed=1), kit.own(seed=2)) if mode == "add" else (None, None)
    positive, negative = kit.prompt(9, 1, own=own[0]), kit.prompt(14, 2, own=own[1])
    cond = kit.sample(changed, positive, steps=1)
    uncond = kit.sample(changed, negative, steps=1)
    calls.clear()
    guided = kit.sample(changed, positive, negative, steps=1, cfg=7.0)
    assert [len(call["x"]) for call in calls] == [2]  # in one call
    assert distance(guided, uncond + 7 * (cond - uncond)) < ROUNDING
    assert distance(cond, uncond) > 1e-3


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_a_row_of_a_batch_is_drawn_as_alone(kit, model, trained, mode):
    changed = kit.apply(model, trained, mode)
    pair = kit.prompt(9, 1), kit.prompt(14, 2)
    together = kit.sample(changed, *pair, latent=empty(4), cfg=7.0)
    for row in range(4):
        alone = kit.sample(changed, *pair, latent={**empty(), "batch_index": [row]}, cfg=7.0)
        assert distance(together[row : row + 1], alone) < ROUNDING


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_text_on_the_positive_only_leaves_the_negative_to_the_base(kit, model, trained, mode):
    changed = kit.apply(model, trained, mode)
    positive, negative = kit.prompt(9, 1, own=kit.own(seed=1)), kit.own(seed=2)
    uncond = kit.sample(model, negative, steps=1)
    assert torch.equal(kit.sample(changed, negative, steps=1), uncond)
    cond = kit.sample(changed, positive, steps=1)
    guided = kit.sample(changed, positive, negative, steps=1, cfg=7.0)
    assert distance(guided, uncond + 7 * (cond - uncond)) < ROUNDING


@pytest.mark.parametrize("own", [False, True])
def test_a_zeroed_out_conditioning_has_no_text(kit, model, trained, own):
    changed = kit.apply(model, trained)
    prompt = kit.prompt(own=kit.own() if own else None)
    zeroed = kit.stock("ConditioningZeroOut", conditioning=prompt)
    assert torch.equal(kit.sample(changed, zeroed), kit.sample(model, zeroed))
    assert not torch.equal(kit.sample(changed, prompt), kit.sample(model, prompt))


def test_ranges_and_areas_are_the_hosts(kit, model, trained):
    changed = kit.apply(model, trained)
    own, how = kit.own(), {"steps": 3}
    one, two = kit.prompt(9, 1, own=own), kit.prompt(12, 2, own=own)

    def combined(a, b):
        return kit.stock("ConditioningCombine", conditioning_1=a, conditioning_2=b)

    def timed(prompt, start, end):
        return kit.stock("ConditioningSetTimestepRange", conditioning=prompt, start=start, end=end)

    def area(prompt, x, width=32):
        inputs = {"width": width, "height": 64, "x": x, "y": 0, "strength": 1.0}
        return kit.stock("ConditioningSetArea", conditioning=prompt, **inputs)

    plain = kit.sample(changed, one, **how)
    halves = combined(timed(one, 0.0, 0.5), timed(one, 0.501, 1.0))
    assert distance(kit.sample(changed, halves, **how), plain) < ROUNDING
    halves = combined(timed(two, 0.0, 0.5), timed(one, 0.501, 1.0))
    assert distance(kit.sample(changed, halves, **how), plain) > 1e-4
    assert distance(kit.sample(changed, area(one, 0, 64), **how), plain) < ROUNDING
    sides = combined(area(one, 0), area(two, 32))
    left, right = (kit.sample(changed, area(p, x), steps=1) for p, x in ((one, 0), (two, 32)))
    both = kit.sample(changed, sides, steps=1)
    assert distance(both[..., :4], left[..., :4]) < ROUNDING
    assert distance(both[..., 4:], right[..., 4:]) < ROUNDING


def test_a_part_of_sampling_is_the_adapters(kit, model, trained):
    prompt, how = kit.prompt(own=kit.own()), {"steps": 4}
    base, whole, early, late = (
        kit.sample(m, prompt, **how)
        for m in (
            model,
            kit.apply(model, trained),
            kit.apply(model, trained, end=0.5),
            kit.apply(model, trained, start=0.5),
        )
    )
    for a, b in ((early, base), (early, whole), (late, base), (late, whole), (early, late)):
        assert distance(a, b) > 1e-4


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize(
    "dtype,cast,limit", [(torch.float16, None, 0.02), (FP8, torch.float32, 0.3)]
)
def test_weights_in_few_bits_are_guided_alike(kit, model, trained, mode, dtype, cast, limit):
    small = kit.unet(dtype=dtype, cast=cast)
    assert {p.dtype for p in small.model.diffusion_model.parameters()} == {dtype}
    prompt = kit.prompt(own=kit.own())
    expected = kit.sample(kit.apply(model, trained, mode), prompt)
    found = kit.sample(kit.apply(small, trained, mode), prompt)
    assert distance(found, expected) < limit
    base = kit.sample(small, prompt)
    assert distance(found, base) > 1e-3


def test_an_adapter_stored_in_float16_reads_what_float16_does_not_hold(kit, model):
    from lidit_core.llmdiff.file import read_adapter, write_adapter

    path = kit.adapter("wide")
    config, weights = read_adapter(path)
    half = kit.folder / "half.safetensors"
    write_adapter(half, {k: w.half() for k, w in weights.items()}, config)
    prompt = kit.prompt(own=kit.own())
    prompt[0][1]["llmdiff_states"]["0"] *= 1e5
    expected, found = (kit.sample(kit.apply(model, p), prompt) for p in (path, half))
    assert distance(found, expected) < 5e-3


@pytest.fixture
def offloading(monkeypatch):
    """The host leaves every weight that it can where it lies, as it does when memory is short."""
    from comfy import model_management

    given = []

    def load(models, *args, **options):
        for patcher in models:
            patcher.load(torch.device("cpu"), lowvram_model_memory=1)
            given.append(patcher)

    monkeypatch.setattr(model_management, "load_models_gpu", load)
    yield given
    for patcher in given:
        patcher.detach()


def test_offloaded_weights_give_the_same(kit, trained, request):
    prompt = kit.prompt(own=kit.own())
    models = [kit.apply(kit.unet(), trained, "replace") for _ in range(2)]
    expected = kit.sample(models[0], prompt)
    given = request.getfixturevalue("offloading")
    assert torch.equal(kit.sample(models[1], prompt), expected)
    assert "LLMDiffAdapter" in {type(patcher.model).__name__ for patcher in given}
    assert all(patcher.model.model_lowvram for patcher in given)


def test_the_weights_are_the_files_where_the_host_pages_them(kit, trained, monkeypatch):
    """With dynamic VRAM the host builds layers without weights; simulated, as it needs a GPU."""
    memory = pytest.importorskip("comfy.memory_management", reason="this host has no such thing")
    from lidit_core.llmdiff.file import read_adapter

    monkeypatch.setattr(memory, "aimdo_enabled", True)
    patcher, _ = kit.pack.module("host.llmdiff_adapter").open_adapter(trained)
    found, (_, expected) = patcher.model.state_dict(), read_adapter(trained)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_adapter_is_loaded_and_freed_by_the_host(kit, model, trained):
    from comfy import model_management as management

    management.unload_all_models()
    changed = kit.apply(model, trained)
    kit.sample(changed, kit.prompt())
    loaded = {type(entry.model.model).__name__ for entry in management.current_loaded_models}
    assert loaded == {"BaseModel", "LLMDiffAdapter"}
    management.unload_all_models()
    assert management.current_loaded_models == []


def lora(rank: int = 2) -> dict:
    """On every output map of cross-attention of SD1.5, as trainers write it."""
    from llmdiff_kit import adapter_config

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


def test_in_replace_a_controlnet_and_sdxl_read_what_the_llm_read(kit):
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


def test_what_changes_with_time_is_read_each_step_and_the_rest_once(kit, model, monkeypatch):
    refiner = kit.pack.module("lidit_core.llmdiff.adapter").LLMDiffAdapter
    times, read = [], refiner.read

    def note(self, states, t, **options):
        times.append(t.tolist())
        return read(self, states, t, **options)

    monkeypatch.setattr(refiner, "read", note)
    prompt = kit.prompt(own=kit.own())
    kit.sample(kit.apply(model, kit.adapter("still")), prompt, steps=3)
    assert len(times) == 1
    times.clear()
    moving = kit.adapter("moving", timestep_gates=True)
    kit.sample(kit.apply(model, moving), prompt, prompt, steps=3, cfg=3.0)
    assert len({t for (t,) in times}) == 3 and times[0] == [999.0]


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_a_refined_reading_guides_and_is_batched_as_alone(kit, model, mode):
    from lidit_core.llmdiff.config import TokenRefiner

    refiner = TokenRefiner(1, 24, 4)
    path = kit.adapter("refined", refiner=refiner, timestep_gates=True)
    changed = kit.apply(model, path, mode)
    own = kit.own() if mode == "add" else None
    positive, negative = kit.prompt(9, 1, own), kit.prompt(14, 2, own)
    cond, uncond = (kit.sample(changed, p, steps=1) for p in (positive, negative))
    guided = kit.sample(changed, positive, negative, steps=1, cfg=7.0)
    assert distance(guided, uncond + 7 * (cond - uncond)) < ROUNDING

"""LLMDiff adapters under the stock KSampler, on small random U-Nets. Run: see conftest.py"""

from __future__ import annotations

import pytest
import torch
from llmdiff_kit import LAYERS, adapter_config, distance, empty, watched

ROUNDING = 2e-5
KINDS = [("sd15", "eps", 4), ("sd15", "v", 4), ("sd15", "eps", 9), ("sdxl", "eps", 4),
         ("sdxl", "v", 4)]  # fmt: skip


@pytest.mark.parametrize("family,kind,channels", KINDS)
def test_the_base_is_met_bit_for_bit(diff_kit, family, kind, channels):
    base = diff_kit.unet(family, kind, channels)
    own = [diff_kit.own(family, 1), diff_kit.own(family, 2)]
    prompt, negative = diff_kit.prompt(own=own[0]), diff_kit.prompt(7, 1, own=own[1])
    trained = diff_kit.adapter("kind", family=family)
    untrained = diff_kit.adapter("untrained", family=family, trained=False)

    def drawn(unet):
        return diff_kit.sample(unet, prompt, negative, cfg=7.0)

    plain = diff_kit.sample(base, *own, cfg=7.0)
    assert torch.isfinite(plain).all()
    for mode in ("add", "replace"):
        assert torch.equal(drawn(diff_kit.apply(base, trained, mode, 0.0)), plain)
        assert torch.equal(drawn(diff_kit.apply(base, trained, mode, end=0.0)), plain)
        assert distance(drawn(diff_kit.apply(base, trained, mode)), plain) > 1e-3
        after = diff_kit.sample(base, *own, cfg=7.0)
        assert torch.equal(after, plain)  # after the node is removed
    assert torch.equal(drawn(diff_kit.apply(base, untrained)), plain)


@pytest.mark.parametrize("family", LAYERS)
def test_every_layer_gets_its_path(diff_kit, family):
    found = diff_kit.pack.module("host.llmdiff.unet").found_layers
    layers = found(diff_kit.unet(family).model.diffusion_model)
    assert len(layers) == LAYERS[family]

    theirs = [(x.layer.name, x.layer.width, x.layer.heads) for x in layers]
    assert theirs == [(x.name, x.width, x.heads) for x in adapter_config(family).layers]


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("family", LAYERS)
def test_a_layer_computes_the_papers_formula(diff_kit, family, mode):
    """f by hand, with the library's adapter and PyTorch's attention, for the deepest layer."""
    from lidit_core.llmdiff.file import load_adapter
    from lidit_core.model.attention import scaled_dot_product as attn
    from lidit_core.text.states import LLMStates

    base, path = diff_kit.unet(family), diff_kit.adapter("formula", family=family)
    seen = []
    unet = diff_kit.apply(base, path, mode, 0.7)

    def note_input(n, context, value, options):
        seen.append([options["block"], n, context])
        return n, context, value

    def note_output(n, options):
        seen[-1].append(n)
        return n

    unet.set_model_attn2_patch(note_input)
    unet.set_model_attn2_output_patch(note_output)
    own = diff_kit.own(family)
    prompt = diff_kit.prompt(11, 3, own=own)
    diff_kit.sample(unet, prompt, steps=1)
    (place, x, context, found) = next(call for call in seen if call[0] == ("middle", 0))
    adapter = load_adapter(path)
    read = diff_kit.reading(11, 3).states
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
def test_prompts_of_any_length_run_together_as_alone(diff_kit, unet, trained, mode):
    changed, calls = watched(diff_kit.apply(unet, trained, mode))
    own = (diff_kit.own(seed=1), diff_kit.own(seed=2)) if mode == "add" else (None, None)
    positive, negative = diff_kit.prompt(9, 1, own=own[0]), diff_kit.prompt(14, 2, own=own[1])
    cond = diff_kit.sample(changed, positive, steps=1)
    uncond = diff_kit.sample(changed, negative, steps=1)
    calls.clear()
    guided = diff_kit.sample(changed, positive, negative, steps=1, cfg=7.0)
    assert [len(call["x"]) for call in calls] == [2]  # in one call
    assert distance(guided, uncond + 7 * (cond - uncond)) < ROUNDING
    assert distance(cond, uncond) > 1e-3


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_a_row_of_a_batch_is_drawn_as_alone(diff_kit, unet, trained, mode):
    changed = diff_kit.apply(unet, trained, mode)
    pair = diff_kit.prompt(9, 1), diff_kit.prompt(14, 2)
    together = diff_kit.sample(changed, *pair, latent=empty(4), cfg=7.0)
    for row in range(4):
        alone = diff_kit.sample(changed, *pair, latent={**empty(), "batch_index": [row]}, cfg=7.0)
        assert distance(together[row : row + 1], alone) < ROUNDING


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_text_on_the_positive_only_leaves_the_negative_to_the_base(diff_kit, unet, trained, mode):
    changed = diff_kit.apply(unet, trained, mode)
    positive, negative = diff_kit.prompt(9, 1, own=diff_kit.own(seed=1)), diff_kit.own(seed=2)
    uncond = diff_kit.sample(unet, negative, steps=1)
    cond = diff_kit.sample(changed, positive, steps=1)
    guided = diff_kit.sample(changed, positive, negative, steps=1, cfg=7.0)
    assert distance(guided, uncond + 7 * (cond - uncond)) < ROUNDING


@pytest.mark.parametrize("own", [False, True])
def test_a_zeroed_out_conditioning_has_no_text(diff_kit, unet, trained, own):
    changed = diff_kit.apply(unet, trained)
    prompt = diff_kit.prompt(own=diff_kit.own() if own else None)
    zeroed = diff_kit.stock("ConditioningZeroOut", conditioning=prompt)
    plain = diff_kit.sample(unet, diff_kit.no_text())
    assert torch.equal(diff_kit.sample(changed, zeroed), plain)
    assert not torch.equal(diff_kit.sample(changed, prompt), plain)


def test_ranges_and_areas_are_the_hosts(diff_kit, unet, trained):
    changed = diff_kit.apply(unet, trained)
    own, how = diff_kit.own(), {"steps": 3}
    one, two = diff_kit.prompt(9, 1, own=own), diff_kit.prompt(12, 2, own=own)

    def combined(a, b):
        return diff_kit.stock("ConditioningCombine", conditioning_1=a, conditioning_2=b)

    def timed(prompt, start, end):
        return diff_kit.stock(
            "ConditioningSetTimestepRange", conditioning=prompt, start=start, end=end
        )

    def area(prompt, x, width=32):
        inputs = {"width": width, "height": 64, "x": x, "y": 0, "strength": 1.0}
        return diff_kit.stock("ConditioningSetArea", conditioning=prompt, **inputs)

    plain = diff_kit.sample(changed, one, **how)
    halves = combined(timed(one, 0.0, 0.5), timed(one, 0.501, 1.0))
    assert distance(diff_kit.sample(changed, halves, **how), plain) < ROUNDING
    halves = combined(timed(two, 0.0, 0.5), timed(one, 0.501, 1.0))
    assert distance(diff_kit.sample(changed, halves, **how), plain) > 1e-4
    assert distance(diff_kit.sample(changed, area(one, 0, 64), **how), plain) < ROUNDING
    sides = combined(area(one, 0), area(two, 32))
    left, right = (diff_kit.sample(changed, area(p, x), steps=1) for p, x in ((one, 0), (two, 32)))
    both = diff_kit.sample(changed, sides, steps=1)
    assert distance(both[..., :4], left[..., :4]) < ROUNDING
    assert distance(both[..., 4:], right[..., 4:]) < ROUNDING


def test_a_part_of_sampling_is_the_adapters(diff_kit, unet, trained):
    prompt, how = diff_kit.prompt(own=diff_kit.own()), {"steps": 4}
    base, whole, early, late = (
        diff_kit.sample(m, prompt, **how)
        for m in (
            unet,
            diff_kit.apply(unet, trained),
            diff_kit.apply(unet, trained, end=0.5),
            diff_kit.apply(unet, trained, start=0.5),
        )
    )
    for a, b in ((early, base), (early, whole), (late, base), (late, whole), (early, late)):
        assert distance(a, b) > 1e-4


def test_what_changes_with_time_is_read_each_step_and_the_rest_once(diff_kit, unet, monkeypatch):
    refiner = diff_kit.pack.module("lidit_core.llmdiff.adapter").LLMDiffAdapter
    times, read = [], refiner.read

    def note(self, states, t, **options):
        times.append(t.tolist())
        return read(self, states, t, **options)

    monkeypatch.setattr(refiner, "read", note)
    prompt = diff_kit.prompt(own=diff_kit.own())
    diff_kit.sample(diff_kit.apply(unet, diff_kit.adapter("still")), prompt, steps=3)
    assert len(times) == 1
    times.clear()
    moving = diff_kit.adapter("moving", timestep_gates=True)
    diff_kit.sample(diff_kit.apply(unet, moving), prompt, prompt, steps=3, cfg=3.0)
    assert len({t for (t,) in times}) == 3 and times[0] == [999.0]


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_a_refined_reading_guides_and_is_batched_as_alone(diff_kit, unet, mode):
    from lidit_core.llmdiff.config import TokenRefiner

    refiner = TokenRefiner(1, 24, 4)
    path = diff_kit.adapter("refined", refiner=refiner, timestep_gates=True)
    changed = diff_kit.apply(unet, path, mode)
    own = diff_kit.own() if mode == "add" else None
    positive, negative = diff_kit.prompt(9, 1, own), diff_kit.prompt(14, 2, own)
    cond, uncond = (diff_kit.sample(changed, p, steps=1) for p in (positive, negative))
    guided = diff_kit.sample(changed, positive, negative, steps=1, cfg=7.0)
    assert distance(guided, uncond + 7 * (cond - uncond)) < ROUNDING

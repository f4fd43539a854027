"""LI-DiT as the host's MODEL. Run by the host's Python: pytest tests/host/lidit/test_model.py"""

from __future__ import annotations

import pytest
import torch
from model_kit import close, counted, empty, fuse, save_small


def test_the_stock_sampler_ours_and_the_library_give_the_same_latent(kit, model, pack):
    positive, negative = kit.prompt(length=12, seed=1), kit.prompt(length=7, seed=2)
    stock = kit.sample(model, positive, negative)
    how = {"seed": 5, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    how |= {"denoise": 1.0, "guidance_start": 0.0, "guidance_end": 1.0}
    given = {"model": model, "positive": positive, "negative": negative}
    (ours,) = pack.run("LiDiTSampler", **given, latent_image=empty(), **how)
    assert torch.equal(ours["samples"], stock)
    sampling, latents = (
        pack.module("lidit_core.diffusion.sampling"),
        pack.module("lidit_core.model.latents"),
    )
    library = kit.core.load_lidit(kit.checkpoint)
    text = [{0: kit.read(length=n, seed=s)} for n, s in ((12, 1), (7, 2))]
    with torch.no_grad():
        z = sampling.sample(library, sampling.initial_noise([5], 16, 4, 4), *text, 4, 3.0)
    assert close(latents.denormalise(z, library.config.latent), stock)


def test_guidance_can_be_limited_to_a_part_of_the_sampling(kit, model, pack):
    sampling = pack.module("host.lidit.guidance")
    positive = kit.prompt(seed=1)
    whole, none = (kit.sample(model, positive, cfg=cfg) for cfg in (3.0, 1.0))
    part = kit.sample(sampling.guided_between(model, 0.0, 0.4), positive)
    assert not close(part, whole, 1e-3) and not close(part, none, 1e-3)
    never = kit.sample(sampling.guided_between(model, 1.0, 1.0), positive)
    assert close(never, none)
    with pytest.raises(Exception, match="guidance interval is 0.7 to 0.2"):
        sampling.guided_between(model, 0.7, 0.2)


def test_prompts_of_different_lengths_run_as_one_batch_and_give_what_they_give_alone(kit, model):
    positive, negative = kit.prompt(length=14, seed=1), kit.prompt(length=6, seed=2)
    together, calls = counted(kit, model, positive, negative)
    assert calls == [2] * 4
    alone = model.clone()
    alone.model_options["sampler_calc_cond_batch_function"] = one_by_one
    apart, calls = counted(kit, alone, positive, negative)
    assert calls == [1] * 8
    assert close(together, apart)


@pytest.mark.parametrize("pictures", [1, 3])
def test_the_texts_of_a_sampling_are_batched_once(kit, model, pictures):
    from comfy.patcher_extension import WrappersMP

    texts, watched = [], model.clone()

    def watch(executor, *args, lidit_text, **more):
        texts.append(lidit_text)
        return executor(*args, lidit_text=lidit_text, **more)

    watched.add_wrapper(WrappersMP.DIFFUSION_MODEL, watch)
    prompts = kit.prompt(length=14, seed=1), kit.prompt(length=6, seed=2)
    kit.sample(watched, *prompts, latent=empty(pictures))
    assert len(texts) == 4 and all(text is texts[0] for text in texts)
    assert len(texts[0]) == 2 * pictures


def one_by_one(args: dict) -> list:
    from comfy.samplers import calc_cond_batch

    how = (args["input"], args["sigma"], args["model_options"])
    return [calc_cond_batch(args["model"], [cond], *how)[0] for cond in args["conds"]]


def test_two_llms_against_one_run_as_one_batch_too(kit, model):
    duo = fuse(kit, kit.prompt(length=9, seed=1), kit.prompt("beta", length=11, seed=3))
    together, calls = counted(kit, model, duo, kit.prompt(length=6, seed=2))
    assert calls == [2] * 4
    apart = model.clone()
    apart.model_options["sampler_calc_cond_batch_function"] = one_by_one
    assert close(together, kit.sample(apart, duo, kit.prompt(length=6, seed=2)))


def test_a_batch_of_pictures_repeats_the_prompt(kit, model):
    four = kit.sample(model, kit.prompt(seed=1), latent=empty(4))
    assert four.shape == (4, 16, 4, 4) and not close(four[1:2], four[:1], 0.1)
    one = kit.sample(model, kit.prompt(seed=1))  # the host's noise for a batch begins with its own
    assert close(four[:1], one)
    prompts = kit.prompt(seed=1, rows=2)
    assert kit.sample(model, prompts, latent=empty(4)).isfinite().all()


def test_zeroing_out_means_no_text_at_all(kit, model):
    zeroed = kit.stock("ConditioningZeroOut", conditioning=kit.prompt(seed=1))
    other = kit.stock("ConditioningZeroOut", conditioning=kit.prompt(length=13, seed=7))
    first = kit.sample(model, zeroed, cfg=1.0)
    assert close(first, kit.sample(model, other, cfg=1.0))
    assert not close(first, kit.sample(model, kit.prompt(seed=1), cfg=1.0), 1e-3)


def test_averaging_moves_from_one_prompt_to_the_other(kit, model):
    one, other = kit.prompt(seed=1), kit.prompt(seed=2)
    pictures = [kit.sample(model, average(kit, one, other, share)) for share in (1.0, 0.5, 0.0)]
    assert close(pictures[0], kit.sample(model, one))
    assert close(pictures[2], kit.sample(model, other))
    assert not close(pictures[1], pictures[0], 1e-3)
    assert not close(pictures[1], pictures[2], 1e-3)


@pytest.mark.parametrize("lengths", [(6, 14), (14, 6)])
def test_an_average_of_unequal_lengths_is_read_at_the_firsts_and_told(kit, model, caplog, lengths):
    one, other = (kit.prompt(length=n, seed=n) for n in lengths)
    mixed = average(kit, one, other, 0.5)
    picture = kit.sample(model, mixed, cfg=1.0)
    told = [r.getMessage() for r in caplog.records if "first prompt" in r.getMessage()]
    assert told and f"read as the {lengths[0]} tokens of its first prompt" in told[0]
    from_entry = other[0][0][:, : lengths[0]]
    padded = torch.nn.functional.pad(from_entry, (0, 0, 0, lengths[0] - from_entry.shape[1]))
    by_hand = kit.states.LLMStates((one[0][0] + padded) / 2, kit.read(length=lengths[0]).roles)
    read = kit.text.BranchText("alpha", by_hand)
    expected = [kit.cond.entry_of(kit.text.PromptText((read,)))]
    assert close(picture, kit.sample(model, expected, cfg=1.0))
    caplog.clear()
    kit.sample(model, one, cfg=1.0)
    assert "first prompt" not in caplog.text


def average(kit, to, source, strength):
    return kit.stock(
        "ConditioningAverage",
        conditioning_to=to,
        conditioning_from=source,
        conditioning_to_strength=strength,
    )


def test_multiplied_states_have_no_effect_and_that_is_told(kit, model, caplog):
    prompt = kit.prompt(seed=1)
    if "ConditioningMultiply" not in kit.host.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip("this ComfyUI has no ConditioningMultiply")
    multiplied = kit.stock("ConditioningMultiply", conditioning=prompt, multiplier=1.7)
    assert close(kit.sample(model, multiplied), kit.sample(model, prompt), 1e-4)
    assert "multiplied the states of alpha by 1.7, which has no effect" in caplog.text


def test_what_cannot_be_followed_is_said_and_not_lost(kit, model):
    one, other = kit.prompt(seed=1), kit.prompt(seed=2)
    joined = kit.stock("ConditioningConcat", conditioning_to=one, conditioning_from=other)
    with pytest.raises(Exception, match="instead of concatenating, averaging"):
        kit.sample(model, joined)
    duo = fuse(kit, one, kit.prompt("beta", seed=3))
    with pytest.raises(Exception, match="2 LLMs' states"):
        kit.sample(model, average(kit, duo, fuse(kit, other, kit.prompt("beta", seed=4)), 0.5))


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5])
def test_an_average_of_what_differs_beside_the_first_states_is_no_less_a_mix(
    kit, model, caplog, weight
):
    """Of one prompt of the first LLM's; a mean of equal states is those states."""
    one, others = kit.prompt(seed=1), (kit.prompt("beta", seed=n) for n in (2, 3))
    duo, duet = (fuse(kit, one, other) for other in others)
    kit.sample(model, average(kit, duo, duet, 1.0))
    with pytest.raises(Exception, match="2 LLMs' states"):
        kit.sample(model, average(kit, duo, duet, weight))
    assert not caplog.text
    weaker = fuse(kit, one, weights=(0.5,))
    kit.sample(model, average(kit, weaker, one, weight))
    assert "strengths are those of the first prompt" in caplog.text


def test_a_masked_prompt_has_no_say_outside_of_its_mask(kit, model):
    """After one step, before the model's own attention carries it on: side by side, exactly."""
    left = torch.zeros(1, 64, 64)
    left[..., :32] = 1
    one, other = kit.prompt(seed=1), kit.prompt(length=12, seed=2)
    halves = [
        kit.stock("ConditioningSetMask", conditioning=c, mask=m, strength=1.0,
                  set_cond_area="default")
        for c, m in ((one, left), (other, 1 - left))
    ]  # fmt: skip
    both = kit.stock("ConditioningCombine", conditioning_1=halves[0], conditioning_2=halves[1])
    how = {"latent": empty(1, 8, 8), "steps": 1}
    drawn, first, second = (kit.sample(model, c, **how) for c in (both, one, other))
    assert close(drawn[..., :4], first[..., :4]) and close(drawn[..., 4:], second[..., 4:])
    assert not close(first, second, 1e-3)


def test_area_mask_range_and_combine_each_change_the_picture(kit, model):
    base, other = kit.prompt(seed=1), kit.prompt(length=12, seed=2)
    latent = empty(1, 8, 8)
    plain = kit.sample(model, base, latent=latent)
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    area = {"width": 32, "height": 64, "x": 0, "y": 0, "strength": 1.0}
    changed = [
        kit.stock("ConditioningSetArea", conditioning=other, **area),
        kit.stock(
            "ConditioningSetMask",
            conditioning=other,
            mask=mask,
            strength=1.0,
            set_cond_area="default",
        ),
        kit.stock("ConditioningSetTimestepRange", conditioning=other, start=0.0, end=0.5),
    ]
    for part in changed:
        both = kit.stock("ConditioningCombine", conditioning_1=base, conditioning_2=part)
        picture = kit.sample(model, both, latent=latent)
        assert picture.isfinite().all() and not close(picture, plain, 1e-3)


@pytest.fixture(scope="module")
def gentle(kit, tmp_path_factory):
    """A model whose flow is nearly straight, so that all good samplers agree on where it ends."""
    folder = tmp_path_factory.mktemp("gentle")
    return kit.model.load_model(save_small(folder / "gentle.safetensors", scale=0.08))


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "uni_pc", "ddim"])
@pytest.mark.parametrize("scheduler", ["karras", "beta", "sgm_uniform"])
def test_samplers_and_schedulers_end_at_the_same_picture(kit, gentle, sampler, scheduler):
    how = {"sampler_name": sampler, "scheduler": scheduler, "steps": 10}
    picture = kit.sample(gentle, kit.prompt(seed=1), **how)
    reference = kit.sample(gentle, kit.prompt(seed=1), steps=40)
    likeness = torch.nn.functional.cosine_similarity(picture.flatten(), reference.flatten(), 0)
    assert likeness > 0.97


@pytest.mark.parametrize("sampler", ["dpmpp_sde", "euler_ancestral"])
def test_samplers_that_add_noise_stay_in_range_and_follow_the_seed(kit, gentle, sampler):
    how = {"sampler_name": sampler, "scheduler": "karras", "steps": 6}
    one, again, other = (kit.sample(gentle, kit.prompt(), seed=s, **how) for s in (1, 1, 2))
    reference = kit.sample(gentle, kit.prompt())
    assert torch.equal(one, again) and not close(one, other, 0.1)
    assert 0.3 < one.std() / reference.std() < 3


def test_picture_to_picture_and_inpainting_keep_what_they_should(kit, model):
    picture = {"samples": torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(4))}
    half = kit.sample(model, kit.prompt(seed=1), latent=picture, denoise=0.5)
    whole = kit.sample(model, kit.prompt(seed=1), latent=picture)
    near, far = ((p - picture["samples"]).norm() for p in (half, whole))
    assert near < far
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    inside = kit.sample(model, kit.prompt(seed=1), latent={**picture, "noise_mask": mask})
    assert close(inside[..., :4], picture["samples"][..., :4], 1e-4)
    assert not close(inside[..., 4:], picture["samples"][..., 4:], 0.1)


def test_odd_sides_are_painted(kit, model):
    assert kit.sample(model, kit.prompt(), latent=empty(1, 5, 7)).shape == (1, 16, 5, 7)


def test_one_prompt_is_enough_without_guidance(kit, model):
    _, calls = counted(kit, model, kit.prompt(seed=1), kit.prompt(seed=2), cfg=1.0)
    assert calls == [1] * 4


def test_foreign_text_and_latents_get_a_sentence(kit, model):
    foreign = [[torch.randn(1, 77, 768), {"pooled_output": torch.randn(1, 768)}]]
    with pytest.raises(Exception, match="encoded by another text encoder"):
        kit.sample(model, foreign)
    four = {"samples": torch.randn(1, 4, 4, 4)}
    with pytest.raises(Exception, match="has 4 channels; this model paints in tiny with 16"):
        kit.sample(model, kit.prompt(), latent=four, denoise=0.5)
    assert (
        kit.sample(model, kit.prompt(), latent={"samples": torch.zeros(1, 4, 4, 4)}).shape[1] == 16
    )
    stranger = kit.prompt()
    stranger[0][1]["lidit_llm"] = {"0": "gamma"}
    with pytest.raises(Exception, match="not on gamma"):
        kit.sample(model, stranger)
    (wide,) = kit.pack.run(
        "LiDiTLinguisticTokenRefiner",
        conditioning=kit.prompt(),
        refiner="2",
        attention="as trained",
        gating="as trained",
        strength=1.0,
    )
    with pytest.raises(Exception, match="24 wide, and this model's branch was trained on beta, 40"):
        kit.sample(model, wide)


def test_only_layers_that_the_host_can_manage_hold_weights(model):
    for name, module in model.model.diffusion_model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            assert hasattr(module, "comfy_cast_weights"), name


def test_the_memory_estimate_counts_the_text(kit, model):
    shape = [1, 16, 16, 16]
    _, short = kit.prompt(length=6)[0]
    _, long = kit.prompt(length=600)[0]
    sizes = [model.model.extra_conds_shapes(**values) for values in (short, long)]
    small, large = (
        model.model.memory_required(shape, {k: [v] for k, v in size.items()}) for size in sizes
    )
    assert large > 2 * small


def test_previews_have_colours_where_the_checkpoint_has_them(kit, tmp_path, pack, host):
    from dataclasses import replace

    from model_kit import small_config

    latent = replace(
        small_config().latent, rgb_factors=((0.1, 0.2, 0.3),) * 16, rgb_bias=(0.0,) * 3
    )
    coloured = kit.model.load_model(save_small(tmp_path / "c.safetensors", latent=latent))
    format = coloured.model.latent_format
    assert len(format.latent_rgb_factors) == 16 and format.latent_channels == 16
    latent_preview = __import__("latent_preview")
    preview = latent_preview.Latent2RGBPreviewer(
        format.latent_rgb_factors, format.latent_rgb_factors_bias
    )
    assert preview.decode_latent_to_preview(torch.randn(1, 16, 8, 8)).size == (8, 8)

"""Samplers and schedules that do not fit a flow model: a sentence before a step. Host's Python."""

from __future__ import annotations

import pytest
import torch
from conftest import wait_for
from model_kit import empty, save_small
from tiny_lidit import Looks

NO_PLACE_TO_START = "with an empty latent"


@pytest.fixture(scope="module", autouse=True)
def extra_nodes(host) -> None:
    path = str(host.path / "comfy_extras" / "nodes_model_advanced.py")
    assert wait_for(host.nodes.load_custom_node(path, module_parent="comfy_extras"))


@pytest.fixture(scope="module")
def on_noise(kit, host):
    """Draws with these sigmas and this sampler's function."""
    import comfy.samplers

    def draw(model, sigmas, sampler="euler", latent=None, noisy=True) -> torch.Tensor:
        latent = (latent or empty())["samples"]
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(kit.prompt(seed=1), kit.prompt(seed=2))
        chosen = comfy.samplers.ksampler(sampler) if isinstance(sampler, str) else sampler
        with torch.inference_mode():
            return guider.sample(noise * noisy, latent, chosen, torch.tensor(sigmas))

    return draw


def ramp(first: float, steps: int) -> list[float]:
    return [first * (steps - k) / steps for k in range(steps + 1)]


def notes(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if "lidit" in r.name]


@pytest.mark.parametrize(
    "sampler",
    [
        *("ddpm", "dpmpp_2s_ancestral_cfg_pp", "res_multistep_ancestral"),
        "res_multistep_ancestral_cfg_pp",
    ],
)
def test_a_sampler_that_adds_noise_as_for_eps_models_is_refused(kit, model, on_noise, sampler):
    errors = kit.pack.module("lidit_core.errors")
    with pytest.raises(errors.LiDiTError, match=f"the sampler {sampler} adds noise.*eps models"):
        on_noise(model, ramp(1.0, 4), sampler)


def test_the_sampler_that_enlarges_the_latent_is_refused(kit, host, model, on_noise):
    """It adds noise to what it has drawn as if that kept its size."""
    errors, name = kit.pack.module("lidit_core.errors"), "nodes_advanced_samplers.py"
    path = str(host.path / "comfy_extras" / name)
    assert wait_for(host.nodes.load_custom_node(path, module_parent="comfy_extras"))
    how = {"scale_ratio": 1.0, "scale_steps": -1, "upscale_method": "bislerp"}
    with pytest.raises(errors.LiDiTError, match="the sampler SamplerLCMUpscale adds noise"):
        on_noise(model, ramp(1.0, 4), kit.stock_v3("SamplerLCMUpscale", **how))


def test_such_a_sampler_draws_with_a_model_that_predicts_eps(kit, on_noise, tmp_path):
    model = kit.model.load_model(save_small(tmp_path / "eps.safetensors", prediction="eps"))
    assert on_noise(model, ramp(14.6, 4), "ddpm").isfinite().all()


def test_samplers_that_guide_as_for_eps_models_are_refused(kit, model):
    errors, prompt = kit.pack.module("lidit_core.errors"), kit.prompt(seed=1)
    for sampler in ("dpmpp_2m_cfg_pp", "res_multistep_cfg_pp", "gradient_estimation_cfg_pp"):
        with pytest.raises(errors.LiDiTError, match=f"{sampler} adds guidance.* which is 3;"):
            kit.sample(model, prompt, sampler_name=sampler)
    for sampler, cfg in (("dpmpp_2m_cfg_pp", 1.0), ("euler_cfg_pp", 3.0)):
        assert kit.sample(model, prompt, sampler_name=sampler, cfg=cfg).isfinite().all()


def test_the_scales_of_a_guider_that_has_two_count_as_well(kit, host, model):
    """DualCFGGuider's lie under other names, and such a sampler drew ruins with it."""
    from comfy.samplers import ksampler
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    errors = kit.pack.module("lidit_core.errors")
    for scales in ((1.0, 4.0), (4.0, 1.0)):
        guider = Guider_DualCFG(model)
        guider.set_conds(*(kit.prompt(seed=n) for n in (1, 2, 3)))
        guider.set_cfg(*scales)
        noise, sigmas = torch.randn(empty()["samples"].shape), torch.tensor(ramp(1.0, 4))
        with pytest.raises(errors.LiDiTError, match="dpmpp_2m_cfg_pp adds guidance.* which is 4;"):
            guider.sample(noise, noise * 0, ksampler("dpmpp_2m_cfg_pp"), sigmas)
        with torch.inference_mode():
            drawn = guider.sample(noise, noise * 0, ksampler("euler"), sigmas)
        assert drawn.isfinite().all()


@pytest.mark.parametrize(("dtype", "told"), [("fp16", "in ModelComputeDtype"), ("fp32", "Flip")])
def test_a_result_that_is_not_finite_in_float16_names_the_dtype(
    kit, on_noise, tmp_path, dtype, told
):
    """Weights under which float16 is soon too small, and float32 too."""
    errors = kit.pack.module("lidit_core.errors")
    huge = kit.model.load_model(save_small(tmp_path / "huge.safetensors", scale=1e30))
    with pytest.raises(errors.LiDiTError, match=f"numbers that are not finite.*{told}"):
        on_noise(kit.stock("ModelComputeDtype", model=huge, dtype=dtype), ramp(1.0, 2))


@pytest.mark.parametrize(("scale", "told"), [(1.0, False), (0.5, True)])
def test_noise_of_another_strength_is_told(kit, model, caplog, scale, told):
    if "ModelNoiseScale" not in kit.host.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip("this ComfyUI has no ModelNoiseScale")
    kit.sample(kit.stock("ModelNoiseScale", model=model, noise_scale=scale), kit.prompt(seed=1))
    assert told == any("scales the noise by 0.5" in text for text in notes(caplog))


def test_a_step_of_the_hosts_own_samplers_waits_for_no_device(kit, model):
    """Of a flow all sigmas are looked at before the first step, and none at a step."""
    from comfy.patcher_extension import WrappersMP

    seen = []

    def step(executor, *args, **kwargs):
        with Looks() as looks:
            out = executor(*args, **kwargs)
        seen.append(looks.seen)
        return out

    watched = model.clone()
    watched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "watch", step)
    kit.sample(watched, kit.prompt(seed=1))
    assert seen == [[]] * 4


def test_a_sampler_that_goes_above_its_sigmas_is_still_refused(kit, model, on_noise):
    """Churn adds noise before a step: from pure noise there is none to add to."""
    import comfy.samplers

    errors = kit.pack.module("lidit_core.errors")
    churning = comfy.samplers.ksampler("euler", {"s_churn": 1.0})
    with pytest.raises(errors.LiDiTError, match="schedule is at sigma 1.25"):
        on_noise(model, ramp(1.0, 4), churning)


@pytest.mark.parametrize(("first", "told"), [(1.0, False), (0.95, False), (0.6, True)])
def test_an_empty_latent_is_a_place_to_start_from_near_pure_noise_alone(
    model, on_noise, caplog, first, told
):
    on_noise(model, ramp(first, 4))
    assert told == any(NO_PLACE_TO_START in text for text in notes(caplog))


def test_a_picture_with_noise_and_a_latent_in_the_making_are_places_to_start_from(
    model, on_noise, caplog
):
    picture = {"samples": torch.randn(1, 16, 4, 4)}
    on_noise(model, ramp(0.6, 4), latent=picture)
    on_noise(model, ramp(0.6, 4), latent=picture, noisy=False)
    assert not notes(caplog)


@pytest.mark.parametrize(("first", "told"), [(14.6, False), (1.0, True)])
def test_a_flows_sigmas_are_no_start_for_a_model_that_predicts_eps(
    kit, on_noise, tmp_path, caplog, first, told
):
    model = kit.model.load_model(save_small(tmp_path / "eps.safetensors", prediction="eps"))
    on_noise(model, ramp(first, 4))
    assert told == any("sigma 1.00 with an empty latent" in text for text in notes(caplog))


@pytest.mark.parametrize(("first", "told"), [(1.0, True), (0.9, False)])
def test_a_latent_of_which_nothing_is_left_is_told(model, on_noise, caplog, first, told):
    """A flow begins at sigma 1 with noise alone, of which there is none here."""
    on_noise(model, ramp(first, 4), latent={"samples": torch.randn(1, 16, 4, 4)}, noisy=False)
    assert told == any("nothing of the latent is left" in text for text in notes(caplog))


def test_an_empty_latent_without_noise_is_told(model, on_noise, caplog):
    on_noise(model, ramp(1.0, 4), noisy=False)
    assert any("an empty latent and no noise" in text for text in notes(caplog))


def test_a_schedule_above_pure_noise_is_refused_before_a_step(kit, model, on_noise):
    errors = kit.pack.module("lidit_core.errors")
    with pytest.raises(errors.LiDiTError, match="is at sigma 1.4, and"):
        on_noise(model, [0.9, 1.4, 0.0])


def test_a_latent_with_nan_is_refused_before_a_step(kit, model):
    """As VAE Encode (Tiled) makes it where the tiles are smaller than their overlap."""
    errors, latent = kit.pack.module("lidit_core.errors"), empty()
    latent["samples"][..., 0, 0] = torch.nan
    with pytest.raises(errors.LiDiTError, match="given has 16 of 256 numbers.*overlap"):
        kit.sample(model, kit.prompt(seed=1), latent=latent, denoise=0.5)


def placed(prompt, **values) -> list:
    """The prompt with what nodes set on it."""
    return [[first, {**rest, **values}] for first, rest in prompt]


WHOLE = {"area": ("percentage", 1.0, 1.0, 0, 0)}
LEFT, RIGHT = ({"area": ("percentage", 1.0, 0.5, 0, x)} for x in (0, 0.5))
EARLY, LATE = ({"start_percent": a, "end_percent": b} for a, b in ((0.0, 0.5), (0.5, 1.0)))
PARTS = {
    "half of the picture": ([LEFT], "in 50% of the picture"),
    "half of the sampling": ([EARLY], "at step [34] of 4"),
    "a late half in half of the picture": ([EARLY, {**LATE, **RIGHT}], "in 50% of the picture"),
    "a mask": ([{"mask": torch.eye(4)[None]}], "in 75% of the picture"),
    "all of the picture": ([WHOLE], ""),
    "two halves": ([LEFT, RIGHT], ""),
    "two halves of the sampling": ([EARLY, LATE], ""),
    "half beside a default": ([LEFT, {"default": True}], ""),
}


@pytest.mark.parametrize("what", PARTS)
def test_a_prompt_that_leaves_out_a_part_is_told(kit, model, caplog, what):
    """The host takes what is predicted there for 0: a picture in pieces, on every model."""
    import re

    values, words = PARTS[what]
    prompt = [entry for each in values for entry in placed(kit.prompt(seed=1), **each)]
    kit.sample(model, prompt)
    told = [text for text in notes(caplog) if "no entry of the positive prompt" in text]
    assert len(told) == bool(words)
    assert re.search(words, "".join(told))
    caplog.clear()
    kit.sample(model, kit.prompt(seed=1), prompt, cfg=1.0)
    assert not notes(caplog)
    kit.sample(model, kit.prompt(seed=1), prompt, cfg=2.0)
    assert len([t for t in notes(caplog) if "of the negative prompt" in t]) == bool(words)


def test_a_part_of_a_latent_that_is_no_picture_is_no_traceback(kit, model):
    errors, sound = kit.pack.module("lidit_core.errors"), {"samples": torch.zeros(1, 16, 8)}
    with pytest.raises(errors.LiDiTError, match="latents have shape"):
        kit.sample(model, placed(kit.prompt(seed=1), **EARLY), latent=sound)


SIZES = [((4, 4), ""), ((4, 6), ""), ((4, 8), "64x32"), ((16, 16), "128x128"), ((2, 4), "32x16")]


@pytest.mark.parametrize(("latent", "told"), SIZES)
def test_a_size_far_from_the_models_native_is_told(model, on_noise, caplog, latent, told):
    """Of a model of 32 pixels, whose latent is 8 times smaller; the command line's sentence."""
    on_noise(model, ramp(1.0, 4), latent=empty(1, *latent))
    far = [text for text in notes(caplog) if "far from 32, which this model was trained at" in text]
    assert len(far) == bool(told) and f"size {told}" in ("".join(far) or "size ")
    assert all("choose sides of 32 to 48 pixels" in text for text in far)


@pytest.mark.parametrize(("first", "noisy"), [(0.6, True), (0.6, False), (0.95, False)])
def test_a_second_pass_after_an_upscale_is_not_told_of_its_size(
    model, on_noise, caplog, first, noisy
):
    large = {"samples": torch.randn(1, 16, 16, 16)}
    on_noise(model, ramp(first, 4), latent=large, noisy=noisy)
    assert not notes(caplog)

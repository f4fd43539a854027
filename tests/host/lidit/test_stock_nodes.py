"""Stock nodes that patch a MODEL, on a LI-DiT: an effect, or one sentence. Host's Python."""

from __future__ import annotations

import pytest
import torch
from conftest import ROOT, wait_for
from model_kit import close, empty, save_small

FILES = (
    *("model_advanced", "flux", "lt", "easycache", "lumina2", "freelunch", "sag", "hypertile"),
    *("align_your_steps", "gits", "optimalsteps"),
    *("triposplat", "tomesd", "model_downscale", "pag", "nag", "cfg", "perpneg", "custom_sampler"),
)
BIG = {"height": 16, "width": 16}  # 8 x 8 tokens


@pytest.fixture(scope="module", autouse=True)
def extra_nodes(host) -> None:
    for name in FILES:
        path = host.path / "comfy_extras" / f"nodes_{name}.py"
        if path.exists():
            loaded = host.nodes.load_custom_node(str(path), module_parent="comfy_extras")
            assert wait_for(loaded), name


@pytest.fixture
def model(kit):
    return kit.load()


@pytest.fixture
def run(host):
    """Runs a stock node of either form."""

    def run(node_id: str, **inputs):
        if node_id not in host.nodes.NODE_CLASS_MAPPINGS:
            pytest.skip(f"this ComfyUI has no {node_id}")
        node = host.nodes.NODE_CLASS_MAPPINGS[node_id]
        old = getattr(node, "FUNCTION", "EXECUTE_NORMALIZED") != "EXECUTE_NORMALIZED"
        with torch.inference_mode():
            out = (getattr(node(), node.FUNCTION) if old else node.execute)(**inputs)
        return (out if isinstance(out, tuple) else out.args)[0]

    return run


def sentence(kit, changed, **settings) -> str:
    """The one that drawing ends in."""
    errors = kit.pack.module("lidit_core.errors")
    with pytest.raises(errors.LiDiTError) as caught:
        kit.sample(changed, kit.prompt(seed=1), latent=empty(**BIG), **settings)
    return str(caught.value)


def timesteps(kit, model, **settings) -> tuple[list[float], list[float]]:
    """What each call of the diffusion model was told, and the host's sigmas of these calls."""
    from comfy.patcher_extension import WrappersMP

    told, sigmas = [], []

    def look(executor, x, t, *args, **kwargs):
        options = kwargs.get("transformer_options") or args[-1]
        told.append(float(t[0]))
        sigmas.append(float(options["sigmas"][0]))
        return executor(x, t, *args, **kwargs)

    watched = model.clone()
    watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "look", look)
    kit.sample(watched, kit.prompt(seed=1), **settings)
    return told, sigmas


FLOW_SCHEDULES = {
    "ModelSamplingSD3": {"shift": 3.0},
    "ModelSamplingAuraFlow": {"shift": 3.0},
    "ModelSamplingFlux": {"max_shift": 1.15, "base_shift": 0.5, "width": 32, "height": 32},
    "ModelSamplingLTXV": {"max_shift": 2.05, "base_shift": 0.95},
}


@pytest.mark.parametrize("node", FLOW_SCHEDULES)
def test_time_is_counted_in_the_models_unit_under_every_flow_schedule(kit, model, run, node):
    changed = run(node, model=model, **FLOW_SCHEDULES[node])
    told, sigmas = timesteps(kit, changed)
    assert told == pytest.approx([1000 * sigma for sigma in sigmas], rel=1e-5)
    assert max(told) > 900


def test_the_checkpoints_own_shift_set_by_another_node_gives_the_same_picture(kit, model, run):
    plain = kit.sample(model, kit.prompt(seed=1))
    for node in ("ModelSamplingSD3", "ModelSamplingAuraFlow"):
        assert close(kit.sample(run(node, model=model, shift=3.0), kit.prompt(seed=1)), plain), node


STRANGE_SCHEDULES = [
    ("flow", "ModelSamplingDiscrete", {"sampling": "eps", "zsnr": False}),
    ("flow", "ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": True}),
    ("flow", "ModelSamplingDiscrete", {"sampling": "lcm", "zsnr": False}),
    (
        "flow",
        "ModelSamplingContinuousEDM",
        {"sampling": "v_prediction", "sigma_max": 120.0, "sigma_min": 0.002},
    ),
    (
        "flow",
        "ModelSamplingContinuousV",
        {"sampling": "v_prediction", "sigma_max": 500.0, "sigma_min": 0.03},
    ),
    ("flow", "ModelSamplingStableCascade", {"shift": 2.0}),
    ("eps", "ModelSamplingSD3", {"shift": 3.0}),
    ("eps", "ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": False}),
    ("v", "ModelSamplingAuraFlow", {"shift": 3.0}),
    ("v", "ModelSamplingDiscrete", {"sampling": "eps", "zsnr": False}),
]


@pytest.mark.parametrize("prediction,node,inputs", STRANGE_SCHEDULES)
def test_a_schedule_for_another_prediction_is_refused(kit, run, tmp_path, prediction, node, inputs):
    file = save_small(tmp_path / "small.safetensors", prediction=prediction)
    changed = run(node, model=kit.model.load_model(file), **inputs)
    told = sentence(kit, changed)
    assert f"predicts {prediction}" in told
    assert "take that node out" in told


@pytest.mark.parametrize("sampling", ["eps", "v_prediction"])
@pytest.mark.parametrize("node", ["ModelSamplingContinuousEDM", "ModelSamplingContinuousV"])
def test_time_is_the_models_own_under_a_continuous_schedule(kit, run, tmp_path, sampling, node):
    if node.endswith("V") and sampling == "eps":
        pytest.skip("the node offers v_prediction alone")
    prediction = sampling.removesuffix("_prediction")
    file = save_small(tmp_path / "small.safetensors", prediction=prediction)
    model = kit.model.load_model(file)
    own = model.model.model_sampling  # drawing leaves the node's there
    inputs = {"sampling": sampling, "sigma_max": 14.6, "sigma_min": 0.03}
    told, sigmas = timesteps(kit, run(node, model=model, **inputs))
    assert told == [float(own.timestep(torch.tensor(sigma))) for sigma in sigmas]
    assert max(told) > 900


def test_what_a_wrapper_writes_into_its_input_stays_its_own(kit, model):
    from comfy.patcher_extension import WrappersMP

    def careless(executor, x, *args, **kwargs):
        out = executor(x, *args, **kwargs)
        x.zero_()
        return out

    changed = model.clone()
    changed.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "careless", careless)
    plain = kit.sample(model, kit.prompt(seed=1))
    assert torch.equal(kit.sample(changed, kit.prompt(seed=1)), plain)


def test_easycache_writes_into_no_tensor_of_the_hosts(kit, model, run):
    """It adds to its input where it skips a step, and the host reckons with that input after."""
    from comfy.patcher_extension import WrappersMP

    spoilt, painted = [], []

    def watch(executor, x, *args, **kwargs):
        before = x.clone()
        out = executor(x, *args, **kwargs)
        spoilt.append(not torch.equal(x, before))
        return out

    def count(executor, *args, **kwargs):
        painted.append(1)
        return executor(*args, **kwargs)

    inputs = {"start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    changed = run("EasyCache", model=model, reuse_threshold=3.0, **inputs).clone()
    changed.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    changed.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", count)
    kit.sample(changed, kit.prompt(seed=1), steps=8)
    assert len(painted) < len(spoilt) == 8 and not any(spoilt)


def test_renormcfg_without_a_limit_is_plain_guidance(kit, model, run):
    plain = kit.sample(model, kit.prompt(seed=1))
    changed = run("RenormCFG", model=model, cfg_trunc=100.0, renorm_cfg=0.0)
    assert close(kit.sample(changed, kit.prompt(seed=1)), plain)
    limited = run("RenormCFG", model=model, cfg_trunc=100.0, renorm_cfg=0.5)
    assert not close(kit.sample(limited, kit.prompt(seed=1)), plain, 1e-3)


ATTENTION_PATCHES = {
    "NAGuidance": {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5},
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "TomePatchModel": {"ratio": 0.5},
    "HyperTile": {"tile_size": 32, "swap_size": 2, "max_depth": 0, "scale_depth": False},
}


@pytest.mark.parametrize("node", ATTENTION_PATCHES)
def test_a_patch_of_attention_has_an_effect(kit, model, run, node):
    latent = empty(**BIG) if node != "HyperTile" else empty(height=64, width=64)
    changed = run(node, model=model, **ATTENTION_PATCHES[node])
    plain, patched = (kit.sample(m, kit.prompt(seed=1), latent=latent) for m in (model, changed))
    assert patched.isfinite().all()
    assert not close(patched, plain, 1e-3)
    assert torch.equal(kit.sample(model, kit.prompt(seed=1), latent=latent), plain)


def test_nag_at_scale_one_changes_nothing(kit, model, run):
    changed = run("NAGuidance", model=model, nag_scale=1.0, nag_alpha=1.0, nag_tau=10.0)
    plain = kit.sample(model, kit.prompt(seed=1))
    assert close(kit.sample(changed, kit.prompt(seed=1)), plain)


def test_nag_guides_by_what_is_read_of_the_text(kit, model, run):
    """As if its patch had been set on the attention to the text, and not on that to itself."""
    changed = run("NAGuidance", model=model, nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)
    (patch,) = changed.model_options["transformer_options"]["patches"]["attn1_output_patch"]
    there, named = model.clone(), model.clone()
    patch_of_another_name = lambda out, options: patch(out, options)  # noqa: E731
    there.set_model_attn2_output_patch(patch_of_another_name)
    named.set_model_attn1_output_patch(patch_of_another_name)
    guided, at_text, at_itself = (
        kit.sample(m, kit.prompt(seed=1)) for m in (changed, there, named)
    )
    assert torch.equal(guided, at_text) and not close(guided, at_itself, 1e-3)


def test_patches_get_queries_keys_and_values_in_either_form(kit, model):
    seen = []

    def as_for_a_dit(q, k, v, pe=None, attn_mask=None, extra_options=None):
        seen.append((tuple(q.shape), extra_options["block"], attn_mask))
        return {"q": q, "k": k, "v": v}

    def as_for_a_unet(q, k, v, extra_options):
        seen.append((tuple(q.shape), extra_options["block"], k.shape[1]))
        return q, k, v

    changed = model.clone()
    changed.set_model_attn1_patch(as_for_a_dit)
    changed.set_model_attn2_patch(as_for_a_unet)
    plain = kit.sample(model, kit.prompt(seed=1), steps=1, cfg=1.0)
    assert torch.equal(kit.sample(changed, kit.prompt(seed=1), steps=1, cfg=1.0), plain)
    config = kit.model.config_of_model(model)
    head = config.width // config.heads
    first = [((1, config.heads, 4, head), ("double_block", 0), None)]
    assert seen[:2] == [*first, ((1, 4, config.width), ("double_block", 0), 5)]
    assert len(seen) == 2 * config.depth


def test_a_replaced_attention_takes_the_place_of_the_blocks_own(kit, model):
    changed = model.clone()
    changed.set_model_attn1_replace(lambda q, k, v, extra: v, "double_block", 1)
    changed.set_model_attn2_replace(lambda q, k, v, extra: 0 * q, "double_block", 0)
    plain = kit.sample(model, kit.prompt(seed=1))
    assert not close(kit.sample(changed, kit.prompt(seed=1)), plain, 1e-3)


DECLINED = {
    "FreeU": {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2},
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "SelfAttentionGuidance": {"scale": 0.5, "blur_sigma": 2.0},
    "PatchModelAddDownscale": {
        **{"block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0},
        **{"end_percent": 0.35, "downscale_after_skip": True},
        **{"downscale_method": "bicubic", "upscale_method": "bicubic"},
    },
}


@pytest.mark.parametrize("node", DECLINED)
def test_a_node_for_u_nets_is_declined_in_a_sentence(kit, model, run, node):
    errors = kit.pack.module("lidit_core.errors")
    with pytest.raises(errors.LiDiTError, match="U-Net"):
        changed = run(node, model=model, **DECLINED[node])
        kit.sample(changed, kit.prompt(seed=1), latent=empty(**BIG))


LACKING = "'q_token_length', which a LI-DiT does not have"


def test_what_a_node_reads_off_other_models_is_declined_in_a_sentence(kit, model):
    """As detectors do that take a MODEL."""
    errors = kit.pack.module("lidit_core.errors")
    with pytest.raises(errors.LiDiTError, match=LACKING):
        model.model.diffusion_model.q_token_length  # noqa: B018


def test_a_preview_of_another_models_latents_is_declined_in_a_sentence(kit, model, run):
    import comfy.sd
    import comfy.utils

    errors = kit.pack.module("lidit_core.errors")
    file = ROOT / "lidit_core" / "weights" / "stickers-vae.safetensors"
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(file)))
    looks = {"octree_level": 8, "num_gaussians": 1, "yaw": 0.0, "pitch": 0.0, "point_size": 1.0}
    with pytest.raises(errors.LiDiTError, match=LACKING):
        run("TripoSplatSamplingPreview", model=model, vae=vae, **looks)


def test_who_asks_whether_a_part_is_there_is_told_no(model):
    inside = model.model.diffusion_model
    assert not hasattr(inside, "middle_block") and not hasattr(inside, "q_token_length")
    assert "model_channels" not in model.model.model_config.unet_config
    assert model.model.model_config.unet_config.get("model_channels") is None


RANGES = {
    "KarrasScheduler": {"steps": 4, "sigma_max": 14.6, "sigma_min": 0.03, "rho": 7.0},
    "ExponentialScheduler": {"steps": 4, "sigma_max": 14.6, "sigma_min": 0.03},
    "PolyexponentialScheduler": {"steps": 4, "sigma_max": 14.6, "sigma_min": 0.03, "rho": 1.0},
    "LaplaceScheduler": {
        **{"steps": 4, "sigma_max": 14.6, "sigma_min": 0.03},
        **{"mu": 0.0, "beta": 0.5},
    },
    "AlignYourStepsScheduler": {"model_type": "SD1", "steps": 10, "denoise": 1.0},
    "GITSScheduler": {"coeff": 1.2, "steps": 10, "denoise": 1.0},
}


@pytest.mark.parametrize("node", RANGES)
def test_a_schedule_above_pure_noise_is_refused_on_a_flow(kit, model, run, node):
    errors = kit.pack.module("lidit_core.errors")
    sigmas = run(node, **RANGES[node])
    inputs = {"model": model, "add_noise": True, "noise_seed": 1, "cfg": 3.0, "sigmas": sigmas}
    inputs |= {"sampler": run("KSamplerSelect", sampler_name="euler"), "latent_image": empty()}
    prompts = {"positive": kit.prompt(seed=1), "negative": kit.prompt(seed=2)}
    with pytest.raises(errors.LiDiTError, match="is at sigma 1.*BasicScheduler"):
        run("SamplerCustom", **inputs, **prompts)
    basic = run("BasicScheduler", model=model, scheduler="simple", steps=4, denoise=1.0)
    drawn = run("SamplerCustom", **{**inputs, "sigmas": basic}, **prompts)
    assert drawn["samples"].isfinite().all()


@pytest.mark.parametrize("node", ["FlipSigmas", "SplitSigmas"])
def test_a_result_that_is_not_finite_is_no_black_picture(kit, model, run, node):
    """A schedule that ends at sigma 1, where the host divides by 0."""
    errors = kit.pack.module("lidit_core.errors")
    sigmas = run("BasicScheduler", model=model, scheduler="simple", steps=4, denoise=1.0)
    changed = run(node, sigmas=sigmas, **({"step": 0} if node == "SplitSigmas" else {}))
    inputs = {"model": model, "add_noise": True, "noise_seed": 1, "cfg": 3.0, "sigmas": changed}
    inputs |= {"sampler": run("KSamplerSelect", sampler_name="euler"), "latent_image": empty()}
    prompts = {"positive": kit.prompt(seed=1), "negative": kit.prompt(seed=2)}
    with pytest.raises(errors.LiDiTError, match="numbers that are not finite"):
        run("SamplerCustom", **inputs, **prompts)


def test_a_conditioning_without_any_text_is_told_from_one_of_another_encoder(kit, model):
    """As a guider makes it whose negative is left open."""
    errors = kit.pack.module("lidit_core.errors")
    with pytest.raises(errors.LiDiTError, match="without any text.*which may be empty"):
        kit.sample(model, kit.prompt(seed=1), [[None, {}]])

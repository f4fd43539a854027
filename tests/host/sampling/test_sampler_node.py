"""The LiDiTSampler node. Run by the host's Python: pytest tests/host/sampling"""

from __future__ import annotations

import pytest
import torch
from model_kit import empty, save_small


def sampler_inputs(kit, model, **changes) -> dict:
    """What the LiDiTSampler node is given."""
    how = {"seed": 5, "steps": 10, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    how |= {"denoise": 1.0, "guidance_start": 0.0, "guidance_end": 1.0, **changes}
    given = {"model": model, "positive": kit.prompt(seed=1), "negative": kit.prompt(seed=2)}
    return {**given, "latent_image": empty(), **how}


def test_another_kind_of_model_is_declined_by_our_sampler(kit, pack):
    import comfy.model_patcher
    import comfy.supported_models

    small = {"model_channels": 32, "num_res_blocks": [1], "channel_mult": [1], "num_heads": 1}
    small |= {"in_channels": 4, "out_channels": 4, "image_size": 8, "use_spatial_transformer": True}
    small |= {"transformer_depth": [0], "transformer_depth_output": [0, 0], "context_dim": 8}
    small |= {"transformer_depth_middle": 0, "use_linear_in_transformer": False, "legacy": False}
    config = comfy.supported_models.SD15({**small, "adm_in_channels": None})
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    foreign = comfy.model_patcher.ModelPatcher(config.get_model({}, "", cpu), cpu, cpu)
    with pytest.raises(Exception, match="this model is BaseModel, not a LI-DiT"):
        pack.run("LiDiTSampler", **sampler_inputs(kit, foreign))


def test_steps_outside_of_the_guidance_interval_run_one_prompt(kit, model, pack):
    from comfy.patcher_extension import WrappersMP

    watched, rows = model.clone(), []

    def count(executor, x, *args, **kwargs):
        rows.append(len(x))
        return executor(x, *args, **kwargs)

    watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", count)
    given = sampler_inputs(kit, watched, guidance_start=0.2, guidance_end=0.6)
    pack.run("LiDiTSampler", **given)
    guided = [i for i, n in enumerate(rows) if n == 2]
    assert len(rows) == 10 and set(rows) == {1, 2}
    assert guided == list(range(guided[0], guided[-1] + 1)) and 3 <= len(guided) <= 5
    assert guided[0] >= 2 and guided[-1] <= 6


@pytest.fixture(scope="module")
def by_size(kit, tmp_path_factory):
    """A LI-DiT whose shift is 2 at 32 pixels, its native size, and 8 at 128."""
    shifts = (kit.shift.ShiftAt(32, 2.0), kit.shift.ShiftAt(128, 8.0))
    path = tmp_path_factory.mktemp("by-size") / "small.safetensors"
    return kit.model.load_model(save_small(path, shifts=shifts))


def heard(caplog) -> str:
    return " ".join(r.getMessage() for r in caplog.records if "lidit" in r.name)


def test_our_sampler_takes_the_shift_of_the_latents_size(kit, by_size, pack, caplog):
    wide = empty(height=8, width=8)  # 64 pixels a side: between the two, shift 4
    given = sampler_inputs(kit, by_size, latent_image=wide, steps=4)
    ours = pack.run("LiDiTSampler", **given)[0]["samples"]
    assert "shift" not in heard(caplog)
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    node = ModelSamplingSD3()
    (set_by_hand,) = node.patch(by_size, 4.0)
    same = pack.run("LiDiTSampler", **{**given, "model": set_by_hand})[0]["samples"]
    assert torch.equal(ours, same)
    (other,) = node.patch(by_size, 2.0)  # what a node has set is kept, and no word is said
    kept = pack.run("LiDiTSampler", **{**given, "model": other})[0]["samples"]
    assert not torch.equal(ours, kept) and "shift" not in heard(caplog)
    native = sampler_inputs(kit, by_size, steps=4)
    plain = pack.run("LiDiTSampler", **native)[0]["samples"]
    stock = kit.sample(by_size, kit.prompt(seed=1), kit.prompt(seed=2))
    assert torch.equal(plain, stock) and "shift" not in heard(caplog)


def test_the_shift_is_that_of_the_size_that_is_drawn(kit, by_size, pack, host):
    """An empty latent may say that it was made for another model's ratio, and is resized."""
    import inspect

    import comfy.sample

    if len(inspect.signature(comfy.sample.fix_empty_latent_channels).parameters) < 3:
        pytest.skip("this host draws an empty latent at its own size")
    made = {**empty(height=16, width=16), "downscale_ratio_spacial": 4}
    given = sampler_inputs(kit, by_size, steps=4)
    ours, narrow = (
        pack.run("LiDiTSampler", **{**given, "latent_image": latent})[0]["samples"]
        for latent in (made, empty(height=8, width=8))
    )
    assert torch.equal(ours, narrow)


def test_a_stock_sampler_tells_of_a_size_with_another_shift(kit, by_size, caplog):
    kit.sample(by_size, kit.prompt(seed=1), latent=empty(height=8, width=8))
    assert "the schedule's shift is 2, for this model's native size" in heard(caplog)
    assert "it would be 4; use LI-DiT Sampler, which sets it, or ModelSamplingSD3 with shift 4" in (
        heard(caplog)
    )

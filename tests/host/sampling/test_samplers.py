"""Which of the host's samplers and schedules are refused or told. Run by the host's Python."""

from __future__ import annotations

import pytest
import torch
from model_kit import empty, save_small

# pictures of the stickers at cfg 3, looked at: damaged by flecks, noise or pieces, and as euler's
DAMAGED = {
    "lms": "simple 10, normal 10, linear_quadratic 20, linear_quadratic 30",
    "ipndm_v": "simple 10, normal 10, linear_quadratic 20, linear_quadratic 30",
    "ipndm": "simple 8, simple 10, normal 8, normal 10, normal 12, beta 10, "
    "linear_quadratic 12, linear_quadratic 15",
    "deis": "simple 8, simple 10, normal 8, normal 10, normal 12, beta 10, "
    "linear_quadratic 12, linear_quadratic 15",
    "dpm_fast": "simple 8, simple 12, simple 20, simple 30, sgm_uniform 20, linear_quadratic 20, "
    "normal 10, normal 12, normal 15, karras 12",
    "dpm_adaptive": "simple 8, simple 12, simple 20, simple 30, linear_quadratic 20",
    "dpmpp_3m_sde": "simple 8, simple 10, sgm_uniform 10, beta 8, beta 10, beta 12, normal 10, "
    "normal 12, normal 20, normal 30, normal 50, ddim_uniform 20, ddim_uniform 30, "
    "linear_quadratic 12, linear_quadratic 20, kl_optimal 15, kl_optimal 20",
    "dpmpp_2m_sde_heun": "normal 10, normal 15, normal 20, normal 25, ddim_uniform 20",
    "dpmpp_2m_sde": "normal 10, normal 12",
    "dpmpp_2m": "normal 8, normal 10, ddim_uniform 12",
    "res_multistep": "normal 8, normal 12, linear_quadratic 10",
    "uni_pc": "linear_quadratic 10, linear_quadratic 12, linear_quadratic 15",
    "uni_pc_bh2": "linear_quadratic 10",
}
WHOLE = {
    "lms": "karras 8, karras 12, exponential 12, kl_optimal 12, simple 20, normal 20, beta 20",
    "ipndm_v": "karras 8, karras 12, exponential 12, kl_optimal 12, normal 20, karras 20",
    "ipndm": "karras 8, exponential 8, kl_optimal 10, simple 15, normal 15, ddim_uniform 15, "
    "linear_quadratic 20",
    "deis": "karras 8, kl_optimal 8, exponential 15, simple 15, normal 20, linear_quadratic 20",
    "dpm_fast": "normal 20, beta 20",
    "dpm_adaptive": "normal 8, beta 15, beta 20",
    "dpmpp_3m_sde": "karras 8, exponential 8, simple 15, sgm_uniform 15, beta 15, simple 20, "
    "karras 20, beta 20",
    "dpmpp_2m_sde_heun": "simple 8, simple 20, karras 20, beta 20, normal 30",
    "dpmpp_2m_sde": "simple 10, normal 20",
    "dpmpp_2m": "simple 10, normal 15",
    "res_multistep": "simple 10, normal 15, normal 20",
    "uni_pc": "simple 8, normal 12, normal 15, normal 20",
    "uni_pc_bh2": "simple 10, normal 15",
    **dict.fromkeys(
        ("euler", "heun", "dpm_2", "er_sde", "sa_solver", "seeds_2", "gradient_estimation"),
        "simple 10, normal 10, normal 20, karras 20, linear_quadratic 10",
    ),
}
SPREADS = torch.tensor([0.0, 0.05, 0.2, 1.0]).repeat(4).view(1, 16, 1, 1)  # of the channels
NOISE, TOO_WIDE = 0.07, 1.5  # what is left in a plain area, and of an area with spread 1


def seen(table: dict[str, str]) -> list[tuple[str, str, int]]:
    rows = [(name, *row.split()) for name, told in table.items() for row in told.split(", ")]
    return [(name, scheduler, int(steps)) for name, scheduler, steps in rows]


@pytest.fixture
def told(kit, model, caplog):
    """What is said of a sampler with a scheduler and so many steps."""
    import comfy.samplers

    check = kit.pack.module("host.samplers").check_sampler

    def tell(name: str, scheduler: str, steps: int) -> str:
        caplog.clear()
        how = comfy.samplers.KSampler(model, steps, torch.device("cpu"), name, scheduler)
        function = comfy.samplers.sampler_object(name).sampler_function
        check(function.__name__, how.sigmas.tolist())
        return notes(caplog)

    return tell


def notes(caplog) -> str:
    return "\n".join(r.getMessage() for r in caplog.records if "lidit" in r.name)


def test_what_damages_pictures_is_told(told):
    silent = [row for row in seen(DAMAGED) if f"the sampler {row[0]} " not in told(*row)]
    assert not silent
    gpu = [row for row in seen(DAMAGED) if "_sde" in row[0]]
    assert gpu and all(f"{row[0]}_gpu takes" in told(row[0] + "_gpu", *row[1:]) for row in gpu)


def test_what_draws_whole_pictures_is_not_told(told):
    assert not {row: text for row in seen(WHOLE) if (text := told(*row))}


def test_the_remedies_are_none_to_be_told_of(told):
    """Schedulers and steps that the notes name."""
    for name in DAMAGED:
        assert not told(name, "karras", 20) and not told("euler", "normal", 10)
        if "linear" in DAMAGED[name] and "adaptive" not in name:
            assert "karras" in told(name, "linear_quadratic", 12)


@pytest.fixture(scope="module")
def exact(model):
    """Predicts as the perfect model of noise with known spreads, one a channel."""

    def predicted(args: dict) -> torch.Tensor:
        sigma, x = args["sigma"].view(-1, 1, 1, 1), args["input"]
        kept = (1 - sigma) * SPREADS**2
        return kept / ((1 - sigma) * kept + sigma**2) * x

    model = model.clone()
    model.set_model_sampler_post_cfg_function(predicted)
    return model


@pytest.mark.parametrize("scheduler", ["simple", "normal"])
def test_a_sampler_that_draws_other_spreads_is_refused_or_told(kit, exact, caplog, scheduler):
    """So that one that a newer host adds is found without a look at pictures."""
    import comfy.samplers

    errors, wrong = kit.pack.module("lidit_core.errors"), {}
    for name in comfy.samplers.SAMPLER_NAMES:
        if "cfg_pp" in name or "gpu" in name:  # asks the model's own prediction; the same rule
            continue
        caplog.clear()
        how = {"sampler_name": name, "scheduler": scheduler, "steps": 10, "cfg": 1.0}
        try:
            drawn = kit.sample(exact, kit.prompt(seed=1), latent=empty(batch=8), **how)
        except errors.LiDiTError:
            continue
        spread = exact.model.process_latent_in(drawn).std((0, 2, 3))
        if (spread[0] > NOISE or spread[3] > TOO_WIDE) and not notes(caplog):
            wrong[name] = spread[:4].tolist()
    assert not wrong


def test_what_is_told_stands_on_the_samplers_node(kit, model, caplog):
    kit.sample(model, kit.prompt(seed=1), sampler_name="dpm_fast", steps=8)
    assert "the sampler dpm_fast ends at the schedule's last sigma above 0, 0.30" in notes(caplog)
    assert "the sampler dpm_fast takes 8 steps" in notes(caplog)


def test_a_model_that_predicts_eps_is_not_told(kit, tmp_path, caplog):
    model = kit.model.load_model(save_small(tmp_path / "eps.safetensors", prediction="eps"))
    kit.sample(model, kit.prompt(seed=1), sampler_name="dpmpp_3m_sde", scheduler="normal")
    kit.sample(model, kit.prompt(seed=1), sampler_name="res_multistep_ancestral")
    assert not notes(caplog)

"""The plan of a recipe: sizes, memory, time and disk. Run: pytest tests/train/plan/test_plan.py"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_lidit import lidit_config
from tiny_llm import save_llm

from benchmarks.training_memory import measured, planned, recipe_of
from lidit_core.errors import LiDiTError
from lidit_core.llm.loading import load_llm
from lidit_core.model.dit import LiDiT
from lidit_core.model.presets import find_preset
from lidit_core.model.vae import TinyAutoencoder
from lidit_core.text.spec import LLMSpec
from lidit_train.data.token_guess import TextTokens
from lidit_train.plan.autoencoder_size import TINY_WEIGHTS
from lidit_train.plan.cache_sizes import Count
from lidit_train.plan.hardware import DEVICES, find_hardware
from lidit_train.plan.llm_size import llm_size
from lidit_train.recipe import (
    Cache,
    Compute,
    Content,
    Contrast,
    Data,
    Hardware,
    Lora,
    Model,
    Optimiser,
    Recipe,
    Source,
    Stage,
    Subset,
    Validation,
)
from lidit_train.tasks.lidit.plan.memory import ENCODING, READING, VALIDATION
from lidit_train.tasks.lidit.plan.plan import Plan, make_plan
from lidit_train.tasks.lidit.plan.text import plan_text
from lidit_train.tasks.lidit.start import configuration
from lidit_train.tasks.lidit.trained import count_weights, everything, trained_by

SOURCES = (Source("stickers", "en", count=1000, distinct=400), Source("folder", "pictures"))
COUNTS = (Count(1000, 400), Count(5000, 9000))
RECIPE = Recipe(
    Data(SOURCES),
    (Stage(1_000_000, 256),),
    Model(preset="LI-DiT-1B"),
    validation=Validation(prompts=("a cat", "a dog")),
    hardware=Hardware("H100", 8),
)


def plan_of(recipe: Recipe = RECIPE, preset="LI-DiT-1B", **options) -> Plan:
    return make_plan(recipe, find_preset(preset), **{"counts": COUNTS, **options})


def changed(**records) -> Recipe:
    """The recipe with fields of its records changed."""
    values = {
        name: replace(getattr(RECIPE, name), **value) if isinstance(value, dict) else value
        for name, value in records.items()
    }
    return replace(RECIPE, **values)


@pytest.mark.parametrize(
    ("preset", "billions", "blocks"), [("LI-DiT-1B", 1.106, 0.930), ("LI-DiT-10B", 10.504, 9.519)]
)
def test_the_papers_models_have_their_sizes(preset, billions, blocks):
    weights = plan_of(preset=preset).weights
    assert weights.total / 1e9 == pytest.approx(billions, abs=0.001)
    assert weights.parts["DiT blocks"][0] / 1e9 == pytest.approx(blocks, abs=0.001)
    assert sum(total for total, _ in weights.parts.values()) == weights.total


def test_weights_are_counted_as_they_are_made():
    config = lidit_config("a", "b")
    counted = count_weights(config, everything(), (0, 1), fused=True)
    assert counted.total == sum(p.numel() for p in LiDiT(config).parameters())
    names = {k: p for k, p in LiDiT(config).named_parameters() if "blocks." in k and p.ndim > 1}
    assert counted.matrices == sum(p.numel() for p in names.values())


def test_refiners_of_fresh_branches_alone_are_trained():
    config = find_preset("stickers")
    weights = plan_of(
        changed(trains="refiners"), "stickers", trained=trained_by(
            "refiners", Lora(), config, fresh=(1,))
    ).weights  # fmt: skip
    model = LiDiT(config, device="meta").text_side
    parts = (model.linguistic[1], model.collaborative.branches[1])
    assert weights.trained == sum(p.numel() for part in parts for p in part.parameters())
    assert weights.frozen == weights.total - weights.trained


def test_branches_that_no_step_reads_have_neither_gradients_nor_moments():
    alone = changed(stages=(Stage(1000, 10, subsets=(Subset((0,)),)),))
    weights = plan_of(alone, "stickers").weights
    config = find_preset("stickers")
    model = LiDiT(config, device="meta").text_side
    unread = [model.linguistic[1], model.collaborative]
    unread = sum(p.numel() for part in unread for p in part.parameters())
    assert weights.stepped == weights.total - unread


FEWER = [
    {"compute": Compute(micro_batch=4)},
    {"compute": Compute(checkpointing=True)},
    {"compute": Compute(shard=True)},
    {"hardware": Hardware("H100", 16)},
    {"stages": (Stage(1_000_000, 128),)},
    {"stages": (Stage(1_000_000, 256, resolution=128),)},
    {"stages": (Stage(1_000_000, 256, subsets=(Subset((0,)),)),)},
    {"trains": "refiners"},
    {"trains": "lora"},
    {"optimiser": Optimiser("muon")},
]


@pytest.mark.parametrize("change", FEWER, ids=str)
def test_memory_falls(change):
    assert plan_of(changed(**change)).memory.peak < plan_of().memory.peak


MORE = [
    {"compute": Compute(precision="float32")},
    {"cache": Cache(states=False)},
    {"cache": Cache(latents=False)},
    {"cache": Cache(dtype="float32")},
    {"content": Content()},
    {"contrast": Contrast()},
]


@pytest.mark.parametrize("change", MORE, ids=str)
def test_memory_grows(change):
    assert plan_of(changed(**change)).memory.peak > plan_of().memory.peak


def test_prompts_are_drawn_eight_at_a_time():
    one, eight, many = (
        plan_of(changed(validation=Validation(prompts=("a",) * n))).memory.at(VALIDATION)
        for n in (1, 8, 400)
    )
    assert one < eight == many


def test_the_peak_is_that_of_all_phases():
    """An autoencoder that fills a cache may need more than the training."""
    plan = plan_of()
    assert plan.memory.training == plan.memory.peak > plan.memory.at(ENCODING) > 0
    small = changed(stages=(Stage(1000, 1, resolution=1024),), trains="lora")
    memory = plan_of(small).memory
    assert memory.peak == max(memory.training, memory.at(READING), memory.at(ENCODING))
    assert "before the model is there" in plan_text(plan)


SLOWER = [
    {"stages": (Stage(2_000_000, 256),)},
    {"stages": (Stage(1_000_000, 256, resolution=512),)},
    {"stages": (Stage(1_000_000, 256), Stage(1000, 256))},
    {"compute": Compute(checkpointing=True)},
    {"compute": Compute(precision="float32")},
    {"cache": Cache(states=False)},
    {"cache": Cache(latents=False)},
    {"content": Content()},
    {"optimiser": Optimiser("muon")},
    {"hardware": Hardware("H100", 4)},
    {"hardware": Hardware("A100-80GB", 8)},
    {"hardware": Hardware("RTX 4090", 8)},
    {"validation": Validation(prompts=("a cat", "a dog"), every=100)},
    {"validation": Validation(prompts=("a cat", "a dog"), steps=50)},
]


@pytest.mark.parametrize("change", SLOWER, ids=str)
def test_the_run_takes_longer(change):
    assert plan_of(changed(**change)).seconds > plan_of().seconds


def test_training_less_takes_less_time():
    for trains in ("refiners", "lora"):
        assert plan_of(changed(trains=trains)).seconds < plan_of().seconds
    alone = changed(stages=(Stage(1_000_000, 256, subsets=(Subset((1,)),)),))
    assert plan_of(alone).seconds < plan_of().seconds


def test_shards_divide_what_is_held_and_gather_what_is_computed():
    plan = plan_of(changed(compute={"shard": True}))
    held, shared = ({p.name: p.bytes for p in made.memory.parts} for made in (plan_of(), plan))
    for name in ("weights, float32", "gradients, float32", "optimiser (adamw)"):
        assert shared[name] == held[name] // 8
    gathered = [p.bytes for p in plan.memory.parts if p.name == "gathered from the shards"]
    block = 0.930e9 / 28
    rest = 1.106e9 - 0.930e9
    assert gathered[0] == pytest.approx(2 * (2 * block + rest) + 4 * block, rel=0.01)
    weights = plan.weights.total
    assert plan.stages[0].traffic == pytest.approx(7 / 8 * weights * (2 + 2 + 4))
    assert plan_of().stages[0].traffic == pytest.approx(7 / 8 * weights * 2 * 4)


def test_the_ten_billion_are_trained_on_many_gpus():
    recipe = changed(
        stages=(Stage(10_000_000, 4096, resolution=512), Stage(1_000_000, 4096)),
        compute=Compute(checkpointing=True, shard=True),
        hardware=Hardware("H100", 256),
        validation=Validation(every=0),
    )
    plan = plan_of(recipe, "LI-DiT-10B")
    assert plan.memory.peak < plan.device.memory
    alone = replace(recipe, compute=Compute(checkpointing=True))
    assert plan_of(alone, "LI-DiT-10B").memory.peak > plan.device.memory
    assert plan.stages[0].exchanging == pytest.approx(10.5035e9 * 8 * 255 / 256 / 50e9, rel=0.001)
    text = plan_text(plan)
    for words in ("10.504 billion", "256 x H100, sharded over 256", "sent by each process"):
        assert words in text
    assert "DOES NOT FIT" in plan_text(plan_of(alone, "LI-DiT-10B"))


def test_caches_hold_what_the_sources_have():
    text = {0: TextTokens(50, 30), 1: TextTokens(40, 25)}
    plan = plan_of(preset="stickers", text=text)
    states0, states1, latents = plan.caches
    assert states0.bytes == 9401 * 50 * (576 * 2 + 12)
    assert states1.bytes == 9401 * 40 * (640 * 2 + 12)
    assert latents.bytes == 6000 * 16 * 16 * 16 * 2
    assert f"{latents.files} file" in plan_text(plan)
    full = plan_of(changed(cache={"dtype": "float32"}), "stickers", text=text)
    assert full.caches[2].bytes == 2 * latents.bytes


def test_a_source_for_one_branch_is_not_read_by_the_other():
    chinese = replace(SOURCES[0], branches=(1,))
    recipe = changed(data=Data((SOURCES[1], chinese)))
    states0, states1, _ = plan_of(recipe, "stickers", counts=COUNTS[::-1]).caches
    assert (states0.count, states1.count) == (9001, 9401)


def test_pictures_are_cached_at_every_size_that_a_stage_has():
    stages = (Stage(10, 2), Stage(10, 2, resolution=256, sources=(0,)))
    *_, small, large = plan_of(changed(stages=stages), "stickers").caches
    assert (small.side, small.count, large.side, large.count) == (128, 6000, 256, 1000)


def test_what_is_not_known_yet_is_said():
    text = plan_text(plan_of(counts=None))
    assert "not known" in text
    assert "guessed from the templates' letters" in text
    assert "LLaMA3-8B: 8.000 billion parameters, by its name" in text
    assert "guessed" not in plan_text(plan_of(text={i: TextTokens(9, 5) for i in (0, 1)}))


def test_a_cache_larger_than_the_disk_is_named(tmp_path):
    counts = [Count(10**9, 10**9)] * 2
    assert "MORE THAN IS FREE" in plan_text(plan_of(counts=counts, folder=tmp_path / "new"))
    none = changed(cache=Cache(states=False, latents=False))
    plan = plan_of(none, "stickers", counts=counts, folder=tmp_path)
    assert plan.caches == () and "MORE THAN IS FREE" not in plan_text(plan)


def test_checkpoints_hold_weights_average_and_moments():
    plan = plan_of(changed(checkpoints={"keep": 5}))
    assert plan.checkpoint == 4 * 4 * plan.weights.total
    assert plan.disk == 7 * plan.checkpoint + sum(cached.bytes for cached in plan.caches)
    level = plan_of(changed(checkpoints={"keep": 5}, optimiser=Optimiser(decay=0)))
    assert plan.disk - level.disk == plan.checkpoint  # the one from before the decay
    muon = plan_of(changed(optimiser=Optimiser("muon")))
    assert muon.checkpoint == plan.checkpoint - 4 * muon.weights.matrices


def test_the_text_says_what_the_plan_is_for():
    text = plan_text(plan_of())
    for words in (
        "parameters", "1.106 billion", "3,907 steps", "at 256 px", "H100", "990", "35%", "minutes",
        "assumed", "images/s", "optimiser (adamw)", "gradients' buckets", "checkpoints", "GFLOP",
        "token refiners", "collaborative refiner", "position block", "32 a process",
    ):  # fmt: skip
        assert words in text, words
    assert max(map(len, text.splitlines())) <= 120


def test_this_cpu_is_measured_and_computes_in_float32():
    device = find_hardware("this CPU", seconds=0.05)
    assert 1e8 < device.float32 < 1e14
    assert device.memory > 1e8
    recipe = changed(hardware=Hardware("this CPU", 1))
    planned = plan_of(recipe, "stickers", device=device)
    in_float32 = changed(hardware=Hardware("this CPU", 1), compute=Compute(precision="float32"))
    assert plan_of(in_float32, "stickers", device=device).memory == planned.memory
    two = changed(hardware=Hardware("this CPU", 2))
    assert plan_of(two, "stickers", device=device).stages[0].computing == pytest.approx(
        planned.stages[0].computing
    )


def test_an_unknown_device_is_named_with_those_that_are_known():
    with pytest.raises(LiDiTError, match="'H20'.*H200, H100.*this CPU"):
        plan_of(changed(hardware=Hardware("H20")))
    for device in DEVICES.values():
        assert device.peak("bf16") >= 1.9 * device.peak("float32")  # 0 of a CPU not yet measured


def test_an_llm_is_sized_by_its_config(tmp_path):
    folder = save_llm(tmp_path)
    made = load_llm(folder, block=-2).module
    found = llm_size(LLMSpec(str(folder), width=32, block=-2))
    assert found.source == "its config.json"
    assert found.parameters == pytest.approx(sum(p.numel() for p in made.parameters()), rel=0.02)
    assert found.flops(10) == 20 * found.computing


def test_an_llm_that_is_not_there_is_guessed_by_name_or_width():
    assert llm_size(LLMSpec("Nobody-7.5B-chat", 4096)).parameters == 7_500_000_000
    assert llm_size(LLMSpec("nobody-270m", 640)).parameters == 270_000_000
    guessed = llm_size(LLMSpec("nobody", 4096))
    assert guessed.source == "its width"
    assert 5e9 < guessed.parameters < 9e9


def test_the_autoencoders_halves_have_the_size_that_is_reckoned_with():
    vae = TinyAutoencoder()
    for half in (vae.taesd_encoder, vae.taesd_decoder):
        assert sum(p.numel() for p in half.parameters()) == pytest.approx(TINY_WEIGHTS, rel=0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured on Linux alone")
def test_the_memory_of_a_run_is_as_planned():
    changes = ("stages.0.batch=16",)
    recipe = recipe_of(changes)
    config = configuration(recipe.model, recipe.stages)
    assert measured(changes) == pytest.approx(planned(recipe, config), rel=0.15)

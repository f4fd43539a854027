"""The plan of an adapter's training. Run: pytest tests/train/plan/test_adapter_plan.py"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from real_cost import real_cost
from tiny_adapter import adapter_config, differences, latents, new_adapter, new_learner
from tiny_adapter_training import adapter_recipe, make_world, run_adapter
from tiny_llm import save_encoder, save_llm, smollm2_without_weights
from tiny_unet import TINY
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import lidit_train.data.room
from lidit_core.cli import main
from lidit_core.errors import LiDiTError
from lidit_core.llm.loading import load_llm
from lidit_core.llmdiff.config import TokenRefiner
from lidit_core.text.spec import LLMSpec
from lidit_core.unet.families import FAMILIES
from lidit_train.data.caption_states import CaptionReader
from lidit_train.plan.counting import count
from lidit_train.plan.hardware import DEVICES, THIS_CPU
from lidit_train.plan.llm_size import llm_size
from lidit_train.tasks.adapter.plan import TEXT_ENCODERS, make_adapter_plan
from lidit_train.tasks.adapter.plan_text import adapter_plan_text
from lidit_train.tasks.adapter.target import adapter_target, pooled_width
from lidit_train.tasks.adapter.unet import build_unet
from lidit_train.tasks.adapter.unet_cost import unet_cost

pytest.importorskip("diffusers")

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def plan_of(folder: Path, **changes):
    recipe = adapter_recipe(folder, **changes)
    return make_adapter_plan(recipe, adapter_target(recipe.adapter), folder)


@pytest.mark.parametrize(
    ("family", "told"), [("sd15", "859.521 million"), ("sdxl", "2.567 billion")]
)
def test_a_shipped_recipe_is_planned_without_a_checkpoint(
    world, family, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    recipe = str(ROOT / "recipes" / f"{family}-adapter.yaml")
    llm = f"adapter.llm={world / 'llm'}"
    assert main(["train", "--print-plan", recipe, "--out", "run", "--set", llm]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"U-Net, frozen +{told}", said) and "15,625 steps" in said
    layers = {"sd15": 16, "sdxl": 70}[family]
    assert f"Adapter for {family}: {layers} layers, to replace" in said
    assert not list(tmp_path.iterdir())


ROW = re.compile(r"^\| `(recipes/\w+-adapter\.yaml)` \| (.+) \|$", re.M)
IN_8_BITS = re.compile(r"falls from ([\d.]+) to ([\d.]+) GB in its plan")


def test_the_documents_figures_are_what_the_plans_print(tmp_path, monkeypatch, capsys):
    """Of both recipes for real checkpoints, in docs/llmdiff.md and docs/training.md."""
    smollm2_without_weights(tmp_path)
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path))

    def planned(recipe: str, *change: str) -> str:
        words = [word for one in change for word in ("--set", one)]
        assert main(["train", "--print-plan", str(ROOT / recipe), *words]) == 0
        return capsys.readouterr().out

    def peak(told: str) -> str:
        return re.search(r"^  peak +([\d.]+ GB)  fits", told, re.M).group(1)

    rows = ROW.findall((ROOT / "docs" / "llmdiff.md").read_text(encoding="utf-8"))
    assert [recipe for recipe, _ in rows] == [
        f"recipes/{name}-adapter.yaml" for name in ("sd15", "sdxl")
    ]
    for recipe, figures in rows:
        learns, memory, both, time = figures.split(" | ")
        told = planned(recipe)
        assert re.search(rf"^  adapter, trained +{learns}  ", told, re.M), told
        assert re.search(rf"^  stage 0 +{time}  ", told, re.M), told
        assert "1,000,000 images" in told and "Time on RTX 4090, " in told
        assert [memory, both] == [peak(told), peak(planned(recipe, "adapter.modes=[replace, add]"))]
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    whole, in_8_bits = IN_8_BITS.findall(text)[0]
    sdxl = rows[1][0]
    assert peak(planned(sdxl)) == f"{whole} GB"
    small = float(peak(planned(sdxl, "compute.frozen=int8")).split()[0])
    assert f"{small:.1f}" == in_8_bits


def test_the_operations_are_those_that_are_published():
    unet = build_unet(FAMILIES["sd15"], "meta")
    x, t, text = (torch.empty(1, *s, device="meta") for s in ((4, 64, 64), (), (77, 768)))
    cost = count(lambda _: unet(x, t, text).sample, unet.parameters())
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(859.5e6, abs=0.1e6)
    assert cost.forward == pytest.approx(0.80e12, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "modes", "more", "near"),
    [
        ("sd15", ("replace",), {}, 0),
        ("sdxl", ("replace",), {}, 0),
        ("small", ("replace",), {"refiner": TokenRefiner(1, 24, 2), "timestep_gates": True}, 0),
        ("small", ("add",), {}, 0.03),  # whose demo checkpoint encoder gives fewer tokens than CLIP
    ],
)
def test_an_adapter_costs_what_a_run_of_it_takes(kind, modes, more, near):
    adapter = new_adapter(kind, modes=modes, **more)
    learner, (z, t) = new_learner(adapter, kind), latents(1, kind, side=32)
    run = real_cost(lambda: learner.predict(z, t, differences(20), ["a cat"]), learner.parameters())
    planned = unet_cost(TINY[kind], adapter.config, 32, 20).cost
    assert planned.saved == pytest.approx(run.saved, rel=max(near, 0.002))
    assert planned.forward == pytest.approx(run.forward, rel=near)
    assert planned.backward == pytest.approx(run.backward, rel=near)


def test_mixed_precision_keeps_less_and_computes_as_much():
    whole, half = (unet_cost(TINY["small"], adapter_config("small"), 32, 20, m) for m in (0, 1))
    assert half.cost.forward == whole.cost.forward
    assert 0.5 * whole.cost.saved < half.cost.saved < 0.75 * whole.cost.saved


def test_a_bases_own_text_encoders_are_counted_where_they_are_read(world):
    """Their numbers are those of transformers' own at the sizes that SD1.5 and SDXL have."""
    small, large = (
        CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, projection_dim=width,
            num_hidden_layers=layers, num_attention_heads=width // 64,
        )
        for width, layers in ((768, 12), (1280, 32))
    )  # fmt: skip
    with torch.device("meta"):
        models = CLIPTextModel(small), CLIPTextModelWithProjection(large)
    sizes = [sum(p.numel() for p in model.parameters()) for model in models]
    assert TEXT_ENCODERS == {"sd15": sizes[0], "sdxl": sum(sizes)}
    recipe = adapter_recipe(world, adapter={"base": "sd15", "modes": ["add"]})
    target = adapter_target(recipe.adapter)
    plan = make_adapter_plan(recipe, target, world, DEVICES[THIS_CPU])
    for modes, numbers in (("add", sizes[0]), ("replace", 0)):
        adapter, held = replace(recipe.adapter, modes=(modes,)), []
        for frozen in ("", "bf16", "int8"):
            compute = replace(recipe.compute, frozen=frozen)
            other = replace(plan, recipe=replace(recipe, adapter=adapter, compute=compute))
            held.append(other.memory()["its text encoders, frozen"])
        assert held == [4 * numbers, 2 * numbers, numbers]


def test_an_llm_that_is_read_by_differences_runs_twice(tmp_path):
    folder = str(save_llm(tmp_path / "llm"))
    for name in (folder, "Nobody-7.5B", "nobody"):
        once = llm_size(LLMSpec(name, 32, "all"))
        twice = llm_size(LLMSpec(name, 32, "differences"))
        assert twice.parameters == once.parameters
        assert twice.flops(10) == 2 * once.flops(10)


def test_the_llm_costs_where_its_states_are_not_kept(world):
    kept, read = (plan_of(world, cache={"states": s}) for s in (True, None))
    tokens = read.loads[0].subsets[0][1].text[0].read
    assert read.flops(0) - kept.flops(0) == read.llm.flops(tokens)
    assert read.memory()["llm, frozen"] > kept.memory()["llm, frozen"] == 0
    assert "states of captions" in str(kept.caches) and "states of captions" not in str(read.caches)


def test_checkpointing_and_a_larger_micro_batch_show_in_the_plan(world):
    plans = [
        plan_of(world, compute=c)
        for c in ({"micro_batch": 1}, {"micro_batch": 4}, {"checkpointing": True})
    ]
    kept = [plan.memory()["activations of a micro batch"] for plan in plans]
    assert kept[1] == 4 * kept[0] and kept[2] < kept[1]
    assert plans[2].flops(0) > plans[1].flops(0)


def test_the_states_of_a_caption_are_as_large_as_planned(world):
    plan = plan_of(world, cache={"states": True})
    target = plan.target
    reader = CaptionReader(target.adapter.llm, world / "some", "float32", llm=str(world / "llm"))
    (states,) = reader._compute(["picture 3 of a cat"])
    assert states.hidden.shape[1] == target.adapter.states_width == 3 * 16
    tokens = plan.loads[0].subsets[0][1].text[0].read
    assert plan.each / tokens == states.bytes / len(states.roles)


def test_a_cache_that_would_not_fit_is_refused_before_the_llm_is_loaded(world, monkeypatch):
    monkeypatch.setattr(lidit_train.data.room, "free_disk", lambda folder: 5000)
    file = next((world / "llm").glob("*.safetensors"))
    weights = file.read_bytes()
    file.write_bytes(weights[: len(weights) // 2])  # what cannot be loaded was not
    try:
        with pytest.raises(LiDiTError) as caught:
            run_adapter(world, "full", cache={"states": True, "folder": str(world / "full-cache")})
    finally:
        file.write_bytes(weights)
    told = str(caught.value)
    assert re.match(r"the states of 13 captions from llm would take about [\d.]+ kB, and ", told)
    assert "5.00 kB are free" in told and "set cache.states to false" in told and "\n" not in told
    monkeypatch.setattr(lidit_train.data.room, "free_disk", lambda folder: 1 << 40)
    run_adapter(world, "roomy", cache={"states": True, "folder": str(world / "roomy-cache")})
    monkeypatch.setattr(lidit_train.data.room, "free_disk", lambda folder: 0)
    run_adapter(world, "again", cache={"states": True, "folder": str(world / "roomy-cache")})


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        (
            {"llm": "no-such-llm"},
            "give a model folder, a GGUF or a safetensors file, run `lidit fetch`",
        ),
        ({"base": "no-such-base.safetensors"}, "no-such-base"),
        ({"llm": "{folder}/encoder"}, "does not say how wide the LLM is"),
    ],
)
def test_what_is_not_there_is_one_sentence(world, adapter, told):
    (world / "encoder").mkdir(exist_ok=True)
    (world / "encoder" / "config.json").write_text('{"d_model": 8}')
    adapter = {k: v.replace("{folder}", str(world)) for k, v in adapter.items()}
    with pytest.raises(LiDiTError, match=told) as caught:
        plan_of(world, adapter=adapter)
    assert "\n" not in str(caught.value)


def test_sdxls_pooled_text_is_as_wide_as_the_released():
    assert [pooled_width(FAMILIES[name]) for name in ("sd15", "sdxl")] == [0, 1280]
    assert pooled_width(TINY["sdxl"]) == 16


@pytest.mark.parametrize("kind", ["Bert", "T5", "MT5"])
def test_an_encoders_size_is_known_before_it_is_loaded(kind, tmp_path):
    """Of T5's kind the encoder alone; position embeddings are not counted."""
    folder = save_encoder(tmp_path / kind, kind)
    size = llm_size(LLMSpec(kind, 32, "differences"), folder)
    module = load_llm(folder, "differences", torch.float32).module
    counted = [p.numel() for name, p in module.named_parameters() if "position" not in name]
    assert size.source == "its config.json"
    assert size.parameters == pytest.approx(sum(counted), rel=0.05)
    assert size.computing < 2 * size.parameters


@pytest.mark.parametrize("form", ["last", "direct"])
def test_a_plan_of_each_form_reads_what_the_form_reads(world, form):
    recipe = adapter_recipe(world, adapter={"form": form})
    target = adapter_target(recipe.adapter)
    assert target.adapter.states_width == (16 if form == "last" else 3 * 16)
    assert make_adapter_plan(recipe, target, world).flops(0) > 0


def test_held_out_pictures_are_measured_in_the_time_that_is_planned(world):
    sources = [{"kind": "folder", "path": str(world / "pictures"), "count": 12}]
    validation = {"every": 1, "held_out": 0.25, "times": 3}
    plan = plan_of(world, data={"sources": sources}, validation=validation)
    assert plan.samples == 3 * 3 * plan.recipe.steps  # 3 of 12 pictures at 3 times
    each = plan.unets[-1].cost.forward + plan.llm.flops(
        next(iter(plan.loads[0].subsets[0][1].text.values())).read
    )
    speed = plan.device.share * plan.device.peak(plan.recipe.compute.precision)
    assert plan.passing == pytest.approx(each / speed)
    assert f"{plan.samples:,} passes" in adapter_plan_text(plan)
    assert "held-out" not in adapter_plan_text(plan_of(world))
    unknown = plan_of(world, validation=validation)
    assert unknown.samples is None and "for each 1,000 of them" in adapter_plan_text(unknown)

"""Whole runs that train an adapter. Run: pytest tests/train/tasks/test_adapter_training.py"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_adapter_training import (
    LATENT,
    SHAPE,
    adapter_recipe,
    make_world,
    run_adapter,
)
from tiny_training import curve
from tiny_unet import TINY, random_unet
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from torch.distributed.checkpoint.state_dict_saver import save

from lidit_core.errors import LiDiTError
from lidit_core.llmdiff.file import load_adapter, read_adapter_config
from lidit_core.unet.families import FAMILIES
from lidit_train.batch import seeds_of
from lidit_train.loop.parallel import accelerator_for
from lidit_train.run import begin_run, train
from lidit_train.tasks.adapter import target as targets
from lidit_train.tasks.adapter.base_text import DemoText, base_text
from lidit_train.tasks.adapter.start import begin_adapter
from lidit_train.tasks.adapter.target import AdapterTarget, adapter_target
from lidit_train.tasks.adapter.unet import read_unet, write_ldm
from lidit_train.tasks.task import open_task

pytest.importorskip("diffusers")

ONE = [{"images": 4, "batch": 4, "resolution": 32}]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def trainer_of(world: Path, out: str, **changes):
    """A trainer that has not begun, and its first batch."""
    recipe = adapter_recipe(world, **changes)
    accelerator = accelerator_for(recipe.compute, "cpu")
    trainer = begin_run(recipe, world / out, accelerator).trainer
    return trainer, next(iter(trainer.loader))[1]


def bits(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def test_the_loss_of_one_batch_falls_and_the_base_keeps_its_bits(world):
    optimiser = {"learning_rate": 1e-2, "warmup": 1, "decay": 0}
    stages = [{**ONE[0], "images": 160}]
    trainer, batch = trainer_of(world, "falls", optimiser=optimiser, stages=stages)
    learner = trainer.learner
    before = bits(learner.unet), bits(learner.own), bits(learner.adapter)
    losses = [trainer.train_step(batch, trainer.no_losses())[0] for _ in range(40)]
    assert max(losses[-5:]) < 0.95 * losses[0]  # of a frozen U-Net that nobody has trained
    assert (bits(learner.unet), bits(learner.own)) == before[:2]
    assert bits(learner.adapter) != before[2]
    trained = {n for n, p in learner.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("adapter.") for name in trained)
    read = read_unet(world / "base.safetensors").unet
    assert bits(read) == before[0]


def test_a_focus_says_at_which_times_an_adapter_learns(world):
    stages = [{**ONE[0], "images": 16, "focus": {"low": 0.6, "high": 0.9, "share": 1}}]
    run_adapter(world, "focus", stages=stages)
    bins = {name for line in curve(world / "focus") for name in line if "-" in name}
    assert bins and bins <= {"loss 0.6-0.7", "loss 0.7-0.8", "loss 0.8-0.9"}


def test_every_part_of_an_adapter_is_trained(world):
    adapter = {"refiner": {"blocks": 1, "width": 16, "heads": 2}, "timestep_gates": True}
    trainer, batch = trainer_of(world, "parts", adapter=adapter)
    before = {k: v.clone() for k, v in trainer.learner.adapter.state_dict().items()}
    for _ in range(4):  # what lies behind a2 = 0 begins to learn in the second step
        trainer.train_step(batch, trainer.no_losses())
    after = trainer.learner.adapter.state_dict()
    same = [k for k in before if torch.equal(before[k], after[k])]
    assert not same


def test_a_run_writes_an_adapter_that_loads_and_draws_its_grid(world):
    validation = {"every": 4, "prompts": ["a cat", "two dogs"], "steps": 2}
    run_adapter(world, "whole", validation=validation)
    config = read_adapter_config(world / "whole" / "final.safetensors")
    assert config.family == "small" and config.modes == ("replace", "add")
    assert (config.llm.name, config.llm.width, config.blocks) == ("llm", 16, 2)
    assert [layer.width for layer in config.layers] == [32] * 4
    adapter = load_adapter(world / "whole" / "final.safetensors")
    assert all(layer.a2 != 0 for layer in adapter.layers)
    grids = sorted((world / "whole" / "grids").iterdir())
    assert [g.name for g in grids] == ["0000004.png", "0000008.png"]
    assert Image.open(grids[0]).size == (64, 32)
    assert len(curve(world / "whole")) == 8
    lines = (world / "whole" / "log.jsonl").read_text().splitlines()
    assert all(json.loads(line)["langevin noise"] > 0 for line in lines)


def test_an_interrupted_run_goes_on_to_the_same_bits_though_noise_is_drawn(world):
    changes = {"adapter": {"timestep_gates": True}, "checkpoints": {"every": 4}}
    straight = run_adapter(world, "straight", **changes)

    class Stop(Exception):
        pass

    def stop(step: int, loss: float) -> None:
        if step == 5:  # after the checkpoint of step 4
            raise Stop

    recipe = adapter_recipe(world, **changes)
    with pytest.raises(Stop):
        train(recipe, world / "killed", "cpu", None, stop)
    steps = []
    torch.manual_seed(99)
    final = train(recipe, world / "killed", "cpu", None, lambda step, loss: steps.append(step))
    assert steps == [5, 6, 7, 8]
    again = load_adapter(final).state_dict()
    assert all(torch.equal(again[k], straight[k]) for k in straight)
    assert curve(world / "killed") == curve(world / "straight")


def test_the_langevin_noise_is_on_in_training_and_off_in_drawing(world):
    trainer, batch = trainer_of(world, "noise")
    learner = trainer.learner
    with torch.no_grad():
        learner.adapter.langevin.reset(noise=4.0)
        for layer in learner.adapter.layers:
            layer.a2.fill_(1.0)
        assert batch.seeds == seeds_of(batch.noise)
        other = replace(batch, seeds=[batch.seeds[0] + 2])  # as many turns on, so of equal modes
        assert abs(learner(batch)[0] - learner(batch)[0]) == 0
        assert abs(learner(batch)[0] - learner(other)[0]) > 1e-3
        z, t, states = batch.noise, 500 * torch.ones(4), batch.states[0]
        a, b = (learner.predict(z, t, states, list(batch.captions), mode="add") for _ in range(2))
        assert torch.equal(a, b)


def test_kept_states_train_as_those_that_are_computed(world):
    run_adapter(world, "computed")
    run_adapter(world, "kept", cache={"states": True})
    a, b = curve(world / "computed"), curve(world / "kept")
    assert len(a) == 8 and all(abs(x["loss"] - y["loss"]) <= 1e-4 for x, y in zip(a, b))
    assert (world / "cache" / "states").exists()
    assert any(x["loss"] != y["loss"] for x, y in zip(a, a[1:]))


def test_the_adapters_states_are_not_kept_unless_asked_for(world):
    run_adapter(world, "unkept", cache={"folder": str(world / "unkept-cache")}, stages=ONE)
    assert not (world / "unkept-cache" / "states").exists()


@pytest.mark.parametrize("modes", [["add"], ["replace"]])
def test_an_adapter_of_one_mode_holds_what_that_needs(world, modes):
    weights = run_adapter(world, modes[0], adapter={"modes": modes}, stages=ONE)
    assert ("to_context.weight" in weights) == (modes == ["replace"])


def test_checkpointing_changes_nothing(world):
    plain = trainer_of(world, "plain")
    again = trainer_of(world, "again", compute={"checkpointing": True})
    grads = []
    for trainer, batch in (plain, again):
        for layer in trainer.learner.adapter.layers:
            layer.a2.data.fill_(0.5)
        trainer.learner(batch)[0].backward()
        grads.append({n: p.grad for n, p in trainer.learner.adapter.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-3, atol=1e-5)


def test_a_muon_run_takes_the_added_projections(world):
    weights = run_adapter(world, "muon", optimiser={"name": "muon"}, stages=ONE)
    assert all(torch.isfinite(w).all() for w in weights.values())


# U-Nets of other structures and in other layouts


@pytest.fixture
def small_is_known(monkeypatch):
    """Tiny U-Nets of any structure, in the shipped autoencoder's latents."""
    monkeypatch.setitem(targets.LATENTS, "small", LATENT)
    monkeypatch.setitem(targets.NATIVE, "small", 64)


def write_diffusers(folder: Path, shape) -> Path:
    random_unet(shape).save_pretrained(folder / "unet")
    return folder


def test_a_diffusers_folder_is_trained_on(world, small_is_known):
    folder = write_diffusers(world / "diffusers", SHAPE)
    adapter = {"base": str(folder), "modes": ["replace"], "prediction": "v"}
    plain = {"base": str(world / "base.safetensors"), "modes": ["replace"], "prediction": "v"}
    stages = [{**ONE[0], "resolution": 64}]
    a = run_adapter(world, "from-diffusers", adapter=adapter, stages=stages)
    b = run_adapter(world, "from-ldm", adapter=plain, stages=stages)
    assert all(torch.equal(a[k], b[k]) for k in b)


def test_sdxls_structure_is_trained_with_a_pooled_text_of_the_llm(world, small_is_known):
    shape = replace(TINY["sdxl"], in_channels=16, out_channels=16)
    adapter = {"base": str(write_diffusers(world / "xl", shape)), "modes": ["replace"]}
    weights = run_adapter(
        world, "xl-run", adapter=adapter, stages=[{"images": 8, "batch": 4, "resolution": 64}]
    )
    config = read_adapter_config(world / "xl-run" / "final.safetensors")
    assert config.pooled_width == 16 and len(config.layers) == 70
    recipe = adapter_recipe(world, adapter=adapter)
    start = begin_adapter(recipe, adapter_target(recipe.adapter)).adapter
    before, after = start.to_pooled.weight.to(torch.bfloat16).float(), weights["to_pooled.weight"]
    assert after.shape == (16, 16) and not torch.equal(after, before)


def save_clip(folder: Path, width: int, pooled: int = 0, part: str = "") -> None:
    """A tiny CLIP and its tokenizer, as the parts of a diffusers folder."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [str(n) for n in range(10)]
    words = [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    at = folder / f"tokenizer{part}"
    at.mkdir(parents=True, exist_ok=True)
    (at / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (at / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(at, model_max_length=24)
    tokenizer.save_pretrained(at)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=24,
        projection_dim=pooled or width, bos_token_id=len(words) - 2, eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )  # fmt: skip
    torch.manual_seed(5)
    kind = CLIPTextModelWithProjection if pooled else CLIPTextModel
    kind(config).save_pretrained(folder / f"text_encoder{part}")


def test_an_adapter_is_trained_beside_a_real_clip(world):
    save_clip(world / "clip", SHAPE.context_width)
    adapter = {"modes": ["add"], "text_encoders": str(world / "clip")}
    trainer, batch = trainer_of(world, "clip-run", adapter=adapter)
    context, pooled = trainer.learner.own.read(["a cat", "two dogs"])
    assert context.shape == (2, 24, SHAPE.context_width) and pooled is None
    assert not torch.allclose(context[0], context[1])
    alone, _ = trainer.learner.own.read(["a cat"])
    torch.testing.assert_close(context[:1], alone)
    _, norm = trainer.train_step(batch, trainer.no_losses())
    assert norm > 0 and all(layer.a2 != 0 for layer in trainer.learner.adapter.layers)


def test_an_adapter_for_sdxl_is_trained_beside_two_clips(world, small_is_known):
    shape = replace(TINY["sdxl"], in_channels=16, out_channels=16)
    folder = write_diffusers(world / "two", shape)
    save_clip(folder, 8)
    adapter = {"base": str(folder), "modes": ["replace", "add"]}
    stages = [{"images": 2, "batch": 2, "resolution": 64}]
    with pytest.raises(LiDiTError, match="holds no text_encoder_2 folder"):
        run_adapter(world, "two-run", adapter=adapter, stages=stages)
    save_clip(folder, 16, pooled=16, part="_2")
    trainer, batch = trainer_of(world, "two-run", adapter=adapter, stages=stages)
    context, pooled = trainer.learner.own.read(["a cat"])
    assert context.shape == (1, 24, 24) and pooled.shape == (1, 16)
    assert trainer.train_step(batch, trainer.no_losses())[1] > 0


def test_text_encoders_that_are_missing_are_one_sentence_before_anything_is_loaded(world):
    target = AdapterTarget(world / "sd15.safetensors", FAMILIES["sd15"], None, LATENT, 512)
    with pytest.raises(
        LiDiTError, match="holds no text_encoder folder; give a checkpoint or"
    ) as told:
        base_text(target, "")
    assert "\n" not in str(told.value) and "adapter.modes=[replace]" in str(told.value)
    adapter = {"text_encoders": str(world / "pictures")}
    with pytest.raises(LiDiTError, match="pictures holds no text_encoder folder"):
        run_adapter(world, "no-clip", adapter=adapter, cache={"folder": str(world / "none")})
    assert not (world / "none").exists()


def test_a_stand_in_brings_its_own_text_encoder(world):
    recipe = adapter_recipe(world)
    spec = open_task(recipe).spec
    assert spec.latent == LATENT and spec.native_size == 32 and spec.prediction == "v"
    own = base_text(adapter_target(recipe.adapter), "")
    assert isinstance(own, DemoText)
    assert torch.equal(own.read(["red cat"])[0][0, :1], own.read(["cat red"])[0][0, 1:2])


def test_a_small_unet_without_a_description_is_refused(world):
    path = world / "bare.safetensors"
    write_ldm(random_unet(SHAPE), path, {})
    with pytest.raises(LiDiTError, match="of another family than SD1.5 and SDXL"):
        adapter_target(adapter_recipe(world, adapter={"base": str(path)}).adapter)


def test_drawing_without_the_adapter_needs_the_bases_text_encoder(world):
    recipe = adapter_recipe(world, adapter={"modes": ["replace"]})
    learner = begin_adapter(recipe, adapter_target(recipe.adapter))
    assert learner.own is None
    with pytest.raises(LiDiTError, match="which were not loaded"):
        learner.predict(torch.zeros(1, 16, 4, 4), torch.ones(1), None, ["a"], mode="base")


def with_bare_scalars(checkpoint: Path) -> int:
    """A checkpoint as it was written when a layer's scalars had no dimension; how many it has."""
    state: dict = {}
    load = {"storage_reader": FileSystemReader(checkpoint), "no_dist": True}
    _load_state_dict(state, planner=_EmptyStateDictLoadPlanner(), **load)
    bare = 0
    for holder in (state["learner"], state["ema"], *state["optimisers"]["state"].values()):
        for name, tensor in holder.items():
            if isinstance(tensor, torch.Tensor) and tensor.shape == (1,):
                holder[name], bare = tensor.reshape(()), bare + 1
    save(state, checkpoint_id=checkpoint, no_dist=True)
    return bare


def test_a_checkpoint_whose_scalars_have_no_dimension_is_resumed(world, caplog):
    whole = run_adapter(world, "scalars")
    newest = world / "scalars" / "checkpoints" / "step-0000007"
    shutil.rmtree(newest.with_name("step-0000008"))
    (world / "scalars" / "final.safetensors").unlink()
    assert with_bare_scalars(newest) > 8
    caplog.set_level("INFO", "lidit_train")
    again = run_adapter(world, "scalars")
    assert "going on at step 7" in caplog.text and "does not fit" not in caplog.text
    assert all(torch.equal(whole[name], again[name]) for name in whole)

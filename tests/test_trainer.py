"""The trainer, on a world of two pictures. Run: pytest tests/test_trainer.py"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_lidit import lidit_config
from tiny_lidit import random_states as states

from lidit_core.config import LLMSpec
from lidit_core.dit import LiDiT
from lidit_core.errors import LiDiTError
from lidit_core.sampling import initial_noise, sample
from lidit_core.states import PADDING, stack_states
from lidit_core.vae import TinyAutoencoder
from lidit_train.autoencoder import (
    AutoencoderRecipe,
    AutoencoderTrainer,
    untrained_autoencoder,
)
from lidit_train.data import CaptionStates, LatentSet, in_pieces, load_states, save_states
from lidit_train.linear_encoder import principal_components
from lidit_train.parallel import share
from lidit_train.recipe import Recipe, Stage, Subset, read_recipe
from lidit_train.state import EMA, learning_rate
from lidit_train.trainer import Batches, Trainer

CONFIG = replace(
    lidit_config("a", "b", guidance=1.0, steps=8), llms=(LLMSpec("a", 24), LLMSpec("b", 24))
)


def world(folder, size=4) -> CaptionStates:
    """Two captions: one for a latent of +1, one of -1; only branch 1 can read the second."""
    latents = torch.ones(2, 16, size, size) * torch.tensor([2.1, -1.9])[:, None, None, None]
    LatentSet(latents.bfloat16(), torch.tensor([0, 1])).save(folder / "latents.safetensors")
    rows = {i: stack_states([states(6 - n, seed=3 * i + n) for n in range(3)]) for i in range(2)}
    return CaptionStates(rows, torch.tensor([[True, True], [False, True]]))


def recipe(**changes) -> Recipe:
    stage = Stage("latents.safetensors", 64, 4, (Subset((0, 1), 1.0), Subset((1,), 1.0)))
    fields = {"preset": "stickers", "stages": (stage,), "warmup": 5, "save_every": 4, "ema": 0.9}
    return Recipe(**{**fields, **changes})


def trainer(folder, captions, recipe_, name="run") -> Trainer:
    return Trainer(recipe_, CONFIG, captions, folder, folder / name)


def test_a_batch_depends_on_the_seed_and_the_step_alone(tmp_path):
    captions = world(tmp_path)
    one, other = (Batches(recipe(), CONFIG, captions, tmp_path) for _ in range(2))
    for step in (0, 9):
        a, b = one[step], other[step]
        assert (
            torch.equal(a.x, b.x)
            and torch.equal(a.noise, b.noise)
            and a.text.keys() == b.text.keys()
        )
    assert not torch.equal(one[0].noise, one[1].noise)
    assert one[0].x.abs().max() < 1.01  # normalised by the format's mean 0.1 and deviation 2


def test_a_caption_that_no_present_llm_reads_is_not_drawn(tmp_path):
    only_first = Stage("latents.safetensors", 64, 8, (Subset((0,)),))
    batches = Batches(recipe(stages=(only_first,)), CONFIG, world(tmp_path), tmp_path)
    assert all((batches[step].x > 0).all() for step in range(4))


def test_dropped_captions_read_the_empty_prompt_and_zeroed_ones_nothing(tmp_path):
    captions = world(tmp_path)
    dropped = Batches(recipe(caption_dropout=1.0, text_zeroing=0.0), CONFIG, captions, tmp_path)[0]
    assert all(
        torch.equal(s.hidden, captions.branches[i][[2] * 4].trimmed().hidden)
        for i, s in dropped.text.items()
    )
    zeroed = Batches(recipe(text_zeroing=1.0), CONFIG, captions, tmp_path)[0]
    assert all((s.roles == PADDING).all() for s in zeroed.text.values())


def test_a_run_that_dies_resumes_to_the_same_weights(tmp_path):
    captions = world(tmp_path)
    whole = trainer(tmp_path, captions, recipe(), "whole")
    whole.train()
    broken = trainer(tmp_path, captions, recipe(), "broken")
    with pytest.raises(KeyboardInterrupt):
        broken._report = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        broken.train()
    assert broken.step == 4  # died before its first save: it begins anew
    again = trainer(tmp_path, captions, recipe(), "broken")
    assert again.step == 0
    again.recipe = recipe(stages=(replace(recipe().stages[0], images=32),), decay=0.125)
    again.train()
    resumed = trainer(tmp_path, captions, recipe(decay=0.0625), "broken")
    assert resumed.step == 8
    straight = trainer(tmp_path, captions, recipe(decay=0.0625), "straight")
    straight.train()
    resumed.train()
    assert resumed.step == whole.step == 16
    for key, value in straight.ema.weights.items():
        assert torch.allclose(value, resumed.ema.weights[key], atol=1e-6), key


def test_it_learns_which_caption_means_which_picture(tmp_path):
    captions = world(tmp_path)
    stage = Stage("latents.safetensors", 8 * 250, 8, (Subset((1,)), Subset((0, 1))))
    run = trainer(tmp_path, captions, recipe(stages=(stage,), learning_rate=3e-3, ema=0.95))
    run.train()
    text = {1: captions.branches[1][:2]}
    with torch.no_grad():
        out = sample(run.averaged(), initial_noise([1, 2], 16, 4, 4), text, text)
    means = out.mean(dim=(1, 2, 3))
    assert means[0] > 0.6 and means[1] < -0.6


def test_losses_that_are_no_numbers_end_the_run_and_keep_the_weights(tmp_path):
    captions = world(tmp_path)
    run = trainer(tmp_path, captions, recipe())
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    run.batches.sets["latents.safetensors"].latents[:] = float("nan")
    run.recipe = recipe(stages=(replace(recipe().stages[0], images=400),))
    with pytest.raises(LiDiTError, match="no number for 20 steps"):
        run.train()
    assert all(torch.equal(v, before[k]) for k, v in run.model.state_dict().items())


def train_in_a_process(rank: int, folder: Path, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    trainer(folder, world(folder), recipe(), "two").train()


def test_two_processes_train_what_one_does(tmp_path):
    captions = world(tmp_path)
    one = trainer(tmp_path, captions, recipe(), "one")
    one.train()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_in_a_process, (tmp_path, port), nprocs=2)
    two = trainer(tmp_path, captions, recipe(), "two")
    assert two.step == one.step == 16
    for key, value in one.ema.weights.items():
        assert torch.allclose(value, two.ema.weights[key], atol=1e-5), key


def test_a_batch_that_cannot_be_shared_gets_one_sentence():
    assert [share(6, rank, 3) for rank in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(LiDiTError, match="batch of 4 cannot be shared by 3"):
        share(4, 0, 3)


def test_an_unreadable_state_gets_one_sentence(tmp_path):
    captions = world(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pt").write_bytes(b"half")
    with pytest.raises(LiDiTError, match="no training state"):
        trainer(tmp_path, captions, recipe())


def test_a_run_of_another_model_is_refused(tmp_path):
    captions = world(tmp_path)
    trainer(tmp_path, captions, recipe()).save()
    other = replace(CONFIG, depth=3)
    with pytest.raises(LiDiTError, match="run of another model"):
        Trainer(recipe(), other, captions, tmp_path, tmp_path / "run")


def test_a_state_that_does_not_fit_the_recipe_is_refused(tmp_path):
    captions = world(tmp_path)
    trainer(tmp_path, captions, recipe(optimiser="adamw")).save()
    with pytest.raises(LiDiTError, match="the adamw that .* does not fit the recipe"):
        trainer(tmp_path, captions, recipe(optimiser="muon"))


def test_a_stage_may_shift_its_times(tmp_path):
    captions = world(tmp_path)
    stage = replace(recipe().stages[0], batch=64)
    plain, shifted = (
        Batches(recipe(stages=(replace(stage, shift=s),)), CONFIG, captions, tmp_path)[0].time
        for s in (None, 3.0)
    )
    assert torch.allclose(shifted, 3 * plain / (1 + 2 * plain))


def test_the_learning_rate_rises_stays_and_falls():
    rates = [learning_rate(step, 1.0, 10, 100, 0.2) for step in range(100)]
    assert rates[0] == 0.1 and rates[10:80] == [1.0] * 70
    assert rates[-1] == 0.05 and all(a >= b for a, b in zip(rates[80:], rates[81:]))


def test_the_average_follows_the_weights():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = EMA(model, decay=0.5)
    torch.nn.init.ones_(model.weight)
    for expected in (1 - 2 / 11, 1 - 2 / 11 * 3 / 12):
        ema.update(model)
        assert ema.weights["weight"].item() == pytest.approx(expected)


def test_states_are_stored_as_they_are(tmp_path):
    text = states(4, 6).to(dtype=torch.bfloat16)
    save_states(text, tmp_path / "states.safetensors")
    loaded = load_states(tmp_path / "states.safetensors")
    assert torch.equal(loaded.hidden, text.hidden) and torch.equal(loaded.roles, text.roles)


def test_interrupted_work_goes_on_after_its_last_piece(tmp_path):
    made = []

    def make(first: int, last: int) -> dict[str, torch.Tensor]:
        if len(made) == 2:
            made.append("interrupted")
            raise KeyboardInterrupt
        made.append((first, last))
        return {"x": torch.arange(first, last)}

    path = tmp_path / "all.safetensors"
    for _ in range(2):
        try:
            with in_pieces(path, "these", 7, 2, make) as pieces:
                whole = torch.cat([piece["x"] for piece in pieces])
        except KeyboardInterrupt:
            assert list(tmp_path.iterdir())
    assert whole.tolist() == list(range(7)) and not list(tmp_path.iterdir())
    assert made == [(0, 2), (2, 4), "interrupted", (4, 6), (6, 7)]


def test_a_run_that_never_began_is_not_exported(tmp_path):
    from stickers.train import export

    run = trainer(tmp_path, world(tmp_path), recipe(), "mistyped")
    with pytest.raises(LiDiTError, match="mistyped holds no state"):
        export(run, TinyAutoencoder(), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_process_joins_the_others_before_it_takes_a_gpu(tmp_path, monkeypatch):
    told = []
    module = importlib.import_module("lidit_train.trainer")
    monkeypatch.setattr(module, "join", lambda device: told.append("joined") or (0, 1))
    moved = LiDiT.to
    monkeypatch.setattr(LiDiT, "to", lambda self, *a: told.append("moved") or moved(self, *a))
    trainer(tmp_path, world(tmp_path), recipe())
    assert told[0] == "joined" and "moved" in told


@pytest.mark.skipif(sys.version_info < (3, 11), reason="training needs Python 3.11")
def test_recipes_are_read_strictly(tmp_path):
    from stickers import train

    shipped = read_recipe(next((train.Path(train.__file__).parent / "recipes").glob("*.toml")))
    assert shipped.config().native_size == 128 and shipped.branches == (0, 1)
    path = tmp_path / "recipe.toml"
    path.write_text('preset = "stickers"\nstages = []\n')
    with pytest.raises(LiDiTError, match="no stages"):
        read_recipe(path)
    path.write_text('preset = "stickers"\nlr = 1\n')
    with pytest.raises(LiDiTError, match="unknown field 'lr'"):
        read_recipe(path)
    with pytest.raises(LiDiTError, match="cannot be read"):
        read_recipe(tmp_path / "absent.toml")


def flat_pictures(batch: int, step: int) -> torch.Tensor:
    """Pictures (batch, 3, 16, 16) of one colour each."""
    colours = torch.rand(batch, 3, 1, 1, generator=torch.Generator().manual_seed(step))
    return colours.expand(-1, -1, 16, 16)


def test_an_autoencoder_learns_and_resumes(tmp_path):
    light = tuple(f"decoder.{i}" for i in (9, 10, 13, 14, 15, 18))
    short = AutoencoderRecipe(light=light, batch=4, steps=120, save_every=60, warmup=5)
    linear = principal_components([flat_pictures(64, 1)])
    model = AutoencoderTrainer(short, linear, flat_pictures, tmp_path).train()
    pictures = flat_pictures(4, 999)
    with torch.no_grad():
        error = (model.decode(model.encode(pictures)) - pictures).abs().mean()
    assert error < 0.1  # a constant grey is 0.25 off
    again = AutoencoderTrainer(
        short, linear, lambda *_: pytest.fail("nothing is left to train"), tmp_path
    ).train()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_the_linear_encoder_is_principal_components_of_blocks():
    g = torch.Generator().manual_seed(0)
    pictures = torch.rand(6, 3, 24, 16, generator=g)
    pictures[:, :, ::2] *= 0.3  # some structure to find
    weight, offset = principal_components([pictures])
    model = untrained_autoencoder(AutoencoderRecipe(), (weight, offset))
    with torch.no_grad():
        latents = model.encode(pictures)
    exact = torch.nn.functional.unfold(pictures, 8, stride=8).mT @ weight.T + offset
    assert latents.shape == (6, 16, 3, 2)
    assert (latents.flatten(2).mT - exact).abs().max() < 0.03  # weights are kept in bfloat16
    assert exact.mean(dim=(0, 1)).abs().max() < 1e-3
    assert exact.square().mean().sqrt() == pytest.approx(0.5, abs=0.01)
    assert not any(p.requires_grad for p in model.taesd_encoder.parameters())

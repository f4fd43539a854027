"""Alignment with a vision encoder. Run: pytest tests/train/tasks/test_alignment.py

The encoders are random: that alignment is wired as its papers say is shown, that it helps is not.
"""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
import torch.nn.functional as F
from processes import together
from tiny_adapter_training import adapter_fields
from tiny_lidit import random_lidit, random_noise, random_texts
from tiny_training import (
    ENCODERS,
    SEEN,
    curve,
    fields,
    make_world,
    recipe_of,
    run,
    save_encoder,
    write_recipe,
)

from lidit_core.errors import LiDiTError
from lidit_train.batch import Batch
from lidit_train.data.vision.encoder import VisionEncoder
from lidit_train.loop.parallel import accelerator_for
from lidit_train.recipe import Alignment
from lidit_train.recipe_file import read_recipe
from lidit_train.run import begin_run, clear_caches, train
from lidit_train.tasks.lidit.alignment import AlignmentHead, spatially_normalised
from lidit_train.tasks.lidit.learner import LiDiTLearner
from lidit_train.tasks.task import open_task

STAGES = [{"images": 16, "batch": 4, "resolution": 32}]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Twelve pictures of a caption each, a tiny LLM, where it is, and an encoder."""
    folder = tmp_path_factory.mktemp("world")
    save_encoder(folder / "encoder")
    return folder, make_world(folder)


def on(folder, **more) -> dict:
    alignment = {"encoder": str(folder / "encoder"), "block": 1, "hidden": 32, **more}
    return {"stages": STAGES, "alignment": alignment}


@pytest.mark.parametrize("family", ENCODERS)
def test_each_image_token_has_the_feature_of_its_place(tmp_path, family):
    encoder = VisionEncoder(save_encoder(tmp_path, family), grain=16)
    encoder.check()
    pictures = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
    before = encoder.encode(pictures)
    assert before.shape == (2, encoder.width, 4, 6) == (2, SEEN, 4, 6)
    pictures[1, :, 32:, :32] = 255  # the third and fourth row, the first two columns
    after = encoder.encode(pictures)
    assert torch.equal(before[0], after[0])
    moved = (after - before)[1].norm(dim=0)
    assert moved[2:, :2].mean() > 1.2 * moved[:2, 2:].mean(), "what changed is where it changed"


def test_the_loss_is_one_minus_the_cosine_with_the_features_of_a_block():
    torch.manual_seed(0)
    model = random_lidit(1, depth=3)
    x, noise, features = random_noise(2, 8, 8), torch.randn(2, 16, 8, 8), torch.randn(2, 5, 4, 4)
    lesson = Batch(x, noise, torch.tensor([0.2, 0.7]), random_texts(1, 6, 4), features=features)
    recipe = Alignment("x", weight=0.7, block=1, hidden=8)
    learner = LiDiTLearner(model, aligned=AlignmentHead(recipe, model.config.width, 5))
    seen: list[torch.Tensor] = []
    model.blocks[1].register_forward_hook(lambda *args: seen.append(args[2]))
    loss, errors = learner(lesson)
    mapped = learner.aligned.map(seen[0])  # (B, N, 5)
    cosine = F.cosine_similarity(mapped, features.flatten(2).transpose(1, 2), dim=2).mean()
    assert loss.item() == pytest.approx((errors.mean() + 0.7 * (1 - cosine)).item(), rel=1e-5)
    loss.backward()
    assert learner.aligned.map[0].weight.grad.abs().sum() > 0
    parts = [learner(lesson.part(rows))[0].item() for rows in (slice(0, 1), slice(1, 2))]
    assert sum(parts) / 2 == pytest.approx(loss.item(), rel=1e-5)


def test_the_spatial_variant_has_a_convolution_and_normalised_features():
    torch.manual_seed(0)
    features = 3 + torch.randn(2, 5, 4, 6)
    normal = spatially_normalised(features)
    assert normal.mean((2, 3)).abs().max() < 1e-5
    assert (normal.std((2, 3)) - 1).abs().max() < 1e-4
    aligned = AlignmentHead(Alignment("x", spatial=True), 7, 5)
    tokens = torch.randn(2, 24, 7)
    mapped = F.conv2d(
        tokens.transpose(1, 2).reshape(2, 7, 4, 6), aligned.map.weight, aligned.map.bias, padding=1
    )
    wanted = 1 - F.cosine_similarity(mapped, normal, dim=1).mean()
    assert aligned(tokens, features).mean().item() == pytest.approx(wanted.item(), rel=1e-5)
    shared = features + 100 * torch.randn(2, 5, 1, 1)  # what a picture's patches have in common
    assert aligned(tokens, shared).mean().item() == pytest.approx(wanted.item(), abs=1e-3)


def first(world, out: str, cached: bool) -> Batch:
    folder, llms = world
    recipe = recipe_of(folder, *llms, **on(folder), cache={"latents": cached})
    accelerator = accelerator_for(recipe.compute, "cpu")
    return next(iter(begin_run(recipe, folder / out, accelerator, llms).trainer.loader))[1]


def test_cached_or_not_the_features_are_the_same(world):
    cached, now = first(world, "cached", True), first(world, "now", False)
    assert cached.features.shape == (4, SEEN, 2, 2)
    torch.testing.assert_close(cached.features, now.features, rtol=1e-4, atol=1e-5)
    assert list((world[0] / "cached" / "cache" / "features").glob("*.safetensors"))


def test_a_run_learns_it_ends_it_and_resumes_to_the_same_bits(world):
    folder, llms = world
    changes = {**on(folder, end=2), "checkpoints": {"every": 1}}
    expected = run(folder, "whole", llms, **changes)

    def stop(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    recipe = recipe_of(folder, *llms, **changes)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder / "parted", "cpu", llms, stop)
    shutil.rmtree(folder / "parted" / "cache" / "features")  # is made anew
    found = run(folder, "parted", llms, **changes)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert not [key for key in expected if "aligned" in key], "the map is not in the file"
    run(folder, "without", llms, stages=STAGES)
    with_, without = curve(folder / "whole"), curve(folder / "without")
    more = [a["loss"] - b["loss"] for a, b in zip(with_, without)]
    assert min(more[:2]) > 0.2 and max(map(abs, more[2:])) < 0.1, "it is there for two steps"


@pytest.mark.long
def test_two_processes_reach_the_losses_of_one(world):
    folder, llms = world
    run(folder, "one", llms, **on(folder))
    recipe = write_recipe(folder, fields(folder, *llms, **on(folder)), "two.yaml")
    (llm,) = (f"{k}={v}" for k, v in llms.items())
    words = [sys.executable, "-m", "lidit_core", "train", str(recipe), "--out", str(folder / "two")]
    together(*[[*words, "--device", "cpu", "--llm", llm]] * 2)
    ours, theirs = curve(folder / "two"), curve(folder / "one")
    assert len(ours) == 4
    assert all(abs(a["loss"] / b["loss"] - 1) < 1e-4 for a, b in zip(ours, theirs))


def test_features_of_another_encoder_are_cleared(world, tmp_path):
    folder, llms = world
    out = folder / "cached"
    first(world, "cached", True)
    recipe = recipe_of(folder, *llms, **on(folder))
    assert clear_caches(recipe, out, "cpu", llms) == []
    save_encoder(tmp_path / "other", seed=1)
    other = recipe_of(folder, *llms, **on(folder, encoder=str(tmp_path / "other")))
    assert len(clear_caches(other, out, "cpu", llms)) == 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"encoder": "nowhere/encoder"}, "nowhere/encoder is not there"),
        ({"encoder": "{folder}/pictures"}, "cannot be read"),
        ({"encoder": "{folder}/tiny"}, "reads no pictures"),
        ({"block": 2}, "alignment is read after block 2; expected one of 0 to 1"),
        ({"weight": 0}, "expected above 0"),
        ({"encoder": ""}, "has no encoder"),
        ({"spatial": True}, "hidden=32"),
        ({"end": -1}, "end=-1"),
    ],
)
def test_what_does_not_fit_is_refused(world, more, told):
    folder, llms = world
    more = {k: v.replace("{folder}", str(folder)) if k == "encoder" else v for k, v in more.items()}
    with pytest.raises(LiDiTError, match=told) as refused:
        train(recipe_of(folder, *llms, **on(folder, **more)), folder / "refused", "cpu", llms)
    assert "\n" not in str(refused.value)
    assert not (folder / "refused").exists()


def test_an_adapter_refuses_it(world, tmp_path):
    data = adapter_fields(tmp_path, **on(world[0]))
    with pytest.raises(LiDiTError, match="alignment, which a block of a LI-DiT learns; leave"):
        open_task(read_recipe(write_recipe(tmp_path, data)))


def test_the_plan_tells_of_features_and_map(world):
    plan = open_task(recipe_of(world[0], **on(world[0]))).plan(world[0])
    assert "features of pictures at 32 px" in plan and "the aligned map" in plan

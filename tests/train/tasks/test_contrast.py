"""Contrastive flow matching, a term of the loss. Run: pytest tests/train/tasks/test_contrast.py"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_lidit import random_lidit, random_noise, random_texts
from tiny_training import curve, fields, make_world, recipe_of, run, write_recipe

from lidit_core.errors import LiDiTError
from lidit_train.batch import Batch
from lidit_train.contrast import Contrasted
from lidit_train.data.fetching import Fetched
from lidit_train.loop.parallel import accelerator_for
from lidit_train.recipe import Contrast
from lidit_train.recipe_file import read_recipe
from lidit_train.run import begin_run, train
from lidit_train.tasks.lidit.learner import LiDiTLearner
from lidit_train.tasks.task import open_task

ROOT = Path(__file__).resolve().parents[3]
ON = {"weight": 0.3}
STAGES = [{"images": 16, "batch": 4, "resolution": 32}]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Twelve pictures of a caption each, a tiny LLM, and where it is."""
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder)


def batch() -> Batch:
    """Four samples; the second and the last are not to be told from the next."""
    x, noise = random_noise(4, 4, 4), torch.randn(4, 16, 4, 4)
    other = Contrasted((noise - x).roll(-1, 0), torch.tensor([True, False, True, False]))
    time = torch.tensor([0.2, 0.4, 0.6, 0.8])
    return Batch(x, noise, time, random_texts(1, 6, 4, 5, 3), contrasted=other)


def test_the_loss_is_flow_matchings_less_the_error_on_the_next_velocity():
    torch.manual_seed(0)
    model, lesson = random_lidit(1), batch()
    loss, errors = LiDiTLearner(model, contrast=Contrast(weight=0.3))(lesson)
    t = lesson.time[:, None, None, None]
    said = model((1 - t) * lesson.x + t * lesson.noise, 1000 * lesson.time, lesson.states)
    own = [(said[i] - (lesson.noise - lesson.x)[i]).square().mean() for i in range(4)]
    next_ = [(said[i] - (lesson.noise - lesson.x)[i + 1]).square().mean() for i in (0, 2)]
    wanted = (sum(own) - 0.3 * sum(next_)) / 4
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.allclose(errors, torch.stack(own)), "the log's errors are flow matching's"
    plain = LiDiTLearner(model)(lesson)[0]
    assert plain.item() == pytest.approx(sum(own).item() / 4, rel=1e-5)
    assert plain - loss > 0.1


def test_parts_of_a_batch_add_up_to_the_whole():
    torch.manual_seed(0)
    learner, lesson = LiDiTLearner(random_lidit(1), contrast=Contrast(weight=0.3)), batch()
    parts = [lesson.part(slice(0, 3)), lesson.part(slice(3, 4))]
    added = sum(learner(part)[0].item() * len(part) / 4 for part in parts)
    assert added == pytest.approx(learner(lesson)[0].item(), rel=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_other_predictions_refuse_it(tmp_path, prediction):
    data = fields(tmp_path, "one", contrast={})
    data["model"]["changes"]["prediction"] = prediction
    recipe = read_recipe(write_recipe(tmp_path, data))
    with pytest.raises(LiDiTError, match=f"of flow matching, and the model predicts {prediction}"):
        open_task(recipe)


def first(world, cached: bool = True, **changes) -> tuple[Fetched, Batch]:
    """A run's first batch, as read and as trained on."""
    folder, llms = world
    recipe = recipe_of(folder, *llms, contrast=ON, cache={"latents": cached}, **changes)
    accelerator = accelerator_for(recipe.compute, "cpu")
    return next(iter(begin_run(recipe, folder / "batches", accelerator, llms).trainer.loader))


@pytest.mark.parametrize("cached", [True, False])
def test_the_other_is_the_next_and_has_another_caption(world, cached):
    stages = [{"images": 16, "batch": 16, "resolution": 32}]
    half = {"caption_dropout": 0.25, "text_zeroing": 0.25}
    _, made = first(world, cached, stages=stages, data=half)
    following = (made.noise - made.x).roll(-1, 0)
    assert torch.allclose(made.contrasted.velocity, following, atol=1e-5)
    assert made.contrasted.apart.tolist() == [text != "" for text in made.captions]
    assert 4 < made.contrasted.apart.sum() < 12


def test_a_caption_that_the_next_may_read_too_is_not_pushed_away(world, tmp_path):
    folder, llms = world
    captions = [("a", "b"), ("b", "c"), ("d", "e")]  # of the pictures, each read as often
    for n, texts in enumerate(captions):
        shutil.copy(folder / "pictures" / f"{n:02}.png", tmp_path / f"{n}.png")
        for suffix, text in zip(("txt", "long.txt"), texts):
            (tmp_path / f"{n}.{suffix}").write_text(text)
    source = {"kind": "folder", "path": str(tmp_path), "captions": {"txt": 1.0, "long.txt": 1.0}}
    data = {"sources": [source], "caption_dropout": 0, "text_zeroing": 0}
    stages = [{"images": 24, "batch": 24, "resolution": 32}]
    fetched, made = first(world, stages=stages, data=data)
    rows = fetched.plan.rows
    following = [captions[row.index] for row in (*rows[1:], rows[0])]
    wanted = [text not in others for text, others in zip(made.captions, following, strict=True)]
    assert made.contrasted.apart.tolist() == wanted and len(set(wanted)) == 2


def test_it_changes_the_loss_and_no_batch(world):
    folder, llms = world
    run(folder, "plain", llms, stages=STAGES)
    run(folder, "contrasted", llms, stages=STAGES, contrast=ON)
    plain, contrasted = curve(folder / "plain"), curve(folder / "contrasted")
    first = [{k: v for k, v in c[0].items() if "-" in k} for c in (plain, contrasted)]
    assert first[0] == first[1] and len(first[0]) > 1
    assert all(b["loss"] < a["loss"] for a, b in zip(plain, contrasted))


def test_a_resumed_run_is_the_same(world):
    folder, llms = world
    straight = run(folder, "straight", llms, contrast=ON)

    def stop(step: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe_of(folder, *llms, contrast=ON), folder / "stopped", "cpu", llms, stop)
    resumed = run(folder, "stopped", llms, contrast=ON)
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)
    assert curve(folder / "straight") == curve(folder / "stopped")


def test_neither_micro_batches_nor_workers_change_it(world):
    folder, llms = world
    run(folder, "at-once", llms, stages=STAGES, contrast=ON)
    ways = {"micro": {"compute": {"micro_batch": 3}}, "workers": {"data": {"workers": 1}}}
    for name, changes in ways.items():
        run(folder, name, llms, stages=STAGES, contrast=ON, **changes)
        for a, b in zip(curve(folder / name), curve(folder / "at-once")):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


@pytest.mark.long
def test_two_processes_contrast_what_one_does(world):
    """A process's last sample with the other process's first."""
    folder, llms = world
    stages = [{"images": 4, "batch": 2, "resolution": 32}]
    run(folder, "one", llms, stages=stages, contrast=ON)
    data = fields(folder, *llms, stages=stages, contrast=ON)
    words = [sys.executable, "-m", "lidit_core", "train", str(write_recipe(folder, data, "2.yaml"))]
    words += ["--out", str(folder / "two"), "--device", "cpu"]
    words += [part for name, place in llms.items() for part in ("--llm", f"{name}={place}")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    joined = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common = {**os.environ, **joined, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    processes = [
        subprocess.Popen(words, cwd=ROOT, env={**common, "RANK": str(n), "LOCAL_RANK": str(n)})
        for n in range(2)
    ]
    assert [process.wait(timeout=400) for process in processes] == [0, 0]
    for a, b in zip(curve(folder / "two"), curve(folder / "one"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)

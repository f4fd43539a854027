"""Muon, whitened starts and the content loss. Run: pytest tests/train/tasks/test_learning.py"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_lidit import lidit_config, random_states
from tiny_training import recipe_of
from torch import nn

from lidit_core.errors import LiDiTError
from lidit_core.model.dit import LiDiT
from lidit_core.text.spec import LLMSpec
from lidit_train.batch import Batch
from lidit_train.loop.muon import Muon, orthogonalised
from lidit_train.recipe import Content
from lidit_train.tasks.lidit.learner import LiDiTLearner
from lidit_train.tasks.task import open_task
from lidit_train.tasks.whitening import whiten, whiten_entries

CONFIG = replace(lidit_config("a", "b"), llms=(LLMSpec("a", 24), LLMSpec("b", 24)))


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (32, 32)])
def test_a_step_of_muon_goes_as_far_along_every_direction(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) * torch.logspace(0, -1.5, shape[1])
    matrices = torch.stack([matrix, 10 * matrix, matrix.flip(0) / 10])
    before = torch.linalg.svdvals(matrix)
    after = torch.linalg.svdvals(orthogonalised(matrices))
    assert before.max() / before.min() > 8
    assert after.min() > 0.3 and after.max() < 1.3


def test_muon_learns_a_matrix_and_a_kernel():
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(8, 8, bias=False), nn.Conv2d(2, 4, 3, bias=False)])
    goals = [torch.randn_like(layer.weight) for layer in layers]
    muon = Muon(layers.parameters(), lr=0.05)

    def loss():
        return sum((a.weight - b).square().mean() for a, b in zip(layers, goals, strict=True))

    first = loss().item()
    for _ in range(200):
        muon.zero_grad()
        loss().backward()
        muon.step()
    assert loss().item() < 0.05 * first


def test_a_whitened_layer_tells_apart_what_hardly_differs():
    torch.manual_seed(0)
    states = torch.randn(500, 24) * torch.logspace(1, -1, 24) + 30
    layer = nn.Linear(24, 16)
    whiten(layer, states)
    out = layer(states)
    assert out.mean(0).abs().max() < 1e-2
    assert torch.allclose(out.T @ out / len(out), torch.eye(16), atol=1e-2)


@pytest.mark.parametrize("noise", [0.0, 1e-40, 1e-7])
def test_states_that_do_not_vary_leave_a_layer_its_start(noise):
    """As those of captions that all say the same: rounding is not magnified to a million."""
    torch.manual_seed(0)
    states = torch.randn(24).expand(8, 24) + noise * torch.randn(8, 24)
    layer = nn.Linear(24, 16)
    before = layer.weight.clone()
    whiten(layer, states)
    assert torch.equal(layer.weight, before)
    whiten(layer, states[:0])
    assert torch.equal(layer.weight, before)


def test_states_that_vary_along_few_directions_are_whitened_along_those():
    torch.manual_seed(0)
    states = torch.randn(500, 2) @ torch.randn(2, 24) + 30
    layer = nn.Linear(24, 16)
    whiten(layer, states)
    out = layer(states)
    variances = torch.linalg.svdvals(out - out.mean(0)).square() / len(out)
    assert torch.allclose(variances[:2], torch.ones(2), atol=0.05) and variances[2:].max() < 1e-3


def test_states_that_are_no_numbers_are_refused():
    with pytest.raises(LiDiTError, match="not finite.*model.whiten=false"):
        whiten(nn.Linear(4, 4), torch.tensor([[1.0, 2.0, 3.0, float("nan")]]))


def test_the_entries_of_every_branch_are_whitened():
    model = LiDiT(CONFIG).initialise()
    before = [refiner.entry.weight.clone() for refiner in model.text_side.linguistic]
    whiten_entries(model, {0: random_states(9, seed=1)})
    after = [refiner.entry.weight for refiner in model.text_side.linguistic]
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])


def batch(content: torch.Tensor | None) -> Batch:
    x = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    text = {0: random_states(5, seed=1)[[0, 0]]}
    return Batch(x, torch.randn_like(x), torch.tensor([0.3, 0.8]), text, content)


def test_the_content_loss_teaches_a_block_what_each_patch_shows():
    torch.manual_seed(0)
    learner = LiDiTLearner(LiDiT(CONFIG).initialise(), Content(weight=1.0, block=0, classes=3))
    shown = torch.tensor([[[0, 1], [2, 2]], [[1, 1], [0, 2]]])
    lesson = batch(shown)
    optimiser = torch.optim.Adam(learner.parameters(), lr=3e-3)
    first = learner(lesson)[0].item()
    for _ in range(60):
        optimiser.zero_grad()
        learner(lesson)[0].backward()
        optimiser.step()
    plain = LiDiTLearner(learner.model)(lesson)[0].item()
    assert first - plain > 0.8  # log 3 = 1.10 before anything is known
    assert learner(lesson)[0].item() - plain < 0.1


def test_samples_of_half_the_weight_give_half_the_loss():
    torch.manual_seed(0)
    learner = LiDiTLearner(LiDiT(CONFIG).initialise(), Content(block=0, classes=3))
    lesson = batch(torch.tensor([[[0, 1], [2, 2]], [[1, 1], [0, 2]]]))
    whole, errors = learner(lesson)
    ones, _ = learner(replace(lesson, counted=torch.ones(2, 4, 4)))
    half, halved = learner(replace(lesson, counted=torch.full((2, 4, 4), 0.5)))
    assert ones.item() == pytest.approx(whole.item()) == pytest.approx(2 * half.item())
    assert torch.allclose(errors, 2 * halved)


def test_a_block_that_is_not_there_cannot_be_read(tmp_path):
    with pytest.raises(LiDiTError, match="after block 9"):
        open_task(recipe_of(tmp_path, "one", content={"block": 9}))

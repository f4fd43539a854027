"""Steps that a GPU replays. Run: pytest tests/train/loop/test_cuda_graph.py

A graph itself needs a GPU; that a step can be recorded is shown without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from tiny_lidit import lidit_config, randomise
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lidit_core.errors import LiDiTError
from lidit_core.model.config import PREDICTIONS
from lidit_core.model.dit import LiDiT
from lidit_core.text.states import INSTRUCTION, PADDING, PROMPT, LLMStates
from lidit_train.batch import Batch
from lidit_train.contrast import Contrasted
from lidit_train.loop.computing.cuda_graph import (
    GRAIN,
    Replayed,
    can_be_replayed,
    check_alone,
    copied,
    copy_into,
    of_fixed_shape,
    shape_of,
)
from lidit_train.recipe import (
    DELTA_SCHEDULES,
    LORA_KINDS,
    WEIGHTINGS,
    Alignment,
    Compute,
    Content,
    Contrast,
    Lora,
    Loss,
    Place,
    Routing,
)
from lidit_train.tasks.lidit.alignment import AlignmentHead
from lidit_train.tasks.lidit.learner import LiDiTLearner
from lidit_train.tasks.lidit.lora import add_lora
from lidit_train.tasks.lidit.places import PositionHead

CPU = torch.device("cpu")
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "lift_fresh")
LOSSES = [*(Loss(weighting=each) for each in WEIGHTINGS)]
LOSSES += [Loss(error="huber", delta_schedule=each) for each in DELTA_SCHEDULES]
BRANCHES = [(0,), (1,), (0, 1)]
LENGTHS = [(9, 20, 13), (7, 0, 31), (34, 5, 40)]  # tokens of a batch's captions; 0 = zeroed


def learner(prediction: str = "flow", **lessons) -> LiDiTLearner:
    torch.manual_seed(0)
    model = randomise(LiDiT(lidit_config("a", "b", prediction=prediction)))
    contrast = Contrast() if prediction == "flow" else None
    return LiDiTLearner(model, Content(block=1), contrast=contrast, **lessons)


def states(length: int, lengths: tuple[int, ...]) -> LLMStates:
    places, ends = torch.arange(length), torch.tensor(lengths)[:, None]
    roles = torch.where(places < ends, PROMPT, PADDING).int()
    roles[:, :4] = torch.where(ends > 0, INSTRUCTION, PADDING).int()
    return LLMStates(torch.randn(len(lengths), length, 32), roles)


def batch(branches: tuple[int, ...], lengths: tuple[int, ...], seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    size = len(lengths)
    x = torch.randn(size, 16, 4, 4)
    text = {i: states(max(lengths) + i, lengths) for i in branches}
    shown = torch.randint(0, 65, (size, 2, 2))
    contrasted = Contrasted(torch.randn_like(x), torch.tensor([True, False, True]))
    counted = torch.rand(size, 4, 4)
    made = Batch(x, torch.randn_like(x), torch.rand(size), text, shown, contrasted=contrasted)
    return replace(made, counted=counted)


def gradients(learner: LiDiTLearner, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    loss, errors = learner(batch)
    loss.backward()
    found = {n: p.grad for n, p in learner.named_parameters() if p.grad is not None}
    learner.zero_grad()
    return loss.detach(), errors, found


def assert_near(ours: tuple, theirs: tuple, most: float) -> None:
    assert torch.allclose(ours[0], theirs[0], rtol=most)
    assert torch.allclose(ours[1], theirs[1], rtol=most)
    assert set(ours[2]) == set(theirs[2])
    scale = max(gradient.abs().max() for gradient in theirs[2].values())
    for name, gradient in theirs[2].items():
        assert (ours[2][name] - gradient).abs().max() <= most * scale, name


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("branches", BRANCHES)
def test_a_fixed_shape_changes_no_loss_and_no_gradient(branches, lengths):
    model, given = learner(), batch(branches, lengths)
    assert_near(gradients(model, of_fixed_shape(given)), gradients(model, given), 1e-5)


def test_few_shapes_serve_all_lengths():
    near, far = batch((0, 1), (9, 20, 13)), batch((0, 1), (7, 0, 30))
    assert shape_of(of_fixed_shape(near)) == shape_of(of_fixed_shape(far))
    assert of_fixed_shape(near).states[1].roles.shape[1] == GRAIN
    others = [batch((0,), (9, 20, 13)), batch((0, 1), (9, GRAIN + 1, 13))]
    others += [
        replace(near, content=None),
        replace(near, counted=None),
        batch((0, 1), (9, 20, 13)).part(slice(2)),
    ]
    shapes = {shape_of(of_fixed_shape(each)) for each in (near, *others)}
    assert len(shapes) == 6


class StaysOnDevice(TorchDispatchMode):
    """Notes what a CUDA graph cannot record: looks at tensors, and tensors of another device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.seen = device, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        made = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, made)) if isinstance(t, Tensor)]
        if name in WAITS or any(t.device.type != self.device for t in tensors):
            self.seen.append(name)
        return made


def moved(given: Batch, device: str) -> Batch:
    def to(tensor: Tensor) -> Tensor:
        return tensor.to(device)

    text = {
        i: LLMStates(to(states.hidden), to(states.roles), states.rows)
        for i, states in given.states.items()
    }
    contrasted, content = given.contrasted, given.content
    assert contrasted is not None and content is not None
    contrasted = Contrasted(to(contrasted.velocity), to(contrasted.apart))
    x, noise, time = to(given.x), to(given.noise), to(given.time)
    some = {name: getattr(given, name) for name in ("counted", "features", "kept")}
    rest = {name: to(tensor) for name, tensor in some.items() if tensor is not None}
    made = replace(given, content=to(content), contrasted=contrasted, **rest)
    return replace(made, x=x, noise=noise, time=time, states=text)


def left_by_a_step(model: LiDiTLearner, given: Batch) -> list[str]:
    """What a step does elsewhere than on its device, after one that fills what is kept."""
    model, given = model.to("meta"), moved(of_fixed_shape(given), "meta")
    model(given)[0].backward()
    with StaysOnDevice("meta") as watch:
        model(given)[0].backward()
    return watch.seen


@pytest.mark.parametrize(
    ("branches", "kind"), [*((read, "") for read in BRANCHES), *(((0, 1), k) for k in LORA_KINDS)]
)
def test_a_step_never_leaves_its_device(branches, kind):
    model = learner()
    if kind:
        model.lora = add_lora(model.model, Lora(4, kind=kind))
    assert left_by_a_step(model, batch(branches, LENGTHS[1])) == []


@pytest.mark.parametrize(
    ("prediction", "loss"),
    [*((p, LOSSES[0]) for p in PREDICTIONS), *(("v", x) for x in LOSSES[1:])],
)
def test_no_prediction_and_no_loss_leaves_the_device(prediction, loss):
    model = learner(prediction, loss=loss)
    assert left_by_a_step(model, batch((0, 1), LENGTHS[1])) == []


@pytest.mark.parametrize("spatial", [False, True])
def test_no_lesson_leaves_the_device(spatial):
    """Features of an encoder, places, and tokens that go around blocks."""
    lessons = Alignment("encoder", block=1, spatial=spatial), Place(block=1)
    taught = {"aligned": AlignmentHead(lessons[0], 32, 6), "placed": PositionHead(lessons[1], 32)}
    model = learner(**taught, routing=Routing(first=0, last=0))
    given = batch((0, 1), LENGTHS[1])
    kept = torch.stack([torch.arange(2)] * len(given))
    given = replace(given, features=torch.randn(len(given), 6, 2, 2), kept=kept)
    assert left_by_a_step(model, given) == []


def test_the_watch_sees_a_constant_and_a_look():
    with StaysOnDevice("meta") as watch:
        torch.zeros(3, device="meta") + torch.tensor(1.0)
    assert watch.seen
    with StaysOnDevice("cpu") as watch:
        torch.ones(3).sum().item()
    assert watch.seen


def every_tensor(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from every_tensor(each)
    elif is_dataclass(value):
        for field in fields(value):
            yield from every_tensor(getattr(value, field.name))


def test_a_recording_is_given_every_tensor_of_a_batch():
    """Also of fields that a batch is given later: what is not copied would keep its first value."""
    first, second = (of_fixed_shape(batch((0, 1), LENGTHS[0], seed)) for seed in (0, 1))
    kept = copied(first)
    assert len(list(every_tensor(kept))) == 11
    places = {tensor.data_ptr() for tensor in every_tensor(kept)}
    assert not places & {tensor.data_ptr() for tensor in every_tensor(first)}
    copy_into(second, kept)
    ours, theirs = list(every_tensor(kept)), list(every_tensor(second))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert places == {tensor.data_ptr() for tensor in ours}


@pytest.mark.parametrize("name", ["micro_batch", "checkpointing", "compile", "shard"])
def test_what_cannot_be_recorded_is_refused(name):
    check_alone(Compute(cuda_graph=True))
    check_alone(Compute(**{name: 1}))
    with pytest.raises(LiDiTError, match=f"cuda_graph beside {name}; expected it alone"):
        check_alone(Compute(cuda_graph=True, **{name: 1}))


def test_several_processes_are_refused_and_a_cpu_goes_without(caplog):
    with pytest.raises(LiDiTError, match="2 processes were started; expected one"):
        can_be_replayed(Compute(cuda_graph=True), 2, CPU)
    assert can_be_replayed(Compute(), 2, CPU) is False and not caplog.text
    assert can_be_replayed(Compute(cuda_graph=True), 1, CPU) is False
    assert "on cpu steps run as ever" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_replays_what_it_would_compute():
    model = learner().to("cuda")

    def run(part: Batch) -> tuple[Tensor, Tensor]:
        loss, errors = model(part)
        loss.backward()
        return loss.detach(), errors

    replayed = Replayed(run, model)
    for seed in range(3):
        for branches in BRANCHES:
            for lengths in LENGTHS:
                given = moved(batch(branches, lengths, seed), "cuda")
                expected = gradients(model, given)
                loss, errors = replayed(given)
                found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
                assert_near((loss, errors, found), expected, 1e-3)
                model.zero_grad()
    assert len(replayed.recordings) == 2 * len(BRANCHES)

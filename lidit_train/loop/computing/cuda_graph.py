"""Steps that a GPU replays as one CUDA graph (recipe: ``compute.cuda_graph``).

A small model computes faster than Python can launch its kernels; a graph is launched as a whole.
PyTorch, *CUDA semantics: CUDA Graphs*, whole-network capture: forward and backward pass of a shape
of batch are recorded once, with inputs, gradients and results at fixed addresses, and replayed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import zip_longest

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lidit_core.errors import check
from lidit_core.text.rows import Rows
from lidit_core.text.states import LLMStates

from ...batch import Batch
from ...recipe import Compute

log = logging.getLogger(__name__)

GRAIN = 32  # tokens: texts are padded to multiples, so that a few graphs serve all batches
WARM_UP = 3  # passes before recording, in which libraries allocate what they keep

ForwardBackward = Callable[[Batch], tuple[Tensor, Tensor]]  # loss () and errors (B,)


def check_alone(compute: Compute) -> None:
    """Raise a LiDiTError where a recipe asks for what cannot be recorded."""
    names = ("micro_batch", "checkpointing", "compile", "shard") if compute.cuda_graph else ()
    beside = [name for name in names if getattr(compute, name)]
    check(
        not beside,
        f"the recipe's compute has cuda_graph beside {', '.join(beside)}; expected it alone, for "
        "a model whose whole batch one GPU takes at once: leave one of them out",
    )


def can_be_replayed(compute: Compute, processes: int, device: torch.device) -> bool:
    """Tell whether steps are recorded: as the recipe says, on a GPU.

    Raises:
        LiDiTError: there are several processes.
    """
    if not compute.cuda_graph:
        return False
    check(
        processes == 1,
        f"the recipe has compute.cuda_graph, and {processes} processes were started; expected one",
    )
    if device.type != "cuda":
        log.warning("compute.cuda_graph is for CUDA devices; on %s steps run as ever", device.type)
    return device.type == "cuda"


def of_fixed_shape(batch: Batch) -> Batch:
    """The same batch with texts of a few lengths, and nothing that Python knows of their rows.

    The loss and its gradients are the same: what is added is padding, and masked.
    """
    padded = {i: _padded(states) for i, states in batch.states.items()}
    return replace(batch, states=padded, used={})


def _padded(states: LLMStates) -> LLMStates:
    length = max(-(-states.roles.shape[1] // GRAIN), 1) * GRAIN
    padded, first = states.padded(length), states.rows.first
    unknown = Rows(each=(), all_seen=False, first=first, all_kept=False, present=False)
    return LLMStates(padded.hidden, padded.roles, unknown)


def shape_of(batch: Batch) -> tuple:
    """What tells batches apart that a recording serves: shapes, branches, their instructions."""
    firsts = tuple((i, states.rows.first) for i, states in batch.states.items())
    return firsts, tuple((name, tuple(t.shape)) for name, t in _tensors(batch))


def _tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """Everything in a batch that lies on the device, by name."""
    yield from (("x", batch.x), ("noise", batch.noise), ("time", batch.time))
    for i, states in batch.states.items():
        yield from ((f"hidden {i}", states.hidden), (f"roles {i}", states.roles))
    if batch.content is not None:
        yield "content", batch.content
    if batch.counted is not None:
        yield "counted", batch.counted
    if batch.contrasted is not None:
        yield from (("velocity", batch.contrasted.velocity), ("apart", batch.contrasted.apart))
    if batch.kept is not None:
        yield "kept", batch.kept
    if batch.features is not None:
        yield "features", batch.features


def copied(batch: Batch) -> Batch:
    """The batch in memory of its own."""
    contrasted = batch.contrasted
    if contrasted is not None:
        contrasted = type(contrasted)(contrasted.velocity.clone(), contrasted.apart.clone())
    return replace(
        batch,
        x=batch.x.clone(),
        noise=batch.noise.clone(),
        time=batch.time.clone(),
        states={
            i: LLMStates(states.hidden.clone(), states.roles.clone(), states.rows)
            for i, states in batch.states.items()
        },
        content=None if batch.content is None else batch.content.clone(),
        contrasted=contrasted,
        counted=None if batch.counted is None else batch.counted.clone(),
        kept=None if batch.kept is None else batch.kept.clone(),
        features=None if batch.features is None else batch.features.clone(),
    )


def copy_into(batch: Batch, other: Batch) -> None:
    """Copy a batch's tensors into those of another of the same shape."""
    for (name, theirs), (same, ours) in zip_longest(_tensors(other), _tensors(batch)):
        assert name == same  # as shape_of tells
        theirs.copy_(ours, non_blocking=True)


class RecordedGraph:
    """One shape of batch: its graph, and the memory that the graph reads and writes."""

    def __init__(
        self, run: ForwardBackward, parameters: list[nn.Parameter], batch: Batch, pool
    ) -> None:
        self.batch = copied(batch)
        _warm_up(run, parameters, self.batch)
        self.graph = torch.cuda.CUDAGraph()
        # Threads that pin memory for the loader go on meanwhile.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.loss, self.errors = run(self.batch)
        self.gradients = [(p, p.grad) for p in parameters if p.grad is not None]

    def replay(self, batch: Batch) -> tuple[Tensor, Tensor]:
        copy_into(batch, self.batch)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.loss, self.errors


def _warm_up(run: ForwardBackward, parameters: list[nn.Parameter], batch: Batch) -> None:
    """Run a few times on a stream of its own, and leave no gradient behind."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run(batch)
            for parameter in parameters:
                parameter.grad = None
    torch.cuda.current_stream().wait_stream(stream)


class Replayed:
    """Runs batches by recordings, one for each shape of batch, made when it first comes.

    Called with a batch it gives the loss () and the errors (B,), which the next call overwrites,
    and leaves gradients at the learner's parameters, as a backward pass does on none.
    """

    def __init__(self, run: ForwardBackward, learner: nn.Module) -> None:
        self.run = run
        self.parameters = [p for p in learner.parameters() if p.requires_grad]
        self.recordings: dict[tuple, RecordedGraph] = {}
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        batch = of_fixed_shape(batch)
        recording = self.recordings.get(shape_of(batch))
        if recording is None:
            recording = RecordedGraph(self.run, self.parameters, batch, self.pool)
            self.recordings[shape_of(batch)] = recording
            log.info("recorded CUDA graph %d", len(self.recordings))
        return recording.replay(batch)


def replayed(
    run: ForwardBackward, learner: nn.Module, compute: Compute, accelerator: Accelerator
) -> Replayed | None:
    """What runs batches by recordings, where the recipe asks for it and there is a GPU."""
    if can_be_replayed(compute, accelerator.num_processes, accelerator.device):
        return Replayed(run, learner)
    return None

"""What training a bridge will need, before any weight is loaded: memory, operations, time, disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lidit_core.bridge.config import BridgeConfig
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.recorded import RecordedPrompts
from lidit_core.bridge.rows import OwnRows, StudentTokens, TeacherRows, stack_rows
from lidit_core.text.states import PROMPT, LLMStates

from ...data.room import free_disk, states_bytes
from ...data.token_guess import LETTERS, text_tokens
from ...loop.learning_rate import decay_start
from ...loop.parallel import share
from ...plan.counting import META, Cost, count
from ...plan.hardware import THIS_CPU, Device, find_hardware
from ...plan.llm_size import LLMSize, llm_size
from ...plan.workload import FLOAT32
from ...recipe import Recipe
from ..adapter.target import UNetTarget
from .assumed import AssumedPrompts
from .unet.plan import ThroughPlan, make_through_plan

SAMPLE = 256  # prompts whose rows are counted
FITTED = 2 + 2  # passes of ridge over the prompts, and sums of the held out ones, as products


@dataclass(frozen=True)
class BridgePlan:
    recipe: Recipe
    config: BridgeConfig
    device: Device
    llms: tuple[LLMSize, ...]
    prompts: int  # with those that are held out
    held_out: int
    rows: int  # of a prompt, the mean
    letters: int  # of a prompt, the mean
    trained: int  # numbers that learn
    frozen: int  # numbers that do not: the base, and what is known of the teacher's ids
    cost: Cost  # of one prompt, for the bridge itself
    cpu: Device  # that computes the base, and measures them
    free: int  # bytes on the run's disk
    through: ThroughPlan | None = None  # the U-Net that is trained through
    recording: int = 0  # bytes that it will take; 0 = it is there
    assumed: tuple[str, ...] = ()  # lines on what is not there yet

    @property
    def mixed(self) -> bool:
        """Whether precision is mixed; a CPU does without."""
        return self.recipe.compute.precision == "bf16" and not self.device.is_cpu

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of a prompt with its template, by LLM; guessed from its letters."""
        guessed = text_tokens(self.config.llms, -(-self.letters // LETTERS))
        return tuple(guessed[i].read for i in range(len(self.config.llms)))

    @property
    def micro(self) -> int:
        """Prompts that a process takes at once, at most."""
        shares = [self._share(stage.batch) for stage in self.recipe.stages]
        return min(self.recipe.compute.micro_batch or max(shares), max(shares))

    def _share(self, batch: int) -> int:
        rows = share(batch, 0, self.recipe.hardware.count)
        return rows.stop - rows.start

    def memory(self) -> dict[str, int]:
        """The bytes of each part in one process."""
        saved, unet = self.cost.saved, {}
        if self.through is not None:
            saved += self.through.saved
            unet = self.through.unet.memory(self.recipe.compute, self.mixed)
        return {
            **unet,
            "bridge, gradients, moments, average": 5 * FLOAT32 * self.trained,
            "base and table, frozen": FLOAT32 * self.frozen,
            "activations of a micro batch": saved * self.micro,
        }

    def reading(self) -> dict[str, int]:
        """The same while the LLMs read the prompts, one after the other."""
        number = FLOAT32 if self.device.is_cpu else 2
        return {llm.name: llm.parameters * number for llm in self.llms}

    @property
    def peak(self) -> int:
        return max(sum(self.memory().values()), *self.reading().values())

    def seconds(self, stage: int) -> float:
        """The seconds of a step."""
        speed = self.device.share * self.device.peak(self.recipe.compute.precision)
        return self.flops(stage) * self._share(self.recipe.stages[stage].batch) / speed

    def flops(self, stage: int) -> float:
        """The operations of training on one prompt."""
        each = self.cost.forward + self.cost.backward
        return each + (self.through.flops(stage) if self.through is not None else 0)

    @property
    def reading_seconds(self) -> float:
        """The seconds that the LLMs take over all prompts."""
        speed = self.device.share * self.device.peak(self.recipe.compute.precision)
        flops = sum(llm.flops(n) for llm, n in zip(self.llms, self.tokens))
        return flops * self.prompts / self.recipe.hardware.count / speed

    @property
    def fits_ridge(self) -> bool:
        """Whether a base is computed: it is not the encoder that is added to, nor in a file."""
        options = self.recipe.bridge
        return not self.config.add and not (options is not None and options.checkpoint)

    @property
    def ridge_seconds(self) -> float:
        """The seconds of the base, which the CPU computes: of its products alone."""
        each = self.rows * self.config.state_width
        flops = 2 * each * (self.config.state_width + self.config.teacher.width + sum(self.tokens))
        return FITTED * flops * self.prompts / (self.cpu.share * self.cpu.float32)

    @property
    def files(self) -> int:
        """Files that the run writes, each of which tells how held out prompts are written."""
        recipe, steps = self.recipe, self.recipe.steps
        if recipe.checkpoints.weights == "none":
            return 1
        saved = {*range(recipe.checkpoints.every, steps, recipe.checkpoints.every), steps}
        return len(saved | {decay_start(steps, recipe.optimiser.decay)} - {0})

    @property
    def measuring_seconds(self) -> float:
        """The seconds of the held-out prompts, which the first process measures for each file.

        What is measured through a U-Net comes to it, on the device.
        """
        flops = self.files * self.held_out * self.cost.forward
        seconds = flops / (self.cpu.share * self.cpu.float32)
        if self.through is None:
            return seconds
        speed = self.device.share * self.device.peak(self.recipe.compute.precision)
        return seconds + self.through.measured(self.recipe, self.held_out) / speed

    @property
    def disk(self) -> int:
        """Bytes of the LLMs' states."""
        guessed = text_tokens(self.config.llms, -(-self.letters // LETTERS))
        return self.prompts * sum(
            states_bytes(llm.state_width, guessed[i], self.recipe.cache.dtype)
            for i, llm in enumerate(self.config.llms)
        )


def make_bridge_plan(
    recipe: Recipe,
    config: BridgeConfig,
    prompts: RecordedPrompts | AssumedPrompts,
    folder: str | Path = ".",
    unet: UNetTarget | None = None,
    device: Device | None = None,
) -> BridgePlan:
    options = recipe.bridge
    assert options is not None  # `make_task` has seen to it
    device = device or find_hardware(recipe.hardware.device)
    learnt, held_out = prompts.split(options.held_out, recipe.seed)
    spread = learnt[:: max(1, len(learnt) // SAMPLE)][:SAMPLE]
    rows = [len(prompts.rows(n).ids) for n in spread]
    letters = sum(len(prompts.texts[n]) for n in spread) // len(spread)
    bridge = Bridge(config, device=META)
    median = sorted(spread, key=lambda n: len(prompts.rows(n).ids))[len(spread) // 2]
    mixed = recipe.compute.precision == "bf16" and not device.is_cpu
    mean_rows = -(-sum(rows) // len(rows))
    sources = options.llms or [llm.name for llm in config.llms]
    return BridgePlan(
        recipe,
        config,
        device,
        tuple(llm_size(llm, source) for llm, source in zip(config.llms, sources)),
        len(learnt) + len(held_out),
        len(held_out),
        mean_rows,
        letters,
        sum(p.numel() for p in bridge.parameters()),
        sum(b.numel() for b in bridge.buffers()),
        bridge_cost(bridge, stack_rows([prompts.rows(median)]), letters, mixed),
        device if device.is_cpu else find_hardware(THIS_CPU),
        free_disk(Path(recipe.cache.folder or folder)),
        None if unet is None else make_through_plan(recipe, unet, mean_rows, mixed),
        prompts.size if isinstance(prompts, AssumedPrompts) else 0,
    )


def bridge_cost(bridge: Bridge, rows: TeacherRows, letters: int, mixed: bool) -> Cost:
    """The cost of one prompt, counted on the meta device.

    Args:
        rows: of that prompt.
    """
    own = _own(bridge, rows) if bridge.config.add else None
    rows = rows.to(META)
    guessed = text_tokens(bridge.config.llms, -(-letters // LETTERS))
    students = []
    for i, llm in enumerate(bridge.config.llms):
        length = guessed[i].read
        hidden = torch.empty(1, length, llm.state_width, device=META)
        roles = torch.full((1, length), PROMPT, dtype=torch.int32)
        spans = torch.empty(1, length, 2, device=META)
        students.append(StudentTokens(LLMStates(hidden, roles), spans))
    return count(lambda _: bridge(students, rows, own=own).sequence, bridge.parameters(), mixed)


def _own(bridge: Bridge, rows: TeacherRows) -> OwnRows:
    """What the encoder that is added to writes, on the meta device."""
    spec = bridge.config.teacher
    sequence = torch.empty(*rows.ids.shape, spec.width, device=META)
    pooled = torch.empty(1, spec.pooled, device=META) if spec.pooled else None
    made = OwnRows.of(sequence, pooled, rows, spec.masked).tokens
    return OwnRows(StudentTokens(made.states, made.spans.to(META)), pooled)

"""A bridge's steps through a model, in the place of a sampler's."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.samplers
import torch
from comfy import model_management
from torch import Tensor

from ....lidit_core.bridge.encode import POOLED, OwnEntry, with_added, written
from ....lidit_core.bridge.file import LoadedBridge
from ....lidit_core.errors import LiDiTError, check
from ....lidit_core.io.conditioning import Entry
from ...node_notes import note, report
from .gradients import Gradients
from .measuring import MOST, HeldOutTrajectories
from .prompts import Prompts
from .run_state import RunState
from .trajectories import Denoiser, Point, TrajectoryOptions, drawn

WARMUP, DECAY = 0.05, 0.3  # shares of the steps over which the rate rises, and falls to 0
LARGEST = 1.0  # norm of a step's gradient
TRIED, ALIKE = (
    64,
    0.05,
)  # side of the latents on which a gradient is tried, and how near it has to be


@dataclass(frozen=True)
class Options:
    """How a bridge is trained; see the node."""

    steps: int
    prompts: int  # a step
    learning_rate: float
    trajectory: int  # steps of one
    points: int
    lowest_cfg: float
    highest_cfg: float
    save_every: int
    seed: int
    blocks: int = 0  # after so many of the model's the states are compared; 0 = the prediction is

    def __post_init__(self) -> None:
        check(
            self.points <= self.trajectory,
            f"points is {self.points} and a trajectory has {self.trajectory} steps; expected no "
            "more points than steps",
        )
        check(
            self.lowest_cfg <= self.highest_cfg,
            f"lowest_cfg is {self.lowest_cfg:g} and highest_cfg {self.highest_cfg:g}; expected the "
            "lower one first",
        )

    @property
    def asked(self) -> TrajectoryOptions:
        """The settings of the trajectories that are drawn."""
        return TrajectoryOptions(self.trajectory, self.points, (self.lowest_cfg, self.highest_cfg))

    def rate(self, step: int) -> float:
        """The learning rate of a step: it rises, stays, and falls to 0."""
        rise, fall = max(1, WARMUP * self.steps), max(1, DECAY * self.steps)
        return self.learning_rate * min(1, (step + 1) / rise, (self.steps - step) / fall)


@dataclass(eq=False)
class TrainingSampler(comfy.samplers.Sampler):
    """Trains a bridge where the host would have a sampler draw.

    The bridge runs once a prompt. At each point of its trajectory the model runs once more, and
    what the error asks of the conditioning is summed there, so that one point is in memory.

    Args:
        made: the bridge that learns.
        share: of the prompts that are held out.
    """

    made: LoadedBridge
    prompts: Prompts
    options: Options
    state: RunState
    gradients: Gradients
    share: float
    show: Callable[..., Any] = lambda *_: None  # the host's callback: step, picture, latents, steps
    figures: dict[str, Any] = field(default_factory=dict)  # once it has been measured
    orders: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        recorded, options = self.prompts.recorded, self.options
        learnt, held_out = recorded.split(self.share, options.seed)
        empty = self.made.is_empty
        self.learnt, held_out = (
            [number for number in part if not empty(recorded.texts[number])]
            for part in (learnt, held_out)
        )
        check(
            bool(self.learnt and held_out),
            f"the recording {recorded.recording.folder.name} holds too few prompts with text; "
            "record a collection",
        )
        measured = held_out[:: max(1, len(held_out) // MOST)][:MOST]
        given = options.asked, options.seed, self.write
        self.held_out = HeldOutTrajectories(self.prompts, measured, *given)

    def numbers(self) -> list[int]:
        """The numbers of all prompts that the run reads."""
        return [*self.held_out.numbers, *self.learnt_from()]

    def learnt_from(self) -> list[int]:
        """The numbers of the prompts that all steps learn from, in their order."""
        return [n for step in range(self.options.steps) for n in self.rows(step)]

    def rows(self, step: int) -> list[int]:
        """The prompts of a step: every one once before any comes again."""
        first, count = step * self.options.prompts, len(self.learnt)
        places = range(first, first + self.options.prompts)
        return [self._order(place // count)[place % count] for place in places]

    def _order(self, time: int) -> list[int]:
        """The order in which the prompts come for the first time, the second, …"""
        if time not in self.orders:
            order = self.orders[time] = list(self.learnt)
            random.Random(f"{self.options.seed} {time}").shuffle(order)
        return self.orders[time]

    def write(self, number: int) -> Entry:
        """The bridge's conditioning of a prompt, with gradients."""
        text, states = self.prompts.recorded.texts[number], self.prompts.states[number]
        own = self.prompts.own_entry(number)
        if own is None:
            return written(self.made, text, states)
        return with_added(self.made, text, states, OwnEntry(own, own))

    def sample(self, guider, sigmas, extra_args, callback, noise, latent_image, *_, **__):
        """The host calls this with a model that is loaded; gives the latents as they came."""
        with torch.inference_mode(False), torch.enable_grad():
            denoiser = Denoiser(guider, latent_image, extra_args["model_options"])
            bridge = self.made.bridge.to(denoiser.device).train()
            optimiser = torch.optim.AdamW(bridge.parameters(), lr=0.0, weight_decay=0.0)
            step, before = self.state.load(bridge, optimiser)
            self._check_gradient(denoiser)
            if before is None:
                before = self.held_out.measure(denoiser, "measuring before")
            self._learn(denoiser, optimiser, step, before)
            after = self.held_out.measure(denoiser, "measuring after")
        held_out = len(self.held_out.numbers)
        self.figures.update({"before": before, "after": after, "held out": held_out})
        return latent_image

    def _learn(self, denoiser: Denoiser, optimiser, step: int, before) -> None:
        """All steps from one on; those that are done are kept whatever ends it."""
        bridge, options, done = self.made.bridge, self.options, step
        try:
            while done < options.steps:
                error, seen, x = self._step(denoiser, optimiser, done)
                done += 1
                report(f"step {done} of {options.steps}: error {error:.5f}")
                self.show(done - 1, seen, x, options.steps)
                if done % options.save_every == 0:
                    self.state.save(bridge, optimiser, done, before)
        finally:
            self.state.save(bridge, optimiser, done, before)

    def _step(self, denoiser: Denoiser, optimiser, step: int) -> tuple[float, Tensor, Tensor]:
        """Train one step; return its error, and latents for a preview."""
        bridge, options, total = self.made.bridge, self.options, 0.0
        optimiser.zero_grad(set_to_none=True)
        seen = x = denoiser.latent
        for row, number in enumerate(self.rows(step)):
            error, seen, x = self._prompt(denoiser, step, row, number)
            total += error / options.prompts
        norm = torch.nn.utils.clip_grad_norm_(bridge.parameters(), LARGEST)
        if not torch.isfinite(norm):
            raise LiDiTError(
                f"the gradient of step {step + 1} is not finite; choose another name and a lower "
                f"learning_rate than {options.learning_rate:g}"
            )
        for group in optimiser.param_groups:
            group["lr"] = options.rate(step)
        optimiser.step()
        return total, seen, x

    def _prompt(self, denoiser: Denoiser, step: int, row: int, number: int):
        """Add a prompt's gradient; return its mean error, and the last picture and latents."""
        recorded, options = self.prompts.entry(number), self.options
        shape = denoiser.latent.shape
        way = drawn(options.asked, denoiser.sampling, shape, options.seed, step, row)
        points = denoiser.along(way, recorded, self.made.empty, options.blocks)
        ours = self.write(number)
        leaf, share = _leaf(ours), 1 / len(points) / options.prompts
        total, seen, x = 0.0, denoiser.latent, denoiser.latent
        for point in points:
            error, seen = self._point(denoiser, point, leaf, share)
            total, x = total + error / len(points), point.x
        self._back(ours, leaf, denoiser.model)
        return total, seen, x

    def _point(self, denoiser: Denoiser, point: Point, leaf: Entry, share: float):
        """Add a point's gradient at the conditioning; return the point's error and the picture.

        Args:
            share: of the point in the step's error.
        """
        blocks, seen = self.options.blocks, point.wanted
        with self.gradients.remembered():
            conds = denoiser.read(positive=leaf)["positive"]
            if blocks:
                error = denoiser.states_error(point, conds, blocks)
            else:
                error, seen = denoiser.error(point, conds)
            if error.requires_grad:
                (error * share).backward()
        return float(error.detach()), seen.detach()

    def _check_gradient(self, denoiser: Denoiser) -> None:
        """Refuse what no gradient passes, and to compute blocks once more where that loses of it.

        It is tried on small latents, as what it is compared with takes more memory. (On smaller
        ones PixArt divides by zero.)

        Raises:
            LiDiTError: none reaches the conditioning, or both ways do not give the same one.
        """
        small, number = denoiser.cropped(TRIED), self.held_out.numbers[0]
        asked, shape = replace(self.options.asked, points=1), small.latent.shape
        way = drawn(asked, small.sampling, shape, self.options.seed)
        recorded, empty = self.prompts.entry(number), self.made.empty
        point = small.along(way, recorded, empty, self.options.blocks)[0]
        ours, found, twice = self.write(number), [], self.gradients.checkpointing
        try:
            for checkpointing in (False, True) if twice else (False,):
                self.gradients.checkpointing, leaf = checkpointing, _leaf(ours)
                self._point(small, point, leaf, 1.0)
                found.append(self._gathered(leaf, small.model))
        except model_management.OOM_EXCEPTION:
            if twice:
                note(
                    "there is no memory to see whether checkpointing changes this model's gradient"
                )
            return
        finally:
            self.gradients.checkpointing = twice
        apart = float((found[0] - found[-1]).norm() / found[0].norm().clamp(min=1e-12))
        check(
            apart < ALIKE,
            f"checkpointing changes the gradient through {type(small.model).__name__} by "
            f"{apart:.0%}; turn checkpointing off",
        )

    def _gathered(self, leaf: Entry, model: Any) -> Tensor:
        """The gradient of the errors at the conditioning's rows."""
        gradient, name, blocks = leaf[0].grad, type(model).__name__, self.options.blocks
        if gradient is None and blocks:
            raise LiDiTError(
                f"blocks is {blocks}, and {name} reads no conditioning by then; expected more of "
                "its blocks, or 0 for the prediction"
            )
        if gradient is None:
            raise LiDiTError(
                f"no gradient reaches the conditioning through {name}, so that no bridge learns "
                "through it; train it from its recording with `lidit train`"
            )
        return gradient

    def _back(self, ours: Entry, leaf: Entry, model: Any) -> None:
        """Pass the gradient at the conditioning on to the bridge."""
        own, asked = [ours[0]], [self._gathered(leaf, model)]
        pooled, theirs = ours[1].get(POOLED), leaf[1].get(POOLED)
        if isinstance(pooled, Tensor) and isinstance(theirs, Tensor) and theirs.grad is not None:
            own.append(pooled)
            asked.append(theirs.grad)
        torch.autograd.backward(own, [grad.to(to.dtype) for to, grad in zip(own, asked)])


def _leaf(entry: Entry) -> Entry:
    """The conditioning by itself, to gather what errors ask of it."""
    sequence, values = entry
    own = dict(values)
    if isinstance(pooled := own.get(POOLED), Tensor) and pooled.requires_grad:
        own[POOLED] = pooled.detach().float().requires_grad_(True)
    return sequence.detach().float().requires_grad_(True), own

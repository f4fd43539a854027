"""Ways from noise to a picture, and what a model says along them.

Shapes: latents (1, C, h, w), or as the model has them.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from comfy import model_management
from comfy.sampler_helpers import convert_cond
from torch import Tensor

from ....lidit_core.io.conditioning import Entry
from .hidden_states import hidden_states, states_error

SCHEDULER, PARTS = "simple", 8  # of the steps; each begins at one of so many parts of a step


@dataclass(frozen=True)
class TrajectoryOptions:
    """The settings of the trajectories that are drawn."""

    steps: int
    points: int  # of the steps, at which is learnt
    guidance: tuple[float, float]  # drawn between these


@dataclass(frozen=True, eq=False)
class Way:
    """One trajectory: its noise, noise levels from the highest down to 0, and its guidance."""

    noise: Tensor
    sigmas: Tensor  # (steps + 1,)
    points: tuple[int, ...]  # of the steps, in order
    guidance: float


@dataclass(frozen=True, eq=False)
class Point:
    """A point of a trajectory, and the picture that the model saw there."""

    x: Tensor
    sigma: Tensor  # (1,)
    wanted: Tensor
    states: Sequence[Tensor] = ()  # after some of its blocks, where these are compared


def drawn(asked: TrajectoryOptions, sampling: Any, shape: Sequence[int], *of: int) -> Way:
    """A trajectory for training; chance depends on the numbers `of` alone."""
    chance = _seeded(*of)
    moved = int(torch.randint(PARTS, (), generator=chance))
    scale = torch.rand((), generator=chance).item()
    points = torch.randperm(asked.steps, generator=chance)[: asked.points].sort().values
    noise = torch.randn(tuple(shape), generator=chance)
    return _way(asked, sampling, noise, points.tolist(), moved, scale)


def even(
    asked: TrajectoryOptions, sampling: Any, shape: Sequence[int], points: int, *of: int
) -> Way:
    """A trajectory to be measured at so many points, spread evenly, as a sampler goes."""
    chance = _seeded(*of)
    scale = torch.rand((), generator=chance).item()
    places = ((torch.arange(points) + 0.5) * asked.steps / points).long().unique()
    noise = torch.randn(tuple(shape), generator=chance)
    return _way(asked, sampling, noise, places.tolist(), 0, scale)


def _seeded(*of: int) -> torch.Generator:
    digest = hashlib.blake2b(repr(of).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def _way(
    asked: TrajectoryOptions,
    sampling: Any,
    noise: Tensor,
    points: list[int],
    moved: int,
    scale: float,
) -> Way:
    """Make one trajectory of what chance has decided.

    Args:
        points: steps that are looked at, in order.
        moved: by how many parts of a step all noise levels after the first lie higher.
        scale: of the guidance, in [0, 1] from the lowest to the highest that is asked for.
    """
    fine = comfy.samplers.calculate_sigmas(sampling, SCHEDULER, asked.steps * PARTS)
    places = torch.arange(asked.steps) * PARTS - moved
    sigmas = torch.cat([fine[places.clamp(min=0)], fine[-1:]]).float()
    low, high = asked.guidance
    return Way(noise, sigmas, tuple(points), low + scale * (high - low))


class Denoiser:
    """What the model of a guider that samples makes of noisy latents.

    It goes through the host's own machinery for conditioning, so that a model reads pooled vectors,
    masks and all else as it does when it draws.
    """

    def __init__(self, guider: Any, latent: Tensor, options: Mapping[str, Any]) -> None:
        self.model, self.options = guider.inner_model, dict(options)
        self.device, self.latent = guider.model_patcher.load_device, latent

    def cropped(self, side: int) -> Denoiser:
        """The same on latents that are no larger than a side."""
        made = copy.copy(self)
        made.latent = self.latent[..., :side, :side]
        return made

    @property
    def sampling(self) -> Any:
        return self.model.model_sampling

    def read(self, **entries: Entry) -> dict[str, list[dict]]:
        """Conditioning as the model takes it, by name."""
        conds = {name: convert_cond([list(entry)]) for name, entry in entries.items()}
        latent = self.latent.to(self.device)
        return comfy.samplers.process_conds(self.model, latent, conds, self.device, latent)

    def __call__(self, x: Tensor, sigma: Tensor, *conds: list[dict]) -> list[Tensor]:
        """The picture that the model sees in noisy latents, for each conditioning.

        Raises:
            InterruptProcessingException: the user has stopped the run.
        """
        model_management.throw_exception_if_processing_interrupted()
        return comfy.samplers.calc_cond_batch(self.model, list(conds), x, sigma, self.options)

    @torch.no_grad()
    def along(self, way: Way, recorded: Entry, empty: Entry, blocks: int = 0) -> list[Point]:
        """Go along a trajectory by what the encoder wrote, up to its last point, by Euler's steps.

        Guidance of 1 needs no empty prompt.

        Args:
            blocks: after so many the points hold the model's states; 0 = they hold none.
        """
        conds = self.read(positive=recorded, negative=empty)
        sigmas, found = way.sigmas.to(self.device), []
        noise, still = way.noise.to(self.device), self.latent.to(self.device)
        x = self.sampling.noise_scaling(sigmas[0], noise, still, True)
        for step in range(way.points[-1] + 1):
            sigma, last = sigmas[step : step + 1], step == way.points[-1]
            alone = last or way.guidance == 1
            asked = (conds["positive"],) if alone else (conds["positive"], conds["negative"])
            wanted, *unguided = self(x, sigma, *asked)
            if step in way.points:
                states = self.states(x, sigma, conds["positive"], blocks) if blocks else ()
                found.append(Point(x, sigma, wanted, states))
            seen = wanted
            for other in unguided:
                seen = other + (wanted - other) * way.guidance
            x = x + (x - seen) / sigma * (sigmas[step + 1] - sigma)
        return found

    def states(self, x: Tensor, sigma: Tensor, conds: list[dict], blocks: int) -> list[Tensor]:
        """What the model holds of noisy latents after so many of its blocks."""
        return hidden_states(self.model, blocks, lambda: self(x, sigma, conds))

    def errors(self, points: Sequence[Point], conds: list[dict]) -> list[Tensor]:
        """Mean squared errors of what an ordinary sampler steps by, (x - picture) / sigma.

        That is the predicted noise of models that predict noise, and the velocity of flow models.
        """
        return [self.error(point, conds)[0] for point in points]

    def error(self, point: Point, conds: list[dict]) -> tuple[Tensor, Tensor]:
        """The error at one point, and the picture that the model sees there."""
        (seen,) = self(point.x, point.sigma, conds)
        return ((seen.float() - point.wanted.float()) / point.sigma).square().mean(), seen

    def states_error(self, point: Point, conds: list[dict], blocks: int) -> Tensor:
        """The error at one point of what the model holds after so many of its blocks."""
        return states_error(self.states(point.x, point.sigma, conds, blocks), point.states)

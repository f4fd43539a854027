"""What a task's batches look like, as far as sources, caches and noise have to know."""

from __future__ import annotations

from dataclasses import dataclass

from lidit_core.model.config import LatentFormat
from lidit_core.model.shift import ShiftAt, interpolated_shift
from lidit_core.text.spec import LLMSpec

from .recipe import Cache


@dataclass(frozen=True)
class InputSpec:
    """Pictures, texts and noise levels that a task reads; it is known before anything is loaded."""

    latent: LatentFormat
    native_size: int  # side of the square that a stage without a resolution has, pixels
    patch: int  # latent pixels that the sides of latents are multiples of
    llms: tuple[LLMSpec, ...]  # by branch
    widths: tuple[int, ...]  # numbers in the states of one token, by branch
    prediction: str  # "flow", "eps" or "v"
    shift: float = 1.0  # of flow's times, where a stage has none of its own
    shifts: tuple[ShiftAt, ...] = ()  # the same at two sizes, in its place
    caches_states: bool = True  # whether captions' states are kept unless the recipe says otherwise
    characters: bool = False  # whether it is read which characters each token stands for

    @property
    def grain(self) -> int:
        """Pixels that the sides of pictures are multiples of."""
        return self.patch * self.latent.downsampling

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Channels, height and width of the latents of pictures of a width and height in pixels."""
        latent = self.latent
        return latent.channels, size[1] // latent.downsampling, size[0] // latent.downsampling

    def own_shift(self, width: int, height: int) -> float:
        """The shift of times for this width and height in pixels, where a stage has none."""
        if self.prediction != "flow":
            return 1.0
        return interpolated_shift(self.shifts, width, height) if self.shifts else self.shift

    def keeps_states(self, cache: Cache) -> bool:
        """Whether the LLMs' states of captions are kept in this cache."""
        return self.caches_states if cache.states is None else cache.states

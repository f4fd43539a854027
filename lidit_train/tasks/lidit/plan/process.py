"""What decides the memory and the operations of one training process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from lidit_core.model.config import LiDiTConfig
from lidit_core.paths import at_home

from ....data.vision.encoder import VisionEncoder
from ....loop.computing.eight_bits import bytes_in_eight_bits
from ....loop.computing.frozen import holds_half
from ....plan.autoencoder_size import AutoencoderSize, recipe_autoencoder
from ....plan.counting import Cost
from ....plan.hardware import Device
from ....plan.llm_size import LLMSize
from ....plan.vision_size import VisionSize, vision_size
from ....plan.workload import FLOAT32, StageLoad
from ....recipe import EIGHT_BITS, Recipe
from ..alignment import AlignmentHead
from ..input import input_spec
from ..start import checkpoint_path
from ..trained import Trained, Weights, on_meta
from .cost import alignment_cost, place_cost


@dataclass(frozen=True)
class Process:
    """All that decides the memory of a process."""

    recipe: Recipe
    config: LiDiTConfig
    trained: Trained
    weights: Weights
    loads: tuple[StageLoad, ...]
    device: Device
    llms: Mapping[int, LLMSize]

    @property
    def keeps_states(self) -> bool:
        """Whether the LLMs' states are cached, so that no LLM is held."""
        return input_spec(self.config).keeps_states(self.recipe.cache)

    @property
    def shards(self) -> int:
        """Processes that share weights, gradients, moments and averages."""
        return self.recipe.hardware.count if self.recipe.compute.shard else 1

    @property
    def mixed(self) -> bool:
        """Whether precision is mixed; a CPU does without."""
        return self.recipe.compute.precision == "bf16" and not self.device.is_cpu

    @property
    def holds_half(self) -> bool:
        """Whether what is frozen is held in bf16, but for matrices in 8 bits."""
        return holds_half(self.recipe.compute, self.mixed)

    @cached_property
    def eight(self) -> int:
        """Bytes of what is frozen where its matrices are held in 8 bits, 0 where they are not."""
        if self.recipe.compute.frozen not in EIGHT_BITS:
            return 0
        model = on_meta(self.config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.trained.weight(name))
        return bytes_in_eight_bits(model, self.mixed)

    @cached_property
    def autoencoder(self) -> AutoencoderSize:
        """The recipe's own, be it a folder or a file."""
        model = self.recipe.model
        beside = checkpoint_path(model) if model.checkpoint else None
        return recipe_autoencoder(model.vae, self.config.latent, beside, self.mixed)

    @cached_property
    def features(self) -> int:
        """Numbers in one of the features that the model is aligned with; 0 = it is with none."""
        recipe = self.recipe.alignment
        if recipe is None:
            return 0
        return VisionEncoder(at_home(recipe.encoder), input_spec(self.config).grain).width

    def alignment_cost(self, tokens: int) -> Cost:
        """What the map of a recipe with alignment takes for one picture."""
        recipe = self.recipe.alignment
        if recipe is None:
            return Cost()
        return alignment_cost(recipe, self.config.width, self.features, tokens, self.mixed)

    def place_cost(self, tokens: int) -> Cost:
        """What the map of a recipe with the loss of places takes for one picture."""
        recipe = self.recipe.place
        return place_cost(recipe, self.config.width, tokens, self.mixed) if recipe else Cost()

    def beside(self, tokens: int) -> int:
        """Bytes kept of a picture beside the model: maps' activations, the loss's weights."""
        weighed = any(s.mask or s.loss_weight != 1 for s in self.recipe.data.sources)
        kept = self.alignment_cost(tokens).saved + self.place_cost(tokens).saved
        return kept + FLOAT32 * tokens * self.config.patch**2 * weighed

    def vision(self, side: int) -> VisionSize | None:
        """The encoder of a recipe with alignment, for pictures of a side; None = there is none."""
        recipe = self.recipe.alignment
        if recipe is None:
            return None
        return vision_size(at_home(recipe.encoder), input_spec(self.config).grain, side)

    @property
    def aligned_weights(self) -> int:
        """Numbers in the map of alignment, which learns and is not in the file."""
        recipe = self.recipe.alignment
        if recipe is None:
            return 0
        with torch.device("meta"):
            aligned = AlignmentHead(recipe, self.config.width, self.features)
        return sum(p.numel() for p in aligned.parameters())

    @property
    def compute_bytes(self) -> int:
        return 2 if self.mixed else FLOAT32

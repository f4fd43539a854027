"""What the training loop differentiates: a model and its loss, whatever the task."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from .batch import Batch, DrawnPrompts


class Learner(nn.Module):
    """The loss of a batch; one module, so that several processes can share its gradients."""

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss (), and each sample's mean squared error on the objective's target, (B,).

        These are the same whatever the recipe's loss, so that runs compare.
        """

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The repeated parts: torch.compile takes one at a time, and shards are made of them."""

    @abstractmethod
    def draw(
        self,
        noise: Tensor,
        positive: DrawnPrompts,
        negative: DrawnPrompts,
        steps: int | None = None,
        guidance: float | None = None,
        mode: str = "",
    ) -> Tensor:
        """Sample normalised latents (B, C, h, w) from noise of that shape, for the validation.

        Args:
            steps: of the sampler; None = as many as the model's configuration says.
            guidance: the scale; None = the model's own.
            mode: of an adapter, "base" = without it; "" = the first that is trained.
        """

    def noted(self) -> dict[str, float]:
        """Numbers of the learner's own for the log; none unless a task has some."""
        return {}

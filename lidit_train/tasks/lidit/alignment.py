"""The loss of representation alignment, and the map that it trains beside the model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ...recipe import Alignment

EPSILON = 1e-6


class AlignmentHead(nn.Module):
    """Maps a block's image tokens, and compares them with an encoder's features.

    Args:
        width: of the model's tokens.
        features: numbers in one of the encoder's features.
    """

    def __init__(self, recipe: Alignment, width: int, features: int) -> None:
        super().__init__()
        self.recipe = recipe
        if recipe.spatial:
            self.map = nn.Conv2d(width, features, 3, padding=1)
        else:
            self.map = nn.Sequential(
                nn.Linear(width, recipe.hidden),
                nn.SiLU(),
                nn.Linear(recipe.hidden, recipe.hidden),
                nn.SiLU(),
                nn.Linear(recipe.hidden, features),
            )

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        """One minus the cosine of each token, (B, h, w).

        Args:
            tokens: (B, N, width) of a block, N = h w.
            features: (B, D, h, w) of the clean pictures.
        """
        features = features.float()
        if self.recipe.spatial:
            image = tokens.transpose(1, 2).unflatten(2, features.shape[2:])
            mapped, wanted = self.map(image).float(), spatially_normalised(features)
        else:
            mapped = self.map(tokens).float().transpose(1, 2).unflatten(2, features.shape[2:])
            wanted = features
        return 1 - F.cosine_similarity(mapped, wanted, dim=1)


def spatially_normalised(features: Tensor) -> Tensor:
    """Features (B, D, h, w) with mean 0 and deviation 1 over each picture.

    What all patches of a picture have in common is left out, so that what tells them apart counts.
    """
    mean = features.mean((2, 3), keepdim=True)
    return (features - mean) / (features.std((2, 3), keepdim=True) + EPSILON)

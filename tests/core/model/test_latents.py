"""Between an autoencoder's latents and the model's. Run: pytest tests/core/model/test_latents.py"""

from __future__ import annotations

import torch

from lidit_core.model.config import LatentFormat
from lidit_core.model.latents import normalise, with_colours_of


def test_colours_of_another_scale_of_the_same_latents_are_equal():
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> list:
        return torch.randn(*shape, generator=random).tolist()

    scales = [tuple(abs(s) + 0.1 for s in drawn(16)) for _ in range(2)]
    rows = tuple(tuple(row) for row in drawn(16, 3))
    theirs = LatentFormat("a", 16, 8, tuple(drawn(16)), scales[0], rows, tuple(drawn(3)))
    ours = LatentFormat("a", 16, 8, tuple(drawn(16)), scales[1])
    latents = torch.randn(16, 5, 4, generator=random)

    def shown(format: LatentFormat) -> torch.Tensor:
        factors, bias = torch.tensor(format.rgb_factors), torch.tensor(format.rgb_bias)
        return normalise(latents, format).movedim(0, -1) @ factors + bias

    assert torch.allclose(shown(with_colours_of(theirs, ours)), shown(theirs), atol=1e-4)

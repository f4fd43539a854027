"""The loss of what the text says of places, and the attention that it trains beside the model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lidit_core.model.text_side import TextContext

from ...recipe import Layout
from .places import places


class TextLayout(nn.Module):
    """Tells from the text's tokens where in the picture each class of content lies.

    A learnt query a class attends to the tokens that a block reads; a linear map of what it finds
    is the class's centre.

    Args:
        width: of the text's tokens.
        classes: of content.
    """

    def __init__(self, recipe: Layout, width: int, classes: int) -> None:
        super().__init__()
        self.recipe, self.width = recipe, width
        self.queries = nn.Parameter(torch.randn(classes, width) * 0.02)
        self.keys = nn.Linear(width, width, bias=False)
        self.map = nn.Linear(width, 2)

    def forward(self, text: TextContext, content: Tensor) -> Tensor:
        """The squared error of each sample, (B,), a mean over the classes that it shows.

        Args:
            content: (B, rows, columns), the class that each patch shows.
        """
        tokens = F.layer_norm(text.tokens.float(), (self.width,))  # (B, K, D)
        logits = self.queries @ self.keys(tokens).transpose(1, 2) / self.width**0.5
        if text.bias is not None:
            logits = logits + text.bias.squeeze(1)
        found = logits.softmax(-1) @ tokens  # (B, classes, D)
        centre, shown = centres(content, len(self.queries))
        apart = (self.map(found) - centre).square().sum(-1)
        return (apart * shown).sum(1) / shown.sum(1)


def centres(content: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Row and column of each class's centre, (B, classes, 2) in -1 to 1, and whether it is shown.

    Args:
        content: (B, rows, columns), the class that each patch shows.
    """
    where = F.one_hot(content.flatten(1), classes).float()  # (B, N, classes)
    count = where.sum(1)
    _, rows, columns = content.shape
    total = where.transpose(1, 2) @ places(rows, columns, content.device)
    return total / count.clamp(min=1).unsqueeze(-1), (count > 0).float()

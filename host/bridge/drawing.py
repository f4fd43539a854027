"""A bridge and the model that draws with what it wrote, compared as the sampler begins.

The model need not be connected to the bridge's node. Rows of another width end in an error of
PyTorch's about shapes, and another text encoder's of the same width in another picture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import comfy.model_base
from comfy import model_management

from .files import Loaded
from .model_reads import check_drawing


class ForBridge(dict):
    """The conditions of an entry beside its model's own: none.

    As a sampler begins, the host copies them once its model has made its own of the entry. Copies
    and files of the entry that go another way hold no more than that there are none.
    """

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.loaded = loaded

    def copy(self) -> dict:
        """Copy them, and compare the model.

        Raises:
            LiDiTError: it reads other rows than the bridge writes, or another pooled vector.
        """
        drawing = list(drawing_models())
        if len(drawing) == 1:  # of a guider's two it is not known which one reads this
            check_drawing(self.loaded, drawing[0])
        return dict(self)

    def __reduce__(self):
        return OrderedDict, ()


def drawing_models() -> Iterator[Any]:
    """The MODELs that a sampler of the host draws with at this moment."""
    for held in model_management.current_loaded_models:
        model = getattr(held.model, "model", None)
        patcher = getattr(model, "current_patcher", None)  # None where no sampler runs
        if patcher is not None and isinstance(model, comfy.model_base.BaseModel):
            yield patcher

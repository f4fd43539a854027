"""Weights by the names that nodes look for in models of other kinds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import comfy.model_patcher
from torch import Tensor

OTHER_NAMES = "lidit_other_names"  # on a model: where its weights are by such names
WeightSlice = tuple[int, int, int]  # of a weight: the dimension, where it begins, how long it is
WeightPlace = tuple[str, WeightSlice | None]  # a weight by its own name, and which part of it

_Patcher = comfy.model_patcher.ModelPatcher if TYPE_CHECKING else object  # any of the host's kinds


class NamedWeights(_Patcher):
    """A patcher whose weights also have the names that nodes look for in models of other kinds.

    Such a node patches the weights whose names it knows, and where it finds none it does nothing
    and says nothing. Who asks for the weights themselves, as merges and files do, gets each once.
    """

    reading = False  # whether those are asked for

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, Tensor]:
        found = super().model_state_dict(filter_prefix)
        if self.reading or filter_prefix is not None:
            return found
        others = {name: _part(found[own], part) for name, (own, part) in self._others.items()}
        return {**found, **others}

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, Any]:
        self.reading = True
        try:
            return super().get_key_patches(filter_prefix)
        finally:
            self.reading = False

    def add_patches(self, patches: Any, *args: Any, **kwargs: Any) -> Any:
        return super().add_patches(self.by_own_names(patches), *args, **kwargs)

    def by_own_names(self, patches: Mapping[Any, Any]) -> dict[Any, Any]:
        """The same patches, those of other names at the weights or parts that have them."""
        return {self._own_name(key): patch for key, patch in patches.items()}

    def _own_name(self, key: Any) -> Any:
        own, part = self._others.get(key, (key, None))
        return own if part is None else (own, part)

    @property
    def _others(self) -> Mapping[str, WeightPlace]:
        return getattr(self.model, OTHER_NAMES, {})


def _part(weight: Tensor, part: WeightSlice | None) -> Tensor:
    return weight if part is None else weight.narrow(*part)


@cache
def _named(kind: type) -> type:
    return type(kind.__name__, (NamedWeights, kind), {})


def name_weights(
    patcher: comfy.model_patcher.ModelPatcher, places: Mapping[str, WeightPlace]
) -> None:
    """Let a patcher and its clones know weights by further names.

    Args:
        places: by such a name.
    """
    object.__setattr__(patcher.model, OTHER_NAMES, places)
    if not isinstance(patcher, NamedWeights):
        patcher.__class__ = _named(type(patcher))

"""A training recipe: one YAML file that says everything a run needs to be repeated."""

from .bridging import Bridge
from .fields import (
    OPTIMISERS,
    PRECISIONS,
    Adapter,
    Cache,
    Compute,
    Content,
    Contrast,
    Hardware,
    Lora,
    Model,
    Optimiser,
    Recipe,
    Stage,
    Subset,
    Validation,
)
from .keeping import WEIGHTS, Checkpoints, Log
from .sources import KINDS, LANGUAGES, Buckets, Data, Source

__all__ = [
    "Adapter",
    "Bridge",
    "Buckets",
    "Cache",
    "Checkpoints",
    "Compute",
    "Content",
    "Contrast",
    "Data",
    "Hardware",
    "KINDS",
    "LANGUAGES",
    "Log",
    "Lora",
    "Model",
    "OPTIMISERS",
    "Optimiser",
    "PRECISIONS",
    "Recipe",
    "Source",
    "Stage",
    "Subset",
    "Validation",
    "WEIGHTS",
]

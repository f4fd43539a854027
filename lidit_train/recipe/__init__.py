"""A training recipe: one YAML file that says everything a run needs to be repeated."""

from .alignment import Alignment
from .fields import (
    KINDS,
    LANGUAGES,
    PRECISIONS,
    Adapter,
    Buckets,
    Cache,
    Compute,
    Content,
    Contrast,
    Data,
    Hardware,
    Log,
    Lora,
    Model,
    Recipe,
    Source,
    Stage,
    Subset,
    Validation,
)
from .keeping import WEIGHTS, Checkpoints
from .optimiser import OPTIMISERS, Optimiser
from .routing import Routing

__all__ = [
    "Adapter",
    "Alignment",
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
    "Routing",
    "Source",
    "Stage",
    "Subset",
    "Validation",
    "WEIGHTS",
]

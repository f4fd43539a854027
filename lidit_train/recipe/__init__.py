"""A training recipe: one YAML file that says everything a run needs to be repeated."""

from .alignment import Alignment
from .bridging import BridgeOptions, Through
from .fields import (
    EIGHT_BITS,
    LORA_KINDS,
    PRECISIONS,
    Adapter,
    Cache,
    Compute,
    Content,
    Contrast,
    Hardware,
    Lora,
    Model,
    Place,
    Recipe,
    Stage,
    Subset,
)
from .keeping import WEIGHTS, Checkpoints, Log
from .loss import DELTA_SCHEDULES, ERRORS, SQUARED, WEIGHTINGS, Loss
from .optimiser import OPTIMISERS, SCHEDULES, Optimiser
from .routing import Routing
from .sources import KINDS, LANGUAGES, Buckets, Data, Source
from .validation import BASE_ALONE, Prompt, Validation

__all__ = [
    "Adapter",
    "Alignment",
    "BASE_ALONE",
    "BridgeOptions",
    "Buckets",
    "Cache",
    "Checkpoints",
    "Compute",
    "Content",
    "Contrast",
    "Place",
    "Data",
    "DELTA_SCHEDULES",
    "EIGHT_BITS",
    "ERRORS",
    "Hardware",
    "KINDS",
    "LANGUAGES",
    "Log",
    "Lora",
    "LORA_KINDS",
    "Loss",
    "Model",
    "Optimiser",
    "OPTIMISERS",
    "PRECISIONS",
    "Prompt",
    "Recipe",
    "Routing",
    "SCHEDULES",
    "Source",
    "SQUARED",
    "Stage",
    "Subset",
    "Through",
    "Validation",
    "WEIGHTINGS",
    "WEIGHTS",
]

"""What is drawn and measured as training goes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Validation:
    """The same prompts from the same noise, drawn with the averaged weights as training goes on."""

    every: int = 1000  # steps; 0 = never
    prompts: tuple[str, ...] = ()
    branches: tuple[int, ...] = ()  # that read them; () = all
    steps: int = 0  # of sampling; 0 = the model's
    guidance: float = 0.0  # 0 = the model's
    seed: int = 0

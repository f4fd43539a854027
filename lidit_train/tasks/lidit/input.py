"""What a LI-DiT reads in training."""

from __future__ import annotations

from lidit_core.model.config import LiDiTConfig

from ...input_spec import InputSpec


def input_spec(config: LiDiTConfig) -> InputSpec:
    """What a LI-DiT of this configuration reads."""
    return InputSpec(
        latent=config.latent,
        native_size=config.native_size,
        patch=config.patch,
        llms=config.llms,
        widths=tuple(llm.state_width for llm in config.llms),
        prediction=config.prediction,
        shift=config.shift,
        shifts=config.shifts,
    )

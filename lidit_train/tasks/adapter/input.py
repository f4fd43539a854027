"""What an adapter reads in training."""

from __future__ import annotations

from ...input_spec import InputSpec
from .target import AdapterTarget


def input_spec(target: AdapterTarget) -> InputSpec:
    """What is read for an adapter of this U-Net: pictures as the U-Net does, states of all blocks.

    The noise of a batch is drawn alike for eps and v, so eps stands where neither is told.
    """
    return InputSpec(
        latent=target.latent,
        native_size=target.native_size,
        patch=target.patch,
        llms=(target.adapter.llm,),
        widths=(target.adapter.states_width,),
        prediction=target.asked or "eps",
        caches_states=False,  # every block of every caption would be kept
    )

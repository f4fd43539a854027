"""The bridge that a run on pictures begins with where it goes on from none.

It adds to the checkpoint's own encoder, and adds nothing yet: what is standard, which rows never
vary and the principal components of the table are those of the encoder's recording, as a run from
recordings would begin with.
"""

from __future__ import annotations

from collections.abc import Sequence

from lidit_core.bridge.config import BridgeConfig
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.recorded import RecordedPrompts
from lidit_core.text.states import LLMStates

from ....recipe import BridgeOptions
from ..batches import ReadPrompts
from ..start import begin_bridge, whiten_refiners


def begin_adding(
    config: BridgeConfig,
    recorded: RecordedPrompts,
    options: BridgeOptions,
    seed: int,
    states: Sequence[LLMStates],
) -> Bridge:
    """A bridge that adds nothing yet to the encoder of a recording.

    Args:
        states: of some captions, by each LLM, with which the refiners' maps are whitened; () = they
            are as they were drawn.
    """
    learnt = recorded.split(options.held_out, seed)
    bridge = begin_bridge(ReadPrompts(config, recorded, {}, *learnt), seed, whitened=False)
    whiten_refiners(bridge, states)
    return bridge

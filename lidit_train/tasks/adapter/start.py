"""The U-Net, its own text encoders and the adapter that a run begins with."""

from __future__ import annotations

from pathlib import Path

import torch

from lidit_core.errors import LiDiTError, check
from lidit_core.llmdiff.adapter import LLMDiffAdapter
from lidit_core.llmdiff.config import AdapterConfig
from lidit_core.llmdiff.file import load_adapter, read_adapter_config
from lidit_core.text.states import LLMStates
from lidit_core.unet.families import cross_attention_layers

from ...recipe import BASE_ALONE, SQUARED, Adapter, Loss, Recipe, Validation
from ..whitening import whiten
from .base_text import BaseText, base_text
from .learner import AdapterLearner
from .target import AdapterTarget
from .unet import read_unet, tell_schedule

SAME = (  # of an adapter's configuration and of the one that it begins with
    "form",
    "modes",
    "refiner",
    "timestep_gates",
    "blocks",
    "layers",
    "context_width",
    "pooled_width",
)
SAME_LLM = ("name", "width", "template")
ADAPTER_SAMPLE = 256  # captions that the maps from tokens are whitened with


def begin_adapter(
    recipe: Recipe, target: AdapterTarget, states: LLMStates | None = None
) -> AdapterLearner:
    """Open the base's U-Net, with the adapter in it that a run begins with.

    Args:
        states: of some captions, from which the added projections start; None = at random.
    """
    options = recipe.adapter
    assert options is not None  # `make_task` has seen to it
    torch.manual_seed(recipe.seed)
    adapter = LLMDiffAdapter(target.adapter).initialise()
    checkpointing = recipe.compute.checkpointing
    own = (
        base_text(target, options.text_encoders)
        if reads_own_text(options, recipe.validation)
        else None
    )
    learner = learner_of(target, adapter, own, checkpointing, recipe.loss, options.noise)
    if options.start:
        adapter.load_state_dict(load_adapter(options.start).state_dict())
        return learner
    with torch.no_grad():
        for layer, own in zip(adapter.layers, learner.adapted()):
            layer.q.weight.copy_(own.to_q.weight)
    if states is not None and not target.adapter.refiner:
        _whiten(adapter, states)
    return learner


def check_start(options: Adapter, wanted: AdapterConfig) -> None:
    """Refuse an adapter to begin with whose weights are for another adapter than the wanted one.

    Raises:
        LiDiTError: there is no such file, it is no adapter, or it is another kind of one.
    """
    path = options.start
    if not path:
        return
    if not Path(path).is_file():
        raise LiDiTError(
            f"adapter.start={path} is no file that is there; expected an adapter's file, as a "
            "training of one writes it, or nothing, to begin afresh"
        )
    had = read_adapter_config(path)
    pairs = [
        (f"the LLM's {name}", getattr(had.llm, name), getattr(wanted.llm, name))
        for name in SAME_LLM
    ]
    pairs += [(name, getattr(had, name), getattr(wanted, name)) for name in SAME]
    for name, found, asked in pairs:
        check(
            found == asked,
            f"adapter.start={path} is of another adapter than the recipe's: {name} is {found} in "
            f"it and {asked} in the recipe; begin with one that has the same, or leave it out",
        )


def reads_own_text(options: Adapter, validation: Validation) -> bool:
    """Whether the base's text encoders are needed: to learn in mode add, or to draw the base."""
    return "add" in options.modes or BASE_ALONE in validation.modes


def learner_of(
    target: AdapterTarget,
    adapter: LLMDiffAdapter,
    own: BaseText | None = None,
    checkpointing: bool = False,
    loss: Loss = SQUARED,
    noisy: bool = True,
) -> AdapterLearner:
    """The base's U-Net with an adapter in it.

    Args:
        noisy: whether the Langevin noise is added in training.
        own: the base's text encoders; None = they are read where the adapter's modes need them.
    """
    base = read_unet(target.base, target.asked)
    tell_schedule(base, "the adapter")
    names = [layer.diffusers for layer in cross_attention_layers(target.shape)]
    if own is None and "add" in adapter.config.modes:
        own = base_text(target, "")
    pooled = bool(target.adapter.pooled_width)
    return AdapterLearner(
        base.unet, adapter, names, base.prediction, own, pooled, checkpointing, loss, noisy
    )


@torch.no_grad()
def _whiten(adapter: LLMDiffAdapter, states: LLMStates) -> None:
    """Every map from c begins with outputs that vary alike (see lidit_train.tasks.whitening)."""
    text = adapter.read(states, torch.zeros(len(states)))
    tokens = text.tokens[text.seen]
    maps = [m for layer in adapter.layers for m in (layer.k, layer.v)]
    for layer in (*maps, *([adapter.to_context] if "replace" in adapter.config.modes else ())):
        whiten(layer, tokens)

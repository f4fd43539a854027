"""Reads the branches of one model out of a prompt's CONDITIONING."""

from __future__ import annotations

from dataclasses import replace

from ...lidit_core.errors import LiDiTError
from ...lidit_core.llm.blocks import shown_block
from ...lidit_core.model.config import LiDiTConfig, RefinerConfig
from ...lidit_core.model.prompt_text import BranchText, PromptText
from ...lidit_core.model.refiners import BranchOptions
from ...lidit_core.model.text_side import TextOptions
from ...lidit_core.text.spec import LLMSpec, place_of
from ..keys import reading_of
from ..node_notes import note
from ..prompt_lengths import tell_length
from .conds import ModelText


def model_text(
    text: PromptText, config: LiDiTConfig, kind: str = "", patched: bool = False
) -> ModelText:
    """Every LLM's states at the branch that reads them.

    A prompt that is longer than the branch was trained on is told on the node.

    Args:
        kind, patched: see `tell_length`.

    Raises:
        LiDiTError: two LLMs for one branch, an LLM that no branch was trained on, or states of a
            width that the branch does not take.
    """
    states, options = {}, {}
    for read in text.branches:
        branch = branch_of(read, config)
        if branch in states:
            raise LiDiTError(
                f"two conditionings are for the model's branch {config.llms[branch].name}; give "
                "each branch one, or combine them with ConditioningCombine"
            )
        if read.options.weight:
            tell_length(config.llms[branch], read.used, kind, patched)
        states[branch], options[branch] = read.states, _told(read.options, config.refiner)
    counted = [branch for branch, how in options.items() if how.weight]
    if len(counted) == 1:  # its weight is idle, and would keep prompts out of one batch
        options[counted[0]] = replace(options[counted[0]], weight=1.0)
    fusion = None if text.fusion == config.refiner.fusion else text.fusion
    return ModelText(states, TextOptions(options, fusion))


def _told(options: BranchOptions, config: RefinerConfig) -> BranchOptions:
    """The options, less those that repeat the configuration, so that equal uses make one batch."""
    full, gated = options.full_attention, options.gated
    return replace(
        options,
        full_attention=None if full == config.full_attention else full,
        gated=None if gated == config.gated else gated,
    )


def branch_of(read: BranchText, config: LiDiTConfig) -> int:
    """The branch for an LLM: the one asked for, or the one trained on its name or weights."""
    names = [spec.name for spec in config.llms]
    branch = read.branch
    if branch is None:
        branch = place_of(config.llms, read.llm, read.fingerprint)
    if branch is None:
        branch = _only(read, config)
    if not 0 <= branch < len(names):
        raise LiDiTError(
            f"branch {branch + 1} was asked for, and this model has {len(names)} "
            f"({', '.join(names)}); choose one of them"
        )
    spec = config.llms[branch]
    if read.states.width != spec.state_width:
        raise LiDiTError(
            f"the states of {read.llm} are {read.states.width} wide, and this model's branch was "
            f"trained on {spec.name}, {spec.state_width} wide{_layers(spec)}; load that LLM, or a "
            "refiner for yours"
        )
    if read.llm != spec.name and not spec.is_read_by(read.fingerprint):
        note(f"{read.llm} is read by the branch that was trained on {spec.name}")
    if told := spec.weights_note(read.llm, read.fingerprint):
        note(told)
    if read.reading not in ("", reading_of(spec.block, spec.template)):
        note(
            "the prompt was read with another template or layer than this model was trained on; "
            f"for {spec.name} choose template {spec.template.name!r} and layer "
            f"{shown_block(spec.block)} in the LLM loader"
        )
    if read.used > spec.token_budget:
        note(
            f"{read.used} tokens of the prompt are read, and this model was trained with at most "
            f"{spec.token_budget}; for {spec.name} set the LLM loader's token budget to "
            f"{spec.token_budget}"
        )
    return branch


def _layers(spec: LLMSpec) -> str:
    """What a width says of several layers, and where to choose them."""
    layers = shown_block(spec.block)
    return f": layer {layers} in the LLM loader" if spec.taps > 1 else ""


def _only(read: BranchText, config: LiDiTConfig) -> int:
    if len(config.llms) == 1:
        return 0
    raise LiDiTError(
        f"this model was trained on {' and '.join(spec.name for spec in config.llms)}, not on "
        f"{read.llm}; load one of those, or choose its branch in LI-DiT Prompt Refiner"
    )
